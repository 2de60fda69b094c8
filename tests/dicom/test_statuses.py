"""Every C-STORE status has one meaning for a delivery and one sentence."""

from __future__ import annotations

import pytest

from node.dicom.statuses import SendKind, classify, comment


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, SendKind.STORED),
        (0xB000, SendKind.STORED),
        (0xB006, SendKind.STORED),
        (0xB007, SendKind.STORED),
        (0xA700, SendKind.RETRY),
        (0xA7FF, SendKind.RETRY),
        (0x0110, SendKind.RETRY),
        (0x0213, SendKind.RETRY),
        (0xA900, SendKind.REFUSED),
        (0xC000, SendKind.REFUSED),
        (0xCFFF, SendKind.REFUSED),
        (0x0111, SendKind.REFUSED),
        (0x0117, SendKind.REFUSED),
        (0x0122, SendKind.REFUSED),
        (0x0124, SendKind.REFUSED),
        (0xFE00, SendKind.REFUSED),
        (0x1234, SendKind.REFUSED),
    ],
)
def test_a_status_is_classified(status: int, kind: SendKind) -> None:
    assert classify(status)[0] is kind


def test_every_status_has_words() -> None:
    assert all(classify(status)[1] for status in range(0x10000))


def test_a_comment_fits_its_element() -> None:
    assert comment("Fine.") == "Fine."
    assert len(comment("x" * 100)) == 64
    assert comment("Müller\\\n") == "M?ller  "
