"""Find a model's card by name or by folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from node.errors import setup_error
from node.models.card import CARD_FILE, Card, find_cards, load_card
from node.settings import bundled_config


def find_card(model: str, folders: Sequence[Path] = ()) -> Card:
    """Return the card of a model folder, or of a model by name.

    Raises:
        SetupError: There is no such model, or its card has mistakes.
    """
    if (Path(model) / CARD_FILE).exists():
        return load_card(Path(model))
    cards = find_cards((*folders, bundled_config() / "models"))
    if model not in cards:
        raise setup_error(
            "model-unknown",
            f"There is no model '{model}'.",
            where=f"models: {', '.join(sorted(cards)) or 'none'}",
            remedy="Name one of these, or a folder with a card.toml.",
        )
    return cards[model]
