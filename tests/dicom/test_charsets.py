"""Text is decoded by the character set that the header names, and nothing raises."""

# ruff: noqa: RUF001  foreign alphabets are the subject
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.dicom.charsets import character_set, decode_text

NAMES = [
    # PS3.5 annexes H, I, J and K, and single-byte sets.
    ("ISO_IR 100", "Buc^J\u00e9r\u00f4me".encode("latin-1"), "Buc^Jérôme"),
    ("ISO_IR 192", "Прüf^名".encode(), "Прüf^名"),
    ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
    ("ISO_IR 127", "قباني^لنزار".encode("iso8859_6"), "قباني^لنزار"),
    ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    ),
    (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    ("no such term", "Müller".encode("latin-1"), "Müller"),
    ("", b"Plain", "Plain"),
]


@pytest.mark.parametrize(("term", "value", "wanted"), NAMES)
def test_a_name_is_decoded_as_its_character_set_says(term: str, value: bytes, wanted: str) -> None:
    assert decode_text(value, character_set(term.encode())) == (wanted,)


def test_a_backslash_byte_that_is_half_of_a_sign_does_not_split_a_value() -> None:
    value = "表示\\次".encode("gb18030")
    assert decode_text(value, character_set(b"GB18030")) == ("表示", "次")
    # In GBK the second byte of some signs is 0x5C.
    sign = b"\x81\x5c"
    assert decode_text(sign, character_set(b"GBK")) == (sign.decode("gbk"),)


def test_control_characters_and_padding_never_reach_a_value() -> None:
    assert decode_text(b" A\0B\x1b[31m\r\n ", ("latin-1",)) == ("AB[31m",)


@given(term=st.binary(max_size=40), value=st.binary(max_size=80))
def test_any_bytes_under_any_term_become_text(term: bytes, value: bytes) -> None:
    for text in decode_text(value, character_set(term)):
        assert "\0" not in text
        assert text.encode("utf-8").decode("utf-8") == text
