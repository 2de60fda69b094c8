"""A card is read strictly: everything wrong is told at once, with its line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import SetupError
from node.models.card import Card, find_cards, load_card, parse_card
from node.settings import bundled_config
from tests.models.builders import documented_card

FOLDER = Path("models/lung-ct")


def mistakes_in(text: str) -> str:
    with pytest.raises(SetupError) as caught:
        parse_card(text, FOLDER)
    assert caught.value.fault.code == "card-invalid"
    return caught.value.fault.what


def test_the_documented_card_is_a_card() -> None:
    card = parse_card(documented_card(), FOLDER)
    assert card.identity.name == "lung-ct"
    assert [segment.label for segment in card.segments] == ["Right lung", "Left lung"]
    assert card.voxels.size == (192, 192)


MISTAKES = {
    "an unknown key": ("threshold = 0.5", "treshold = 0.5", "did you mean 'threshold'?"),
    "an unknown table": ("[results]", "[result]", "did you mean 'results'?"),
    "a keyword that DICOM does not have": ("Modality =", "Modalty =", "not a DICOM keyword"),
    "axes in x, y, z order": ('orientation = "HPL"', 'orientation = "LPS"', "slice, row and"),
    "an axis twice": ('orientation = "HPL"', 'orientation = "HPA"', "one of L R"),
    "an unknown step": ('step = "clip"', 'step = "clop"', "did you mean 'clip'?"),
    "a range upside down": ("from = [-1024, 600]", "from = [600, -1024]", "low below high"),
    "a schema of the future": ("schema = 1", "schema = 2", "schema"),
    "a digest that is none": ('sha256 = "0', 'sha256 = "x', "64 hexadecimal digits"),
    "weights elsewhere": ('"weights.safetensors"', '"../weights.safetensors"', "in this folder"),
    "weights that are a pickle": ('"weights.safetensors"', '"weights.pt"', ".safetensors"),
    "an empty modifier": (
        '["24028007, SCT, Right"]',
        '[""]',
        'modifiers: must be "value, scheme, meaning"',
    ),
    "a colour that is no number": ("[86, 180, 233]", "[nan, 180, 233]", "a list of 3 numbers"),
    "a label that is not finite": ("labels = [1, 2]\njoint", "labels = [inf]\njoint", "labels"),
    "a code without a scheme": ('"39607008, SCT, Lung"', '"39607008"', "value, scheme, meaning"),
    "a segment that nothing makes": ("outputs = 3", "outputs = 2", "give the labels [1]"),
    "a label not there to clean": ("labels = [1, 2]", "labels = [1, 3]", "no label 3"),
    "two segments of one name": ('"Left lung"', '"Right lung"', "occurs twice"),
    "no word of research use": ("Research use only: o", "O", "research use"),
    "limits upside down": ("max_ml = 6000", "max_ml = 60", "below min_ml"),
    "a limit on no segment": (
        "[[quality.ratios]]\nof = 1",
        "[[quality.ratios]]\nof = 9",
        "no segment 9",
    ),
    "a mirror that is none": ("mirrors = []", 'mirrors = ["rows"]', "did you mean 'row'?"),
    "a slice mirror in 2D": ("mirrors = []", 'mirrors = ["slice"]', "no slice axis"),
    "neighbours without channels": ("neighbours = 0", "neighbours = 1", "network.channels"),
    "a result nobody can write": ('kinds = ["SEG"]', 'kinds = ["SEGM"]', "did you mean 'SEG'?"),
    "true for a number": ("batch = 8", "batch = true", "a whole number from 1"),
    "two schemas": ("schema = 1", "schema = 1\nschema = 1", "not TOML"),
}


@pytest.mark.parametrize(("right", "wrong", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_what_is_right(right: str, wrong: str, said: str) -> None:
    text = documented_card()
    assert right in text
    assert said in mistakes_in(text.replace(right, wrong))


def test_a_text_that_is_not_toml_is_one_mistake_and_lacks_nothing() -> None:
    said = mistakes_in(documented_card().replace('name = "lung-ct"', 'name = "lung-ct'))
    assert "1 mistake in" in said
    assert "not TOML" in said
    assert "missing" not in said


def test_all_mistakes_are_told_in_one_answer_with_their_lines() -> None:
    text = documented_card().replace("batch = 8", "batch = 0").replace("count = 1 ", "cuont = 1 ")
    what = mistakes_in(text)
    lines = text.splitlines()
    batch = 1 + next(i for i, line in enumerate(lines) if line.startswith("batch"))
    count = 1 + next(i for i, line in enumerate(lines) if line.startswith("cuont"))
    assert what.startswith("2 mistakes in lung-ct/card.toml")
    assert f"line {batch}: inference.batch" in what
    assert f"line {count}: postprocess[1].cuont" in what


def test_a_folder_without_a_card_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="card-unreadable"):
        load_card(tmp_path)


def test_the_shipped_model_keeps_the_keys_of_its_results() -> None:
    """A key that a card got later is left out at its default; a change here makes new results."""
    card = load_card(bundled_config() / "models" / "lung-ct")
    assert card.settings_digest.startswith("ff2b961d5f40758a")


def test_the_settings_digest_covers_what_changes_labels_and_nothing_else() -> None:
    card = parse_card(documented_card(), FOLDER)
    changes = {
        "voxels": dataclasses.replace(card.voxels, background=-1000.0),
        "steps": card.steps[:1],
        "network": dataclasses.replace(card.network, parameters={"widths": (8, 16)}),
        "inference": dataclasses.replace(card.inference, batch=4),
        "head": dataclasses.replace(card.head, threshold=0.4),
        "postprocess": card.postprocess[1:],
        "segments": card.segments[:1],
        "quality": dataclasses.replace(card.quality, end_slice_cm2=1.0),
        "results": dataclasses.replace(card.results, series_number=9),
        "version": "2",
        "intended_use": "For research use.",
    }
    digests = {card.settings_digest}
    for name, value in changes.items():
        digests.add(_with(card, name, value).settings_digest)
    assert len(digests) == 1 + len(changes)
    for name, value in {"licence": "MIT", "limits": (), "scores": {}, "accepts": ()}.items():
        assert _with(card, name, value).settings_digest == card.settings_digest


def _with(card: Card, name: str, value: object) -> Card:
    fields = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    return Card(**{**fields, name: value})


def test_a_sites_own_folder_comes_before_the_bundled_one(tmp_path: Path) -> None:
    for place, version in (("own", "2.0.0"), ("bundled", "1.0.0")):
        folder = tmp_path / place / "lung"
        folder.mkdir(parents=True)
        text = documented_card().replace('version = "1.0.0"', f'version = "{version}"')
        (folder / "card.toml").write_text(text, encoding="utf-8")
    cards = find_cards([tmp_path / "own", tmp_path / "bundled", tmp_path / "absent"])
    assert {name: card.version for name, card in cards.items()} == {"lung-ct": "2.0.0"}


def test_two_models_of_one_name_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.toml").write_text(documented_card(), encoding="utf-8")
    with pytest.raises(SetupError, match="Two models are called 'lung-ct': a and b"):
        find_cards([tmp_path])


def test_cards_verdicts_and_the_allocator_need_no_torch() -> None:
    modules = "card, memory, verdict, postprocess, fit"
    code = f"import sys; from node.models import {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
