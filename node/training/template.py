"""The cards of recipes: read before a training, completed after it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from node.models.card import CARD_FILE, Card, load_card
from node.training.recipe import CARDS

Score = int | float | str | bool | Mapping[str, "int | float | str | bool"]
"""What one key of [scores] may hold."""


def template_card(name: str) -> Card:
    """Return the card of a recipe, without weights."""
    text = (CARDS / f"{name}.toml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        write_card(Path(folder), text, sha256="0" * 64, scores={})
        return load_card(Path(folder))


def text_of(card: Card) -> str:
    """Return what `write_card` was given: a card's text without [scores]."""
    return card.text.partition("\n[scores]\n")[0]


def write_card(folder: Path, text: str, *, sha256: str, scores: Mapping[str, Score]) -> None:
    """Write a model's card.

    Args:
        folder: The model's folder.
        text: A recipe's card.
        sha256: Digest of the weights.
        scores: What goes under [scores].
    """
    lines = [text.replace("@sha256@", sha256).rstrip(), "", "[scores]"]
    lines += [f"{_key(key)} = {_toml(value)}" for key, value in scores.items()]
    (folder / CARD_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: Score) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "").isalnum()
    return key if plain and key.isascii() else f'"{key}"'
