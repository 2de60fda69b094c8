"""Read uncompressed planes at their offset, straight into the array that is handed out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.imaging.planes import Plane, RefusedError, truncated, unreadable
from node.imaging.read import read_deflated
from node.imaging.syntaxes import DEFLATED
from node.imaging.values import SourceInstance
from node.reasons import Reason


class NativeReader:
    """Reads uncompressed planes; keeps the last file open for the next frame of it."""

    def __init__(self) -> None:
        self._instance: SourceInstance | None = None
        self._descriptor = -1
        self._inflated = b""

    def __enter__(self) -> NativeReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._inflated, self._instance = -1, b"", None

    def read(self, plane: Plane, out: NDArray[Any]) -> NDArray[Any]:
        """Return the cells of a plane, in the memory of `out` where they fit there exactly."""
        form = plane.form
        kind = f"f{form.bits_allocated // 8}" if form.floating else f"u{form.bits_allocated // 8}"
        if out.dtype == np.int16 and form.bits_allocated == 16:
            cells: NDArray[Any] = out.view(np.uint16)
        else:
            cells = np.empty(out.shape, dtype=kind)
        self._read_into(plane, cells.reshape(-1).view(np.uint8).data)
        if plane.place.big_endian:
            if form.bits_allocated > 8:
                cells.byteswap(inplace=True)
            elif plane.place.vr == "OW":
                self._swap_pairs(plane, cells)
        return cells

    @staticmethod
    def _swap_pairs(plane: Plane, cells: NDArray[Any]) -> None:
        """Undo the byte order of words that hold two 8-bit pixels each (PS3.5 8.1.1)."""
        if cells.size % 2:
            raise RefusedError(
                Reason.UNSUPPORTED_SYNTAX,
                "An odd number of 8-bit pixels in big-endian words cannot be read.",
                plane.instance,
            )
        cells.reshape(-1).view(np.uint16).byteswap(inplace=True)

    def _read_into(self, plane: Plane, target: memoryview) -> None:
        if self._instance is not plane.instance:
            self._close()
            self._open(plane)
        file, place = plane.instance.file, plane.place
        start = place.offset + plane.frame * len(target)
        if place.length is None or start + len(target) > place.offset + place.length:
            raise truncated(plane, "is longer than the pixel element")
        if place.transfer_syntax == DEFLATED:
            part = self._inflated[start : start + len(target)]
            if len(part) < len(target):
                raise truncated(plane, "ends before its last byte")
            target[:] = part
            return
        if file.length and start + len(target) > file.length:
            raise truncated(plane, "ends before its last byte")
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor, [target[done:]], file.offset + start + done)
            if got == 0:
                raise truncated(plane, "ends before its last byte")
            done += got

    def _open(self, plane: Plane) -> None:
        file = plane.instance.file
        try:
            if plane.place.transfer_syntax == DEFLATED:
                self._inflated = read_deflated(file)
            else:
                self._descriptor = os.open(file.path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise unreadable(plane.instance, error) from error
        self._instance = plane.instance
