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

from node.imaging.values import Outcome, Refusal, Segmentation, Verdict, Volume
from node.models.fit import refusal_of
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel
from node.models.region import Region
from node.models.verdict import joined
from node.reasons import Reason


def segment_in_stages(
    volume: Volume, model: LoadedModel, *, progress: Callable[[float], None] = lambda _: None
) -> Segmentation | Refusal:
    """Segment a volume by a model and, before it, by the models that its card names.

    Args:
        volume: A volume that `fit.refusal_of` does not refuse for this model.
        model: Loaded with the model of its stage.
        progress: Called with the share 0..1 of all networks' work that is done.

    Returns:
        The last model's segmentation, or a refusal: a model before it does not take the volume,
        rejects its own result or finds nothing.
    """
    first, stage = model.first, model.card.stage
    if first is None or stage is None:
        torch.set_num_threads(model.threads)  # a model that ran before may have had another number
        return segment_volume(volume, model, progress=progress)
    if refusal := refusal_of(volume, first.card):
        return refusal
    before = segment_in_stages(volume, first, progress=lambda share: progress(share / 2))
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
    torch.set_num_threads(model.threads)
    found = segment_volume(
        volume,
        model,
        region=Region(mask, stage),
        progress=lambda share: progress(0.5 + share / 2),
    )
    return replace(
        found,
        verdict=_with(found.verdict, before.verdict, name),
        runtime={**found.runtime, **_facts(before)},
        seconds={**found.seconds, "stage": before.seconds["total"]},
    )


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
