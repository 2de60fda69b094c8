"""What the eye needs: contrast, and words that say what a number is."""

from __future__ import annotations

import re

import pytest

from node.web.context import HERE
from node.web.words import Zone, age, duration, person, size

SHEET = (HERE / "static" / "limner.css").read_text(encoding="utf-8")
THEMES = re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
PAIRS = [
    ("ink", "ground"),
    ("ink", "card"),
    ("soft", "ground"),
    ("soft", "card"),
    ("link", "ground"),
    ("link", "card"),
    ("on-accent", "accent"),
    *((level, f"{level}-ground") for level in ("well", "attention", "stopped", "busy", "quiet")),
    *((ink, f"{level}-ground") for ink in ("ink", "link") for level in ("attention", "stopped")),
]


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_every_ink_has_aa_contrast_on_its_ground(theme: str, ink: str, ground: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", theme))
    low, high = sorted((_luminance(colours[ink]), _luminance(colours[ground])))
    assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, "\N{EN DASH}"),
        (-5, "0.0 s"),
        (400, "0.4 s"),
        (45_000, "45 s"),
        (125_000, "2 min 05 s"),
        (720_000, "12 min"),
        (11_100_000, "3 h 05 min"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_spans_are_said_as_people_say_them(ms: int | None, words: str) -> None:
    assert duration(ms) == words


def test_times_are_shown_in_the_nodes_zone_across_its_change_of_clocks() -> None:
    zone = Zone("Europe/Berlin")
    before, after = 1_792_889_940_000, 1_792_893_540_000  # 2026-10-25, one hour apart
    assert zone.moment(before) == "2026-10-25 02:59:00"
    assert zone.moment(after) == "2026-10-25 02:59:00"
    assert zone.iso(before).endswith("+02:00")
    assert zone.iso(after).endswith("+01:00")
    assert zone.brief(before, after) == "02:59"
    assert zone.brief(before, after + 86_400_000) == "yesterday 02:59"


def test_names_sizes_and_ages_are_said_plainly() -> None:
    assert person("PHANTOM^Seven^^Dr.") == "PHANTOM, Seven"
    assert person("^^^=\u5c71\u7530^\u592a\u90ce") == "\u5c71\u7530, \u592a\u90ce"
    assert person("^^") == "no name"
    assert size(734) == "734 bytes"
    assert size(1_200_000) == "1.2 MB"
    assert age(None, 5) == "never"
    assert age(1000, 3500) == "2 s"
