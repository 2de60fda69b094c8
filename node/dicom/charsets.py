"""Text of DICOM elements in whatever character set the header names; never raises.

Bytes that no named set explains become U+FFFD, and control characters vanish: a decoded value can
be printed, logged and stored anywhere (PostgreSQL refuses NUL in text). Kept apart from pydicom's
decoder because that one warns and raises on what peers really send.

Source: DICOM PS3.3 C.12.1.1.2 (defined terms), PS3.5 6.1 and annexes H to K (code extensions).
"""

from __future__ import annotations

import codecs
import re
from typing import Final

DEFAULT_CODEC: Final = "latin-1"
"""For ISO_IR 6 and for terms nobody defined: every byte has a sign, nothing is lost."""

# Terms without code extensions and their ISO 2022 twins name the same repertoire.
_CODECS: Final = {
    "6": DEFAULT_CODEC,
    "100": "latin-1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "144": "iso8859_5",
    "127": "iso8859_6",
    "126": "iso8859_7",
    "138": "iso8859_8",
    "148": "iso8859_9",
    "203": "iso8859_15",
    "13": "shift_jis",
    "166": "iso8859_11",
    "192": "utf_8",
    "58": "gb2312",
    "149": "euc_kr",
    "87": "iso2022_jp_2",
    "159": "iso2022_jp_2",
}
_WHOLE_VALUE: Final = {"GB18030": "gb18030", "GBK": "gbk"}

# What follows an escape sequence is read with this codec; for the Japanese double-byte sets
# Python's codec wants the sequence itself in front.
_ESCAPES: Final[dict[bytes, tuple[str, bytes]]] = {
    b"\x1b(B": (DEFAULT_CODEC, b""),
    b"\x1b(J": ("shift_jis", b""),
    b"\x1b)I": ("shift_jis", b""),
    b"\x1b-A": ("latin-1", b""),
    b"\x1b-B": ("iso8859_2", b""),
    b"\x1b-C": ("iso8859_3", b""),
    b"\x1b-D": ("iso8859_4", b""),
    b"\x1b-L": ("iso8859_5", b""),
    b"\x1b-G": ("iso8859_6", b""),
    b"\x1b-F": ("iso8859_7", b""),
    b"\x1b-H": ("iso8859_8", b""),
    b"\x1b-M": ("iso8859_9", b""),
    b"\x1b-b": ("iso8859_15", b""),
    b"\x1b-T": ("iso8859_11", b""),
    b"\x1b$B": ("iso2022_jp_2", b"\x1b$B"),
    b"\x1b$(D": ("iso2022_jp_2", b"\x1b$(D"),
    b"\x1b$)C": ("euc_kr", b""),
    b"\x1b$)A": ("gb2312", b""),
}
_ESCAPE: Final = re.compile(rb"(\x1b(?:\$[()][A-D]|\$B|[()-][A-Za-z]))")
_DELIMITER: Final = re.compile(rb"([\^=\r\n\f\t\\])")
"""Signs after which the first character set is in force again (PS3.5 6.1.2.5.3)."""

_CONTROL: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0))}


def character_set(value: bytes) -> tuple[str, ...]:
    """Return the codecs that the value of (0008,0005) names, the first one first."""
    terms = value.decode("ascii", errors="replace").split("\\")
    return tuple(_codec(term) for term in terms) or (DEFAULT_CODEC,)


def decode_text(value: bytes, charset: tuple[str, ...]) -> tuple[str, ...]:
    r"""Return the values of a text element, decoded, without padding; at least one.

    Args:
        value: The element's bytes, several values joined by a backslash.
        charset: From `character_set`. The text is decoded before it is split, because a
            backslash byte may be half of a Japanese or Chinese sign.
    """
    text = _extended(value, charset) if b"\x1b" in value else _decode(value, charset[0])
    return tuple(clean_text(part) for part in text.split("\\"))


def clean_text(text: str) -> str:
    """Return `text` without control characters and without padding."""
    return (text if text.isprintable() else text.translate(_CONTROL)).strip()


def _codec(term: str) -> str:
    words = term.strip(" \0").upper().replace("-", " ").replace("_", " ").split()
    name = " ".join(words)
    if name in _WHOLE_VALUE:
        return _WHOLE_VALUE[name]
    # "ISO_IR 100", "ISO 2022 IR 100" and what peers make of them, such as "ISO IR100".
    digits = re.search(r"IR ?(\d+)$", name)
    return _CODECS.get(digits.group(1), DEFAULT_CODEC) if digits else DEFAULT_CODEC


def _extended(value: bytes, charset: tuple[str, ...]) -> str:
    """Return the text of a value with ISO 2022 escape sequences."""
    signs: list[str] = []
    codec, lead = charset[0], b""
    for part in _ESCAPE.split(value):
        if part in _ESCAPES:
            codec, lead = _ESCAPES[part]
        elif lead:
            # The double-byte sets in G0 use delimiter bytes as halves of signs; the Standard
            # wants an escape sequence back before a real delimiter.
            signs.append(_decode(lead + part, codec))
        else:
            for piece in _DELIMITER.split(part):
                codec = charset[0] if _DELIMITER.fullmatch(piece) else codec
                signs.append(_decode(piece, codec))
    return "".join(signs)


def _decode(value: bytes, codec: str) -> str:
    if codec == "iso2022_jp_2" and not value.startswith(b"\x1b"):
        codec = DEFAULT_CODEC
    return codecs.decode(value, codec, "replace")
