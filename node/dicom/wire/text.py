"""Text that a peer put on the wire, made safe to compare, keep and print.

AE titles and UIDs are ASCII by the Standard (PS3.5 section 6.2). Every byte that is not printable
ASCII becomes "?", so that no value from a peer can break a log line, a page or a database. What
comes out may still hold any printable sign: it is never part of a path.
"""

from __future__ import annotations

from typing import Final

_PADDING: Final = b" \0"
"""The Standard pads text with blanks and UIDs with NUL; devices mix them up, on both sides."""

_PRINTABLE: Final = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))


def plain(value: bytes) -> str:
    """Return `value` without padding, as printable ASCII."""
    return value.strip(_PADDING).translate(_PRINTABLE).decode("ascii")
