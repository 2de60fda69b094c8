"""Whether a volume is one that a card can take; routing has already looked at the headers."""

from __future__ import annotations

from typing import cast

from node.imaging.tilt import shear_of
from node.imaging.values import Refusal, Volume
from node.models.card import Card
from node.reasons import Reason

_Shape = tuple[int, int, int]


def refusal_of(volume: Volume, card: Card) -> Refusal | None:
    """Return why the model does not take this volume, or None if it does."""
    if card.frames is not None:
        return _refusal(
            volume,
            Reason.NOT_FRAMES,
            f"{card.name} works on frames; these are slices of a volume.",
        )
    slices = volume.array.shape[0]
    if slices < card.min_slices:
        return _refusal(
            volume,
            Reason.TOO_FEW_SLICES,
            f"The volume has {slices} slices, {card.name} wants at least {card.min_slices}.",
        )
    if card.voxels.tilt != "resample" and shear_of(volume.affine, cast(_Shape, volume.array.shape)):
        return _refusal(
            volume, Reason.GANTRY_TILT, f"The stack is sheared, and {card.name} does not allow it."
        )
    if card.voxels.units == "SUVbw" and volume.suv is not None:
        return _refusal(volume, volume.suv.reason, volume.suv.explanation)
    if volume.units != card.voxels.units:
        return _refusal(
            volume,
            Reason.NOT_ACCEPTED,
            f"The volume is in {volume.units or 'no unit'}, {card.name} wants {card.voxels.units}.",
        )
    for channel, other in zip(card.channels, volume.others, strict=True):
        if channel.units == "SUVbw" and other.suv is not None:
            return _refusal(other, other.suv.reason, other.suv.explanation)
        if other.units != channel.units:
            return _refusal(
                other,
                Reason.NOT_ACCEPTED,
                f"The volume is in {other.units or 'no unit'}, the channel {channel.name} of "
                f"{card.name} wants {channel.units}.",
            )
    return None


def _refusal(volume: Volume, reason: Reason, explanation: str) -> Refusal:
    return Refusal(
        reason=reason,
        explanation=explanation,
        series_uid=volume.series_uid,
        modality=volume.modality,
        part=volume.part,
    )
