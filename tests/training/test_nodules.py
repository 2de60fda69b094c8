"""The nodule recipe: patches lie where nodules are, and figures count what they are called."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from node.phantom import chest
from node.phantom.planes import planes_of
from node.training.ct_nodule import (
    CT_NODULE,
    NAME,
    draw_nodule_examples,
    draw_patch,
    draw_patient,
    nodule_mask,
    nodules_of,
)
from node.training.lung_ct import patient_seeds
from node.training.nodules import (
    NODULE_TEST_SEEDS,
    TUNING_SEEDS,
    ScanFigures,
    chosen_threshold,
    false_per_scan,
    figures_of_scan,
    sensitivity_of,
)
from node.training.recipe import Budget
from node.training.template import template_card
from node.training.trainer import Means, fit_network


def _study() -> chest.ChestStudy:
    return chest.volume(
        41, slices=24, rows=64, columns=64, marker=False, healthy=True, nodules=((24.0, 60.0),)
    )


def _truth(study: chest.ChestStudy) -> np.ndarray:
    planes = planes_of(study.affine, study.hu.shape, study.thickness_mm)
    return nodule_mask(study.patient, planes)


def test_the_truth_finds_every_nodule_and_nothing_false() -> None:
    study = _study()
    figures = figures_of_scan(study, _truth(study))
    assert figures.found
    assert all(figures.found)
    assert figures.false == 0


def test_a_candidate_in_the_air_is_false_and_an_empty_answer_finds_nothing() -> None:
    study = _study()
    labels = np.zeros(study.hu.shape, np.uint8)
    assert not any(figures_of_scan(study, labels).found)
    labels[1, 1:3, 1:3] = 1
    figures = figures_of_scan(study, labels)
    assert not any(figures.found)
    assert figures.false == 1


def test_a_patch_round_a_nodule_shows_it_and_only_the_lungs_around() -> None:
    card = template_card("ct-nodule")
    patient = draw_patient(np.random.Generator(np.random.PCG64(3)), 1_000_123)
    lump = nodules_of(patient)[-1]
    patch = draw_patch(patient, np.array(lump.centre), card)
    assert patch.hu.shape == card.inference.patch
    middle = tuple(side // 2 for side in patch.hu.shape)
    assert patch.nodules[middle] == 1
    assert (patch.hu == card.voxels.background).mean() > 0.05
    assert not patch.nodules[patch.hu == card.voxels.background].any()


def test_examples_hold_patches_that_a_network_of_one_output_learns_from() -> None:
    budget = Budget(steps=2, batch=1, patients=2, slices=3)
    examples = draw_nodule_examples(5, budget, progress=lambda _: None)
    network = replace(template_card(NAME).network, parameters={"widths": (4, 4, 4, 4)})
    fitted = fit_network(
        network, CT_NODULE, examples, seed=1, budget=budget, means=Means(clock=time.monotonic)
    )
    assert fitted.steps == 2
    assert 0 < fitted.loss < 5
    has = examples.labels.any(axis=(1, 2, 3))
    assert 0 < has.sum() < len(has)
    assert (examples.images.min(), examples.images.max()) == (-1, 1)


def test_no_training_sees_a_chest_that_is_tuned_or_tested_on() -> None:
    trained = {s for seed in (1, 2, 3) for s in patient_seeds(seed, CT_NODULE.budget.patients)}
    assert not trained & {*TUNING_SEEDS, *NODULE_TEST_SEEDS}
    assert not {*TUNING_SEEDS} & {*NODULE_TEST_SEEDS}


def test_sensitivity_counts_nodules_and_its_interval_counts_patients() -> None:
    figures = [
        ScanFigures(1, (6.0, 8.0), (True, False), 0),
        ScanFigures(2, (7.0, 9.0), (True, True), 2),
    ]
    over = sensitivity_of(figures)
    assert (over.mean, over.low, over.high) == (0.75, 0.5, 1.0)
    assert false_per_scan(figures) == 1.0


def test_the_threshold_is_the_lowest_with_one_false_positive_per_scan() -> None:
    def scans(false: int) -> list[ScanFigures]:
        return [ScanFigures(1, (6.0,), (True,), false)]

    assert chosen_threshold([(0.3, scans(3)), (0.5, scans(1)), (0.7, scans(0))]) == 0.5
    assert chosen_threshold([(0.3, scans(3)), (0.7, scans(2))]) == 0.7
