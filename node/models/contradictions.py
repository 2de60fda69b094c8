"""What is right in each table of a card and wrong between two of them.

Asked only of cards whose tables have no mistake in themselves, so that every sentence here is
about what the tables say of each other. Nothing is run and no file is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.models.frame_parts import frame_mistakes, pixel_mistakes
from node.models.parts import (
    KINDS,
    REMOVING,
    Instances,
    RestrictTo,
    SplitSides,
    ZScore,
    labels_used,
)
from node.strict_toml import Mistakes

if TYPE_CHECKING:
    from node.models.card import Card


def note_contradictions(card: Card, mistakes: Mistakes) -> None:
    """Note what is right in each table of a card and wrong between two of them."""
    _check_tables(card, mistakes)
    _check_test_case(card, mistakes)


def _check_tables(card: Card, mistakes: Mistakes) -> None:
    _check_spline(card, mistakes)
    if not card.accepts:
        mistakes.note(0, 'accepts: must hold at least one condition, such as Modality = "CT"')
    if "research use" not in card.intended_use.lower() and card.research:
        mistakes.note(
            0, 'intended_use: must say "research use" unless the site sets research = false'
        )
    _check_frames(card, mistakes)
    _check_channels(card, mistakes)
    if card.kind == "classification":
        _check_findings(card, mistakes)
        return
    if card.findings:
        mistakes.note(0, 'findings: belong to cards of kind = "classification"')
    _check_outputs(card, mistakes)


def _check_frames(card: Card, mistakes: Mistakes) -> None:
    """Note what a model of single frames cannot have, and what no other can."""
    if card.frames is None:
        for mistake in pixel_mistakes(card.postprocess, card.quality):
            mistakes.note(0, mistake)
        return
    for mistake in frame_mistakes(card.postprocess, card.quality, card.head, card.stage):
        mistakes.note(0, mistake)
    if card.kind != KINDS[0]:
        mistakes.note(0, f'kind: frames are segmented, a card of kind = "{card.kind}" is not')
    if card.channels:
        mistakes.note(0, "channels: frames come from one image")


def _check_channels(card: Card, mistakes: Mistakes) -> None:
    """Note input channels that series and neighbours do not give."""
    if card.channels and card.voxels.downsample == "spline":
        mistakes.note(0, 'channels: downsample = "spline" prepares one series only')
    series = 1 + len(card.channels)
    wanted = series * (2 * card.inference.neighbours + 1)
    if card.network.channels != wanted:
        of_series = f"{series} series x " if card.channels else ""
        mistakes.note(
            0,
            f"network.channels: must be {of_series}2 x inference.neighbours + 1 = {wanted}, "
            f"is {card.network.channels}",
        )


def _check_outputs(card: Card, mistakes: Mistakes) -> None:
    """Note a number of outputs that the head cannot have, and follow their labels."""
    if card.head.kind == "regions" and card.network.outputs != len(card.head.order):
        mistakes.note(
            0,
            f"network.outputs: head.order names {len(card.head.order)} regions, "
            f"is {card.network.outputs}",
        )
        return
    least = 2 if card.head.kind == "classes" else 1
    single = card.head.kind in ("probability", "occupancy")
    if card.network.outputs < least or (single and card.network.outputs != 1):
        mistakes.note(
            0,
            f'network.outputs: a head of kind "{card.head.kind}" has '
            f"{'1 output' if single else 'at least 2, background included'}, "
            f"is {card.network.outputs}",
        )
        return
    _check_labels(card, mistakes)


def _check_findings(card: Card, mistakes: Mistakes) -> None:
    """Note what a classification cannot have, and outputs without a finding."""
    if card.segments or card.postprocess:
        mistakes.note(0, "a classification has findings, no segments and no postprocess")
    if card.network.outputs != len(card.findings):
        mistakes.note(
            0,
            f"network.outputs: a classification has one output per finding, "
            f"{len(card.findings)}, is {card.network.outputs}",
        )
    quality = card.quality
    if quality.segments or quality.ratios or quality.agreement or quality.features:
        mistakes.note(0, "quality: a classification has limits on its input alone")


def _check_spline(card: Card, mistakes: Mistakes) -> None:
    """Note what only a volume that is prepared as a whole can have."""
    if card.voxels.downsample == "spline":
        if card.voxels.size is not None:
            mistakes.note(0, 'voxels.size: with downsample = "spline" the whole volume is seen')
        if card.inference.mode != "window":
            mistakes.note(0, 'inference.mode: with downsample = "spline" it must be "window"')
        if card.head.kind == "occupancy":
            mistakes.note(0, 'head.kind: fractions need downsample = "area" or "linear"')
        return
    if card.voxels.crop != "none":
        mistakes.note(0, 'voxels.crop: "nonzero" needs downsample = "spline"')
    if any(isinstance(step, ZScore) and step.within != "image" for step in card.steps):
        mistakes.note(0, 'steps: zscore within "nonzero" needs voxels.downsample = "spline"')


def _check_test_case(card: Card, mistakes: Mistakes) -> None:
    if card.test_case is not None and (
        card.inference.mode == "frames"
        or card.kind != KINDS[0]
        or card.head.kind not in ("classes", "probability", "regions")
    ):
        mistakes.note(
            0, "test_case: runtimes are compared by labels of volumes; this model gives none"
        )


def _check_labels(card: Card, mistakes: Mistakes) -> None:
    """Follow the label values from the head to the segments."""
    heads = {"classes": card.network.outputs - 1, "regions": card.network.outputs}.get(
        card.head.kind, 1
    )
    labels = set(range(1, heads + 1))
    for place, step in enumerate(card.postprocess, start=1):
        for label in sorted(labels_used(step) - labels):
            mistakes.note(0, f"postprocess[{place}]: there is no label {label} at this step")
        if card.head.kind == "occupancy" and not isinstance(step, REMOVING):
            mistakes.note(
                0,
                f"postprocess[{place}]: a step on fractions can only take pieces away; holes, "
                "closing and sides would give labels to voxels that hold no tissue",
            )
        if isinstance(step, SplitSides):
            labels = (labels - {step.label}) | {step.right, step.left}
        if isinstance(step, RestrictTo) and card.stage is None:
            mistakes.note(0, f"postprocess[{place}]: restrict_to needs a [stage] to restrict to")
    _check_instances(card, mistakes)
    _check_agreement(card, mistakes)
    numbers = {segment.number for segment in card.segments}
    if numbers != labels:
        mistakes.note(
            0,
            f"segments: the network and post-processing give the labels {sorted(labels)}, "
            f"the segments are numbered {sorted(numbers)}",
        )
    limited = {limits.number for limits in card.quality.segments}
    limited |= {number for ratio in card.quality.ratios for number in (ratio.of, ratio.to)}
    for number in sorted(limited - numbers):
        mistakes.note(0, f"quality: there is no segment {number}")


def _check_agreement(card: Card, mistakes: Mistakes) -> None:
    """Note which mirrored passes cannot be compared."""
    agreement = card.quality.agreement
    known = card.inference.mirrored
    if agreement and known is not None and set(agreement.mirrors) - set(known):
        mistakes.note(
            0,
            f"quality.agreement.mirrors: the network was trained with the mirrors {list(known)}; "
            "it knows no others",
        )
    if agreement and card.voxels.tilt == "resample":
        mistakes.note(
            0, "quality.agreement: a stack that is straightened has no mirror image; leave one out"
        )
    if agreement and set(agreement.mirrors) & set(card.inference.mirrors):
        mistakes.note(
            0,
            "quality.agreement.mirrors: passes that inference.mirrors averages always agree; "
            "take another axis",
        )


def _check_instances(card: Card, mistakes: Mistakes) -> None:
    """Note what keeps pieces of a label from becoming segments."""
    steps = [step for step in card.postprocess if isinstance(step, Instances)]
    if tuple(steps) != card.postprocess[len(card.postprocess) - len(steps) :]:
        mistakes.note(0, "postprocess: instances must be the last steps")
    split = [step.label for step in steps]
    if len(set(split)) != len(split):
        mistakes.note(0, "postprocess: a label can be split into instances once")
    if len(card.segments) - len(steps) + sum(step.at_most for step in steps) > 255:
        mistakes.note(0, "postprocess: instances and segments together may be at most 255")
    for segment in card.segments:
        if segment.number in split and len(segment.label) > 60:
            mistakes.note(0, f"segments: '{segment.label}' has no room for a number of instances")
