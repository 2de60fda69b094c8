"""Score cases through the node's own pipeline, and the baselines that a model must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.errors import setup_error
from node.imaging.values import VOLUME, Frames
from node.models.card import Card
from node.models.frame_scale import refusal_of_frames
from node.models.frames import segment_frames
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel
from node.training.cases import Case
from node.training.figures import CaseFigures, dice_or_none
from node.training.view import normalised, view_of

_THRESHOLDS: Final = 24
_PRIOR_LEVELS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def score_cases(
    model: LoadedModel,
    cases: Sequence[Case],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[CaseFigures, ...]:
    """Return the figures of cases as the node would segment them.

    Args:
        model: The model, with its card's post-processing.
        cases: Cases with references.
        progress: Called with the share that is done.
    """
    numbers = patient_numbers(cases)
    found = []
    for done, case in enumerate(cases, start=1):
        if isinstance(case.image, Frames):
            _refuse_unknown_scale(case.image, model, case.name)
            said = segment_frames(case.image, model)
        else:
            said = segment_volume(case.image, model)
        measured = {m.segment: m.value for m in said.measurements if m.name == VOLUME}
        volumes = [measured[one.number] for one in model.card.segments] if measured else None
        found.append(
            figures_of(case, said.labels, len(model.card.segments), numbers[case.patient], volumes)
        )
        progress(done / len(cases))
    return tuple(found)


def _refuse_unknown_scale(frames: Frames, model: LoadedModel, where: str) -> None:
    """Refuse pictures for a card with steps in millimetres: they do not say how large they are.

    Raises:
        SetupError: The card has such a step.
    """
    refused = refusal_of_frames(frames.plan, model.card)
    if refused is not None:
        raise setup_error(
            str(refused.reason),
            refused.explanation,
            where=where,
            remedy="Score studies with `limner evaluate --study`, or give the step in pixels "
            "(min_px, radius_px).",
        )


def figures_of(
    case: Case,
    labels: NDArray[np.uint8],
    count: int,
    patient: int,
    volume_ml: Sequence[float] | None = None,
) -> CaseFigures:
    """Return the figures of labels on a case's grid.

    Args:
        case: With its reference.
        labels: The answer.
        count: Number of labels.
        patient: Number of the patient.
        volume_ml: Volumes as reported; counted from the labels where there are none.
    """
    voxel_ml = case.voxel_ml
    numbers = range(1, count + 1)
    counted = [int((labels == k).sum()) * voxel_ml for k in numbers]
    return CaseFigures(
        case=case.digest[:12],
        patient=patient,
        dice=tuple(dice_or_none(labels == k, case.reference == k) for k in numbers),
        volume_ml=tuple(counted if volume_ml is None else volume_ml),
        reference_ml=tuple(int((case.reference == k).sum()) * voxel_ml for k in numbers),
    )


def patient_numbers(cases: Sequence[Case]) -> Mapping[str, int]:
    """Return a number for each patient, in order of appearance."""
    return {name: k for k, name in enumerate(dict.fromkeys(case.patient for case in cases))}


def baselines(
    train: Sequence[Case],
    test: Sequence[Case],
    card: Card,
    *,
    fixed: Sequence[float] = (),
) -> Mapping[str, tuple[CaseFigures, ...]]:
    """Return the figures of answers that need no learning, tuned on the training set alone.

    `position`: the place alone, where enough training references overlap around the middle.
    `threshold`: one limit on the card's normalised intensities, from above or from below. It
    marks all labels as one: for several labels its Dice is that of their union.

    Args:
        train: What may be tuned on.
        test: What is scored.
        card: Grid and intensities.
        fixed: Limits on native values, scored as they are.
    """
    numbers = patient_numbers(test)
    found: dict[str, tuple[CaseFigures, ...]] = {}
    level, overlaps = _position(train, card)
    found["position"] = tuple(
        figures_of(
            case, _by_position(case, card, overlaps, level), len(overlaps), numbers[case.patient]
        )
        for case in test
    )
    limit, sign = _best_limit(train, card)
    united = [_united(case) for case in test]
    found["threshold"] = tuple(
        figures_of(
            case, _marked(normalised(case, card) * sign > limit * sign), 1, numbers[case.patient]
        )
        for case in united
    )
    for value in fixed:
        found[f"above_{value:g}"] = tuple(
            figures_of(case, _marked(case.array > value), 1, numbers[case.patient])
            for case in united
        )
    return found


def _united(case: Case) -> Case:
    return Case(case.name, case.patient, case.image, _marked(case.reference > 0), case.digest)


def _marked(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.astype(np.uint8)


def _best_limit(train: Sequence[Case], card: Card) -> tuple[float, int]:
    """Return the limit with the best mean Dice, and 1 for above or -1 for below."""
    some = train[:: max(1, len(train) // 40)]
    values = [normalised(case, card) for case in some]
    low = float(np.median([np.percentile(one, 1) for one in values]))
    high = float(np.median([np.percentile(one, 99.5) for one in values]))
    best = (0.0, low, 1)
    for limit in np.linspace(low, high, _THRESHOLDS):
        for sign in (1, -1):
            dice = np.mean(
                [
                    np.nan_to_num(dice_or_none(one * sign > limit * sign, case.reference > 0))
                    for one, case in zip(values, some, strict=True)
                ]
            )
            best = max(best, (float(dice), float(limit), sign))
    return best[1], best[2]


def _position(train: Sequence[Case], card: Card) -> tuple[float, NDArray[np.float32]]:
    """Return the best level and, per label, how many training references overlap, (labels, ...)."""
    count = len(card.segments)
    grids = []
    for case in train:
        grids.append(view_of(case, card).labels(case.reference, count))
    shape = tuple(int(one) for one in np.median([grid.shape for grid in grids], axis=0))
    share = np.zeros((count, *shape), np.float32)
    for grid in grids:
        for label in range(count):
            share[label] += _centred(grid, shape) == label + 1
    share /= len(grids)
    levels = []
    for level in _PRIOR_LEVELS:
        answer = _answer(share, level)
        dice = [np.nan_to_num(dice_or_none(answer > 0, _centred(g, shape) > 0)) for g in grids]
        levels.append((float(np.mean(dice)), level))
    return max(levels)[1], share


def _by_position(
    case: Case, card: Card, share: NDArray[np.float32], level: float
) -> NDArray[np.uint8]:
    """Return the place's answer on the native grid."""
    view = view_of(case, card)
    return view.native(_centred(_answer(share, level), view.image.shape))


def _answer(share: NDArray[np.float32], level: float) -> NDArray[np.uint8]:
    best = np.argmax(share, axis=0) + 1
    marked: NDArray[np.uint8] = np.where(share.sum(axis=0) >= level, best, 0).astype(np.uint8)
    return marked


_Number = TypeVar("_Number", bound=np.number[Any])


def _centred(grid: NDArray[_Number], shape: Sequence[int]) -> NDArray[_Number]:
    """Return a grid cut or padded with zeros around its middle."""
    result = np.zeros(tuple(shape), grid.dtype)
    source, target = [], []
    for have, want in zip(grid.shape, shape, strict=True):
        shift = (have - want) // 2
        source.append(slice(max(0, shift), max(0, shift) + min(have, want)))
        target.append(slice(max(0, -shift), max(0, -shift) + min(have, want)))
    result[tuple(target)] = grid[tuple(source)]
    return result
