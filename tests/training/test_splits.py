"""Splits: by patient, the same for every training, and never with a copy on both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from node.errors import SetupError
from node.training.alarms import refuse_worthless
from node.training.cases import Case, case_of
from node.training.splits import Splitting, groups_of, refuse_leaks, set_digest, split_cases

from .small_cases import ball_case, ball_volume


def _copy(case: Case, patient: str) -> Case:
    return dataclasses.replace(case, patient=patient)


def test_every_patient_is_held_out_in_exactly_one_fold() -> None:
    cases = [ball_case(seed, f"patient-{seed // 2}") for seed in range(14)]
    held = [split_cases(cases, Splitting(3), fold).test for fold in range(3)]
    names = [case.name for test in held for case in test]
    assert sorted(names) == sorted(case.name for case in cases)
    for test in held:
        patients = {case.patient for case in test}
        assert len(test) == 2 * len(patients)  # both cases of a patient go together


def test_the_split_does_not_depend_on_the_order_of_the_cases() -> None:
    cases = [ball_case(seed) for seed in range(9)]
    first = split_cases(cases, Splitting(3))
    second = split_cases(cases[::-1], Splitting(3))
    assert set_digest(first.test) == set_digest(second.test)


def test_patients_who_share_a_slice_are_kept_together() -> None:
    volume, labels = ball_volume(1)
    shared = dataclasses.replace(volume, array=volume.array.copy())
    other, _ = ball_volume(2)
    shared.array[3] = other.array[5]
    cases = [
        case_of("a", "anna", volume, labels, 2),
        case_of("b", "berta", shared, labels, 2),
        ball_case(2, "clara"),
        ball_case(3, "dora"),
    ]
    groups = groups_of(cases)
    assert groups[0] == groups[1] == groups[2] != groups[3]
    refuse_leaks(*[split_cases(cases, Splitting(2)).train, split_cases(cases, Splitting(2)).test])


def test_empty_slices_do_not_make_patients_one() -> None:
    cases = [ball_case(1), ball_case(2)]
    for case in cases:
        case.array[0] = 0
    assert len(set(groups_of(cases))) == 2


def test_a_patient_in_both_sets_is_refused() -> None:
    with pytest.raises(SetupError, match="leak-patient"):
        refuse_leaks([ball_case(1, "anna")], [ball_case(2, "anna")])


def test_a_slice_in_both_sets_is_refused_whatever_the_patients_are_called() -> None:
    with pytest.raises(SetupError, match="leak-patient"):
        refuse_leaks([ball_case(1, "anna")], [_copy(ball_case(1), "berta")])


def test_fewer_patients_than_sets_are_refused() -> None:
    with pytest.raises(SetupError, match="too-few-patients"):
        split_cases([ball_case(1), ball_case(2)], Splitting(3))


def test_a_reference_off_the_grid_or_with_undeclared_values_is_refused() -> None:
    volume, labels = ball_volume(1)
    with pytest.raises(SetupError, match="label-grid"):
        case_of("a", "anna", volume, labels[1:], 2)
    with pytest.raises(SetupError, match="label-values"):
        case_of("a", "anna", volume, labels * 2, 2)


def test_a_label_of_too_few_patients_is_refused() -> None:
    cases = [ball_case(seed) for seed in range(4)]
    for case in cases[:2]:
        case.reference[case.reference == 2] = 1
    with pytest.raises(SetupError, match="label-values"):
        refuse_worthless(cases, (), 2)


def test_a_label_that_fills_most_of_the_field_is_refused() -> None:
    cases = [ball_case(seed) for seed in range(4)]
    for case in cases:
        np.copyto(case.reference, (case.reference == 0).astype(np.uint8))
    with pytest.raises(SetupError, match="majority-metric"):
        refuse_worthless(cases, (), 1)
