"""Read frames of one ultrasound image as grey, a few at a time.

A long cine never lies in memory as a whole: what is asked for is read, decoded and reduced to
one grey channel, and the rest stays on disk. Every stream is looked at before a decoder is, and
a frame that is cut short is refused, never a grey picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.attributes import tolerated
from node.imaging.colour import (
    Space,
    coloured_pixels,
    declared_space,
    luma,
    palette_grey,
    seen_space,
    stream_space,
)
from node.imaging.constant_end import constant_rows, ends_suddenly
from node.imaging.decode import DecodeFailure, FrameDecoder, FrameTask
from node.imaging.fragments import CutShortError, Fragment, locate_frames, read_located
from node.imaging.native import NativeReader
from node.imaging.pixel_format import PixelFormat, ValueRule, pixel_format
from node.imaging.pixels import stored_values
from node.imaging.planes import Plane, RefusedError, unreadable
from node.imaging.streams import check_stream
from node.imaging.syntaxes import COMPRESSED, Codec
from node.imaging.values import Frames, FramesPlan, Grey, PixelPlace
from node.reasons import Reason

COLOURED_SHARE: Final = 0.1
"""Share of the tissue that may be coloured before a model that knows grey alone is kept away."""


@contextmanager
def open_frames(
    plan: FramesPlan, *, decoder: FrameDecoder | None = None, colour_accepted: bool
) -> Iterator[Frames]:
    """Open the frames of a plan for reading.

    Args:
        plan: From `find_images`.
        decoder: Children that decode compressed frames; by default they are started for these
            frames and ended with them.
        colour_accepted: False refuses a frame whose tissue is coloured, as Doppler is.

    Raises:
        RefusedError: The header no longer fits the plan, or (from `Frames.read`) a frame is cut
            short, cannot be decoded, or is coloured.
    """
    with ExitStack() as stack:
        decoder = decoder or stack.enter_context(FrameDecoder())
        native = stack.enter_context(NativeReader())
        with tolerated():
            reader = _Reader(plan, decoder, native, colour_accepted=colour_accepted)
        yield Frames(plan, reader.read)


class _Reader:
    """Reads frames of one instance; the native reader keeps its file open."""

    def __init__(
        self,
        plan: FramesPlan,
        decoder: FrameDecoder,
        native: NativeReader,
        *,
        colour_accepted: bool,
    ) -> None:
        self._plan, self._decoder, self._native = plan, decoder, native
        self._colour_accepted = colour_accepted
        self._place, self._form = _format(plan)
        space = declared_space(plan.instance.header)
        if not isinstance(space, Space):
            raise RefusedError(Reason.BAD_HEADER, space, plan.instance)
        self._space = space
        self._table: NDArray[np.uint8] | None = None
        self._fragments: list[list[Fragment]] | None = None
        if space is Space.PALETTE:
            table = palette_grey(plan.instance.header)
            if isinstance(table, str):
                raise RefusedError(Reason.BAD_HEADER, table, plan.instance)
            self._table = table

    def read(self, indices: Sequence[int]) -> Grey:
        """Return frames (n, rows, columns) as grey; see `Frames.read`."""
        with tolerated():
            return self._read(indices)

    def _read(self, indices: Sequence[int]) -> Grey:
        if self._place.transfer_syntax in COMPRESSED:
            cells, spaces = self._decoded(indices)
        else:
            cells = np.stack([self._read_native(index) for index in indices])
            spaces = [self._space] * len(indices)
        if self._form.samples == 3:
            grey: Grey = np.stack(
                [
                    self._grey_of(index, frame, space)
                    for index, frame, space in zip(indices, cells, spaces, strict=True)
                ]
            )
            return grey
        return self._grey_of_one_sample(cells)

    def _grey_of(self, index: int, samples: NDArray[Any], space: Space) -> NDArray[np.uint8]:
        """Return the grey of one colour frame (rows, columns, 3), unless it is too coloured."""
        space = seen_space(samples, space)
        if not self._colour_accepted:
            self._refuse_colour(index, samples, space)
        return luma(samples) if space is Space.RGB else samples[..., 0]

    def _refuse_colour(self, index: int, samples: NDArray[Any], space: Space) -> None:
        boxes = [region.box for region in self._plan.regions] or [(0, 0, *samples.shape[:2])]
        parts = [samples[top:bottom, left:right] for top, left, bottom, right in boxes]
        coloured = sum(int(coloured_pixels(part, space).sum()) for part in parts)
        share = coloured / sum(part.shape[0] * part.shape[1] for part in parts)
        if share > COLOURED_SHARE:
            raise RefusedError(
                Reason.COLOURED,
                f"{share:.0%} of the tissue of frame {index + 1} is coloured.",
                self._plan.instance,
            )

    def _grey_of_one_sample(self, cells: NDArray[Any]) -> Grey:
        form, native = self._form, self._place.transfer_syntax not in COMPRESSED
        values = stored_values(
            cells.copy(), form, high_bit=form.high_bit if native else form.bits_stored - 1
        )
        if self._table is not None:
            grey: Grey = self._table[values.astype(np.int64) & (len(self._table) - 1)]
            return grey
        if self._space is Space.INVERTED:
            # Display polarity: the highest stored value becomes the lowest.
            low = -(1 << (form.bits_stored - 1)) if form.signed else 0
            values = (2 * low + (1 << form.bits_stored) - 1) - values.astype(np.int32)
        if form.bits_stored <= 8 and not form.signed:
            return values.astype(np.uint8)
        return values.astype(np.float32)

    def _read_native(self, index: int) -> NDArray[Any]:
        """Return the cells of one uncompressed frame: (rows, columns) or (rows, columns, 3)."""
        form = self._form
        plane = Plane(self._plan.instance, self._place, form, ValueRule(), index)
        cell = f"u{form.bits_allocated // 8}"
        if form.samples == 1:
            return self._native.read(plane, np.empty((form.rows, form.columns), cell))
        if form.halved:
            halves = self._native.read(plane, np.empty((form.rows, form.columns // 2, 4), cell))
            luminance = halves[..., :2].reshape(form.rows, form.columns)
            differences = np.repeat(halves[..., 2:], 2, axis=1)
            return np.concatenate([luminance[..., None], differences], axis=-1)
        if int(self._plan.instance.header.get("PlanarConfiguration") or 0) == 1:
            planes = self._native.read(plane, np.empty((3, form.rows, form.columns), cell))
            return np.moveaxis(planes, 0, -1)
        return self._native.read(plane, np.empty((form.rows, form.columns, 3), cell))

    def _decoded(self, indices: Sequence[int]) -> tuple[NDArray[Any], list[Space]]:
        """Return the cells of compressed frames, and what their streams say they are."""
        codec, instance = COMPRESSED[self._place.transfer_syntax], self._plan.instance
        try:
            if self._fragments is None:  # a long cine has thousands: they are followed once
                self._fragments = locate_frames(instance, codec)
            streams = read_located(instance, [self._fragments[index] for index in indices])
        except CutShortError as error:
            raise RefusedError(
                Reason.TRUNCATED_FRAME, f"The pixel element: {error}.", instance
            ) from error
        except OSError as error:
            raise unreadable(instance, error) from error
        tasks = [
            self._task(codec, index, data) for index, data in zip(indices, streams, strict=True)
        ]
        cells = self._decoder.decode(tasks)
        if isinstance(cells, DecodeFailure):
            raise RefusedError(
                Reason.DECODE_FAILED,
                f"Frame {indices[cells.index] + 1}: {cells.explanation}.",
                instance,
            )
        self._refuse_constant_ends(indices, cells)
        if self._form.samples == 1:
            return cells, [self._space] * len(indices)
        return cells, [stream_space(codec, data, self._space) for data in streams]

    def _task(self, codec: Codec, index: int, data: bytes) -> FrameTask:
        form = self._form
        fault = check_stream(codec, data, form)
        if fault is not None:
            raise RefusedError(fault[0], f"Frame {index + 1}: {fault[1]}.", self._plan.instance)
        return FrameTask(
            codec, data, form.rows, form.columns, form.bits_allocated // 8, form.samples
        )

    def _refuse_constant_ends(self, indices: Sequence[int], cells: NDArray[Any]) -> None:
        """Refuse a frame that ends in a decoder's fill, by the other frames read with it."""
        brightness = cells[..., 0] if self._form.samples == 3 else cells
        ends = [constant_rows(frame) for frame in brightness]
        for at, index in enumerate(indices):
            beside = [ends[near] for near in (at - 1, at + 1) if 0 <= near < len(ends)]
            if ends_suddenly(brightness[at], ends[at], beside):
                raise RefusedError(
                    Reason.TRUNCATED_FRAME,
                    f"The last {ends[at]} rows of frame {index + 1} are one value, where its "
                    "neighbours are not.",
                    self._plan.instance,
                )


def _format(plan: FramesPlan) -> tuple[PixelPlace, PixelFormat]:
    place = plan.instance.pixels
    if place is None:
        raise RefusedError(
            Reason.NOT_AN_IMAGE, "The instance holds no pixel element.", plan.instance
        )
    form = pixel_format(plan.instance.header, place)
    if isinstance(form, str):
        raise RefusedError(Reason.BAD_HEADER, form, plan.instance)
    if (form.frames, form.rows, form.columns) != plan.shape:
        raise RefusedError(
            Reason.MIXED_MATRIX, "Frames x rows x columns differ from the plan's.", plan.instance
        )
    return place, form
