"""Who is trained on and who is held out: by patient, before any slice or patch is cut.

The split follows from the patients alone, not from a training's seed: every seed of a recipe is
judged on the same cases, and nobody slips from one set into the other between two trainings.
Patients of whom two cases share a slice, to the byte, are taken for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from node.errors import setup_error
from node.training.cases import Case


@dataclass(frozen=True, slots=True)
class Splitting:
    """How patients are held out.

    Attributes:
        folds: The patients are dealt out over so many sets of about the same size; one is held
            out, the others are trained on.
    """

    folds: int


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The two sets of a training.

    Attributes:
        train: What is learnt from.
        test: What is held out.
    """

    train: tuple[Case, ...]
    test: tuple[Case, ...]


def split_cases(cases: Sequence[Case], splitting: Splitting, fold: int = 0) -> Split:
    """Deal the patients out and hold one set back.

    Args:
        cases: All cases.
        splitting: Into how many sets.
        fold: Which of them is held out, from 0.

    Raises:
        SetupError: There are too few patients, or the sets share a patient or a slice.
    """
    groups = groups_of(cases)
    names = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < splitting.folds:
        raise setup_error(
            "too-few-patients",
            f"There are {len(names)} patients to be dealt out over {splitting.folds} sets.",
            where="the cases of the training",
            remedy="Give cases of more patients.",
        )
    held = {name for place, name in enumerate(names) if place % splitting.folds == fold}
    train = tuple(case for case, group in zip(cases, groups, strict=True) if group not in held)
    test = tuple(case for case, group in zip(cases, groups, strict=True) if group in held)
    refuse_leaks(train, test)
    return Split(train, test)


def refuse_leaks(train: Sequence[Case], test: Sequence[Case]) -> None:
    """Refuse two sets that share a patient or a slice.

    Raises:
        SetupError: They do.
    """
    patients = {case.patient for case in train} & {case.patient for case in test}
    slices = {key for case in train for key in slice_digests(case)}
    shared = [case for case in test if slices & slice_digests(case)]
    if patients or shared:
        raise setup_error(
            "leak-patient",
            f"{len(patients)} patients are in both sets, {len(shared)} cases of the held-out set "
            "share a slice with a case that is trained on.",
            where="the split of the training",
            remedy="Keep all cases of a patient in one set; look for copies under other names.",
        )


def groups_of(cases: Sequence[Case]) -> list[str]:
    """Return a name for each case: the same for cases of one patient or with a common slice."""
    root: dict[str, str] = {}

    def top(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for case in cases:
        keys = [f"patient {case.patient}", *sorted(slice_digests(case))]
        for other in keys[1:]:
            first, second = sorted((top(keys[0]), top(other)), reverse=True)
            root[second] = first  # "patient ..." sorts behind digests and so stays the name
    return [top(f"patient {case.patient}") for case in cases]


def slice_digests(case: Case) -> frozenset[str]:
    """Return a digest of each slice that is not all one value."""
    return frozenset(
        hashlib.sha256(np.ascontiguousarray(plane).tobytes()).hexdigest()
        for plane in case.array
        if plane.min() != plane.max()
    )


def set_digest(cases: Iterable[Case]) -> str:
    """Return one digest of a set of cases, in any order."""
    each = "".join(sorted(case.digest for case in cases))
    return hashlib.sha256(each.encode()).hexdigest()
