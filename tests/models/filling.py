"""Fill in what an import leaves to a person, as the person would."""

from __future__ import annotations

import re
from pathlib import Path

from node.models.card import Card, load_card


def fill_in(folder: Path, **answers: str) -> Card:
    """Write answers into the empty values of a folder's card, and load it.

    Args:
        folder: What an import made.
        answers: Further keys with their TOML value, replacing what stands there.
    """
    path = folder / "card.toml"
    text = path.read_text(encoding="utf-8")
    plain = {
        "title": '"Things"',
        "intended_use": '"For research use only: tests."',
        "licence": '"Apache-2.0"',
        "orientation": '"native"',
        "spacing_mm": "[0, 0, 0]",
        "units": '"HU"',
        "series_description": '"Things"',
        "category": '"91723000, SCT, Anatomical Structure"',
        "type": '"39607008, SCT, Lung"',
    }
    for key, value in plain.items():
        text = re.sub(rf'^{key} = (""|\[\])$', f"{key} = {value}", text, flags=re.MULTILINE)
    for key, value in answers.items():
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert found, f"the card has no {key}"
    text = text.replace("[accepts]\n\n", '[accepts]\nModality = "CT"\n\n')
    labels = iter(range(1, 256))
    text = re.sub(r'^label = ""$', lambda _: f'label = "Thing {next(labels)}"', text, flags=re.M)
    path.write_text(text, encoding="utf-8")
    return load_card(folder)
