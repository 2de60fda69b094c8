"""A model and the model before it: the mask of the first limits the second.

The first runs like any other model, on the whole volume. If its own verdict is reject, or its mask
is empty, the second does not run: a refusal says so, because a nodule search in a wrong lung is
worse than none. Runtime facts of both stand in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from node.imaging.values import (
    Answer,
    Classification,
    Outcome,
    Refusal,
    Segmentation,
    Verdict,
    Volume,
)
from node.models.classify import classify_volume
from node.models.fit import refusal_of
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel
from node.models.region import Region
from node.models.verdict import joined
from node.reasons import Reason


def run_in_stages(
    volume: Volume, model: LoadedModel, *, progress: Callable[[float], None] = lambda _: None
) -> Answer | Refusal:
    """Run a model of either kind on a volume and, before it, the models that its card names.

    Args:
        volume: A volume that `fit.refusal_of` does not refuse for this model.
        model: Loaded with the model of its stage.
        progress: Called with the share 0..1 of all networks' work that is done.

    Returns:
        The last model's answer, or a refusal: a model before it does not take the volume,
        rejects its own result or finds nothing.
    """
    first, stage = model.first, model.card.stage
    if first is None or stage is None:
        return _run(volume, model, None, progress)
    alone = replace(volume, others=())  # the model before sees the first series only
    if refusal := refusal_of(alone, first.card):
        return refusal
    before = segment_in_stages(alone, first, progress=lambda share: progress(share / 2))
    if isinstance(before, Refusal):
        return before
    name = f"{first.card.name} {first.card.version}"
    if before.verdict.outcome is Outcome.REJECT:
        return _refusal(
            volume,
            Reason.STAGE_REJECTED,
            f"{model.card.name} did not run, because {name} rejects its own result: "
            f"{' '.join(before.verdict.reasons)}",
        )
    mask = np.isin(before.labels, stage.labels)
    if not mask.any():
        return _refusal(
            volume,
            Reason.STAGE_EMPTY,
            f"{model.card.name} did not run, because {name} found nothing to which it could be "
            "limited.",
        )
    found = _run(volume, model, Region(mask, stage), lambda share: progress(0.5 + share / 2))
    return replace(
        found,
        verdict=_with(found.verdict, before.verdict, name),
        runtime={**found.runtime, **_facts(before)},
        seconds={**found.seconds, "stage": before.seconds["total"]},
    )


def segment_in_stages(
    volume: Volume, model: LoadedModel, *, progress: Callable[[float], None] = lambda _: None
) -> Segmentation | Refusal:
    """As `run_in_stages`, for a model whose card is a segmentation."""
    found = run_in_stages(volume, model, progress=progress)
    if isinstance(found, Classification):
        raise TypeError(f"{model.card.name} is no segmentation")
    return found


def _run(
    volume: Volume,
    model: LoadedModel,
    region: Region | None,
    progress: Callable[[float], None],
) -> Answer:
    torch.set_num_threads(model.threads)  # a model that ran before may have had another number
    if model.card.kind == "classification":
        return classify_volume(volume, model, region=region, progress=progress)
    return segment_volume(volume, model, region=region, progress=progress)


def _with(own: Verdict, before: Verdict, name: str) -> Verdict:
    """Return the verdict with what the model before asks a person to look at."""
    if before.outcome is Outcome.ACCEPT:
        return own
    return joined(own, [(before.outcome, f"{name}: {reason}") for reason in before.reasons])


def _facts(before: Segmentation) -> dict[str, str]:
    model = before.model
    named = {
        "model": f"{model.name} {model.version}",
        "weights": model.digest,
        "settings": model.settings_digest,
    }
    return {f"stage {key}": value for key, value in {**named, **before.runtime}.items()}


def _refusal(volume: Volume, reason: Reason, explanation: str) -> Refusal:
    return Refusal(reason, explanation, volume.series_uid, volume.modality, volume.part)
