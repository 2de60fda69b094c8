"""What `limner models test-case` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from node.errors import setup_error
from node.imaging.series import find_volumes
from node.imaging.values import Refusal, Volume, VolumePlan
from node.imaging.volume import load_volume
from node.models.card import CARD_FILE, Card, load_card


def add_test_case(folder: Path, source: Path, slices: str) -> Iterator[str]:
    """Write the case beside the card and its digest into it; yield what was done.

    Raises:
        SetupError: No volume suits the model, or it holds none of the model's labels.
    """
    from node.models.inference import labels_of_volume
    from node.models.loaded import load_model
    from node.models.testcase import card_text_with, some_slices, write_test_case

    card = load_card(folder)
    volume = _only_volume(card, source)
    first, last = _range(slices, volume.array.shape[0])
    volume = some_slices(volume, first, last)
    labels = labels_of_volume(volume, load_model(card, runtime="torch"))
    counts = {each.label: int(np.count_nonzero(labels == each.number)) for each in card.segments}
    if not any(counts.values()):
        raise setup_error(
            "test-case-empty",
            "The model finds nothing in these slices, so that no runtime could be judged by them.",
            where=str(source),
            remedy="Take other slices with --slices FIRST:LAST, or another case.",
        )
    case = write_test_case(folder, volume)
    text = card_text_with(card.text, case)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    size = (folder / case.file).stat().st_size
    sides = " x ".join(map(str, volume.array.shape))
    yield f"{folder / case.file}: {sides} voxels, {size / 1e6:.1f} MB."
    yield "Voxels that torch gives: " + ", ".join(f"{k} {n}" for k, n in counts.items()) + "."
    loaded = load_model(load_card(folder))
    yield f"Here it runs on {loaded.runner.facts}. {loaded.chosen}"


def _only_volume(card: Card, source: Path) -> Volume:
    from node.imaging.read import read_folder
    from node.worker.selection import select

    chosen = select(find_volumes(read_folder(source), min_slices=card.min_slices), card)
    loaded = [load_volume(plan) for plan in chosen.plans if isinstance(plan, VolumePlan)]
    usable = [each for each in loaded if isinstance(each, Volume)]
    refused = [*chosen.refused, *(each for each in loaded if isinstance(each, Refusal))]
    if len(usable) != 1:
        raise setup_error(
            "test-case-volume",
            f"A test case is one volume that {card.name} takes; there are {len(usable)}. "
            + " ".join(each.explanation for each in refused),
            where=str(source),
            remedy="Give a folder with one such series; `limner inspect` tells what is in it.",
        )
    return usable[0]


def _range(slices: str, count: int) -> tuple[int, int]:
    if not slices:
        return 0, count
    first, _, last = slices.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last) <= count):
        raise click.UsageError(
            f"--slices is FIRST:LAST with 0 <= FIRST < LAST <= {count}, is '{slices}'"
        )
    return int(first), int(last)
