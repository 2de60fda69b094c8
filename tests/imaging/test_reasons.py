"""The page of reasons is made from the code."""

from __future__ import annotations

from pathlib import Path

from node.reasons import SENTENCES, Reason, reasons_page


def test_every_reason_has_its_sentence() -> None:
    assert set(SENTENCES) == set(Reason)


def test_the_page_of_reasons_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reasons.md"
    assert page.read_text() == reasons_page(), "run: python -m node.reasons > docs/reasons.md"
