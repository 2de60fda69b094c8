"""The message that is arriving on an association: its command, its pieces, and who takes them.

Source: DICOM PS3.8 annex E (fragments), PS3.7 sections 9.3 and 10.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.dicom.statuses import RESOURCE_LIMITATION
from node.dicom.wire import dimse
from node.dicom.wire.service import Piece, Reception

LARGEST_MESSAGE: Final = 16 * 1024 * 1024
"""The data set of an N-service request; a commitment report of 100,000 instances has some 15 MB."""

_EMPTY_IN_A_ROW: Final = 64
_SMALL_MEAN_BYTES: Final = 64
_SMALL_AFTER: Final = 65_536
"""After so many fragments, their mean must not be below: 4 MiB in mean fragments of 64 bytes."""


class AbortError(Exception):
    """We end the association: with this reason of PS3.8 table 9-26, and this sentence."""

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what


class ClosedError(Exception):
    """The peer is gone, or the watch shut the socket down."""


class Message:
    """The message that is arriving."""

    __slots__ = (
        "_count",
        "_empty",
        "begun",
        "command",
        "command_bytes",
        "context_id",
        "length",
        "pieces",
        "reception",
        "until",
    )

    def __init__(self) -> None:
        self.begun = False
        self.context_id = 0
        self.command_bytes = bytearray()
        self.command: dimse.Command | None = None
        self.reception: Reception | None = None
        self.pieces: list[Piece] = []
        self.length = 0
        self.until = 0.0
        self._count = 0
        self._empty = 0

    def hand_over(self) -> None:
        """Give the pieces to the reception, so that their bytes may be overwritten."""
        if self.pieces and self.reception is not None:
            self.reception.take(self.pieces)
            self.pieces = []

    def abandon(self) -> None:
        """Forget a data set of which no more will come."""
        if self.reception is not None:
            self.reception.abandon()
            self.reception = None
        self.pieces = []

    def count_small(self, length: int) -> None:
        """Count a fragment that is not the last one, against fragments that carry nothing."""
        self._count += 1
        if not length:
            self.count_empty()
        else:
            self._empty = 0
        if self._count > _SMALL_AFTER and self.length < self._count * _SMALL_MEAN_BYTES:
            raise AbortError(6, "The fragments of a message carry next to nothing.")

    def count_empty(self) -> None:
        """Count a fragment or PDU without payload."""
        self._empty += 1
        if self._empty > _EMPTY_IN_A_ROW:
            raise AbortError(6, f"More than {_EMPTY_IN_A_ROW} fragments in a row were empty.")


class Refusing:
    """Drops a data set, and answers what was decided before."""

    def __init__(self, status: int, comment: str) -> None:
        self._status = status
        self._comment = comment

    def take(self, _pieces: Sequence[Piece]) -> None:
        """Drop them."""

    def finish(self, _pieces: Sequence[Piece]) -> tuple[int, str]:
        """Return what was decided."""
        return self._status, self._comment

    def abandon(self) -> None:
        """Nothing is held."""


class Collecting:
    """Collects the data set of an N-service request, and lets `act` answer it."""

    def __init__(self, act: Callable[[bytes], tuple[int, str]]) -> None:
        self._act = act
        self._data = bytearray()
        self._too_long = False

    def take(self, pieces: Sequence[Piece]) -> None:
        """Keep them, up to the limit."""
        for piece in pieces:
            if len(self._data) + len(piece) > LARGEST_MESSAGE:
                self._too_long = True
            if not self._too_long:
                self._data += piece

    def finish(self, pieces: Sequence[Piece]) -> tuple[int, str]:
        """Act on the whole."""
        self.take(pieces)
        if self._too_long:
            return RESOURCE_LIMITATION, f"The data set exceeds {LARGEST_MESSAGE} bytes."
        return self._act(bytes(self._data))

    def abandon(self) -> None:
        """Drop it."""
        self._data.clear()
