"""Read the voxels of a planned volume: one array, filled slice by slice.

Native pixels are read at their offset straight into the array that is handed out. The file is
asked again for everything that matters, because it may have changed since the plan was made.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.attributes import tolerated
from node.imaging.decode import DecodeFailure, FrameDecoder, FrameTask
from node.imaging.enhanced import frame_groups
from node.imaging.fragments import CutShortError, read_frames
from node.imaging.pixels import (
    LARGEST_VOXELS,
    PixelFormat,
    ValueRule,
    convert_plane,
    pixel_format,
    value_rule,
)
from node.imaging.read import read_deflated
from node.imaging.streams import check_stream
from node.imaging.syntaxes import COMPRESSED, DEFLATED
from node.imaging.values import (
    PixelPlace,
    Refusal,
    SourceInstance,
    Volume,
    VolumePlan,
)
from node.reasons import Reason

CONSTANT_END: Final = 0.05
"""Share of rows that may suddenly be one value at the end of a decoded frame."""


class _Refused(Exception):  # noqa: N818 - carries a value to the one place that returns it
    def __init__(self, reason: Reason, explanation: str, instance: SourceInstance) -> None:
        super().__init__(explanation)
        self.reason, self.explanation, self.instance = reason, explanation, instance


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """Everything needed to fill one slice."""

    instance: SourceInstance
    place: PixelPlace
    form: PixelFormat
    rule: ValueRule
    frame: int  # from 0


def load_volume(plan: VolumePlan, *, decoder: FrameDecoder | None = None) -> Volume | Refusal:
    """Read the voxels of a plan.

    Args:
        plan: From `find_volumes`.
        decoder: Children that decode compressed frames, for callers that read many volumes; by
            default they are started for this volume and ended with it.

    Returns:
        The volume, int16 where that is exact and float32 otherwise, or a refusal that names the
        instance whose pixels could not be had.
    """
    try:
        with tolerated():
            planes = _planes(plan)
        with ExitStack() as stack:
            if decoder is None:
                decoder = stack.enter_context(FrameDecoder())
            decoded = _decode(planes, decoder)
        array, padding = _fill(plan, planes, decoded)
    except _Refused as refused:
        return Refusal(
            reason=refused.reason,
            explanation=refused.explanation,
            series_uid=plan.series_uid,
            modality=plan.modality,
            part=plan.part,
            instances=(refused.instance.sop_instance_uid,),
        )
    return Volume(
        array=array,
        affine=plan.affine,
        spacing_mm=plan.spacing_mm,
        units=plan.units,
        modality=plan.modality,
        series_uid=plan.series_uid,
        part=plan.part,
        instances=plan.instances,
        slices=plan.slices,
        padding=padding,
    )


def _planes(plan: VolumePlan) -> list[_Plane]:
    """Return what fills each slice, or raise the refusal."""
    if plan.shape[0] * plan.shape[1] * plan.shape[2] > LARGEST_VOXELS:
        raise _Refused(
            Reason.BAD_HEADER,
            f"{' x '.join(map(str, plan.shape))} voxels are more than a volume may have.",
            plan.instances[0],
        )
    groups = {
        index: frame_groups(plan.instances[index].header)
        for index in {part.instance for part in plan.slices if part.frame is not None}
    }
    planes: list[_Plane] = []
    for part in plan.slices:
        instance = plan.instances[part.instance]
        place, form = _format(instance, plan)
        frame = 0 if part.frame is None else part.frame - 1
        transformation = instance.header
        if part.frame is not None:
            transformation = groups[part.instance][frame].transformation()
        rule = value_rule(instance.header, transformation, form, big_endian=place.big_endian)
        if isinstance(rule, str):
            raise _Refused(Reason.BAD_HEADER, rule, instance)
        planes.append(_Plane(instance, place, form, rule, frame))
    return planes


def _format(instance: SourceInstance, plan: VolumePlan) -> tuple[PixelPlace, PixelFormat]:
    if instance.pixels is None:
        raise _Refused(Reason.NOT_AN_IMAGE, "The instance holds no pixel element.", instance)
    form = pixel_format(instance.header, instance.pixels)
    if isinstance(form, str):
        raise _Refused(Reason.BAD_HEADER, form, instance)
    if (form.rows, form.columns) != plan.shape[1:]:
        raise _Refused(
            Reason.MIXED_MATRIX, "Rows x columns differ from those of the plan.", instance
        )
    return instance.pixels, form


def _decode(planes: list[_Plane], decoder: FrameDecoder) -> dict[int, NDArray[Any]]:
    """Return the cells of every compressed plane by its index."""
    by_instance: dict[int, list[int]] = defaultdict(list)
    for index, plane in enumerate(planes):
        if plane.place.transfer_syntax in COMPRESSED:
            by_instance[id(plane.instance)].append(index)
    tasks: dict[int, FrameTask] = {}
    for indices in by_instance.values():
        tasks |= _tasks(planes, indices)
    decoded: dict[int, NDArray[Any]] = {}
    for cell_bytes in sorted({task.cell_bytes for task in tasks.values()}):
        chosen = [index for index in sorted(tasks) if tasks[index].cell_bytes == cell_bytes]
        cells = decoder.decode([tasks[index] for index in chosen])
        if isinstance(cells, DecodeFailure):
            plane = planes[chosen[cells.index]]
            raise _Refused(
                Reason.DECODE_FAILED,
                f"Frame {plane.frame + 1}: {cells.explanation}.",
                plane.instance,
            )
        decoded |= dict(zip(chosen, cells, strict=True))
    _refuse_constant_ends(planes, decoded)
    return decoded


def _tasks(planes: list[_Plane], indices: list[int]) -> dict[int, FrameTask]:
    """Return the checked frames of one compressed instance by plane index."""
    first = planes[indices[0]]
    codec, form = COMPRESSED[first.place.transfer_syntax], first.form
    try:
        frames = read_frames(first.instance, codec, [planes[index].frame for index in indices])
    except CutShortError as error:
        raise _Refused(
            Reason.TRUNCATED_FRAME, f"The pixel element: {error}.", first.instance
        ) from error
    except OSError as error:
        raise _unreadable(first.instance, error) from error
    tasks = {}
    for index, data in zip(indices, frames, strict=True):
        fault = check_stream(codec, data, form)
        if fault is not None:
            raise _Refused(
                fault[0], f"Frame {planes[index].frame + 1}: {fault[1]}.", first.instance
            )
        tasks[index] = FrameTask(codec, data, form.rows, form.columns, form.bits_allocated // 8)
    return tasks


def _refuse_constant_ends(planes: list[_Plane], decoded: dict[int, NDArray[Any]]) -> None:
    """Refuse a frame whose lower rows are one value where its neighbours' are not.

    Decoders fill what they could not decode with a constant. The lowest value of the frame is
    air or padding, in which many slices end, so it does not count.
    """
    ends = {index: _constant_rows(cells) for index, cells in decoded.items()}
    for index, cells in decoded.items():
        beside = [ends[near] for near in (index - 1, index + 1) if near in ends]
        sudden = ends[index] - max(beside, default=ends[index])
        if sudden > CONSTANT_END * len(cells) and cells[-1, -1] != cells.min():
            plane = planes[index]
            raise _Refused(
                Reason.TRUNCATED_FRAME,
                f"The last {ends[index]} rows of frame {plane.frame + 1} are one value, "
                f"where its neighbours are not.",
                plane.instance,
            )


def _constant_rows(cells: NDArray[Any]) -> int:
    """Return how many rows at the end hold only the last value."""
    differs = (cells != cells[-1, -1]).any(axis=1)
    return int(differs[::-1].argmax()) if differs.any() else len(cells)


def _fill(
    plan: VolumePlan, planes: list[_Plane], decoded: dict[int, NDArray[Any]]
) -> tuple[NDArray[np.int16] | NDArray[np.float32], NDArray[np.bool_] | None]:
    """Read and convert every plane; int16 first where the headers allow it."""
    if all(plane.rule.integral and not plane.form.floating for plane in planes):
        whole: NDArray[np.int16] = np.empty(plan.shape, dtype=np.int16)
        fits, padding = _convert_into(whole, planes, decoded)
        if fits:
            return whole, padding
        del whole
    real: NDArray[np.float32] = np.empty(plan.shape, dtype=np.float32)
    return real, _convert_into(real, planes, decoded)[1]


def _convert_into(
    out: NDArray[Any], planes: list[_Plane], decoded: dict[int, NDArray[Any]]
) -> tuple[bool, NDArray[np.bool_] | None]:
    """Fill `out`; return whether all values fitted, and where padding lies."""
    padding: NDArray[np.bool_] | None = None
    with _NativeReader() as reader:
        for index, plane in enumerate(planes):
            if index in decoded:
                # A copy, because a second pass into float32 may need the cells once more. What
                # a decoder returns has its own precision; HighBit is about native cells.
                cells, high_bit = decoded[index].copy(), plane.form.bits_stored - 1
            else:
                cells, high_bit = reader.read(plane, out[index]), plane.form.high_bit
            fits, found = convert_plane(
                cells, plane.form, plane.rule, out[index], high_bit=high_bit
            )
            if not fits:
                return False, None
            if found is not None:
                padding = np.zeros(out.shape, dtype=np.bool_) if padding is None else padding
                padding[index] = found
    return True, padding


class _NativeReader:
    """Reads uncompressed planes; keeps the last file open for the next frame of it."""

    def __init__(self) -> None:
        self._instance: SourceInstance | None = None
        self._descriptor = -1
        self._inflated = b""

    def __enter__(self) -> _NativeReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._inflated, self._instance = -1, b"", None

    def read(self, plane: _Plane, out: NDArray[Any]) -> NDArray[Any]:
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
    def _swap_pairs(plane: _Plane, cells: NDArray[Any]) -> None:
        """Undo the byte order of words that hold two 8-bit pixels each (PS3.5 8.1.1)."""
        if cells.size % 2:
            raise _Refused(
                Reason.UNSUPPORTED_SYNTAX,
                "An odd number of 8-bit pixels in big-endian words cannot be read.",
                plane.instance,
            )
        cells.reshape(-1).view(np.uint16).byteswap(inplace=True)

    def _read_into(self, plane: _Plane, target: memoryview) -> None:
        if self._instance is not plane.instance:
            self._close()
            self._open(plane)
        file, place = plane.instance.file, plane.place
        start = place.offset + plane.frame * len(target)
        if place.length is None or start + len(target) > place.offset + place.length:
            raise _truncated(plane, "is longer than the pixel element")
        if place.transfer_syntax == DEFLATED:
            part = self._inflated[start : start + len(target)]
            if len(part) < len(target):
                raise _truncated(plane, "ends before its last byte")
            target[:] = part
            return
        if file.length and start + len(target) > file.length:
            raise _truncated(plane, "ends before its last byte")
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor, [target[done:]], file.offset + start + done)
            if got == 0:
                raise _truncated(plane, "ends before its last byte")
            done += got

    def _open(self, plane: _Plane) -> None:
        file = plane.instance.file
        try:
            if plane.place.transfer_syntax == DEFLATED:
                self._inflated = read_deflated(file)
            else:
                self._descriptor = os.open(file.path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise _unreadable(plane.instance, error) from error
        self._instance = plane.instance


def _unreadable(instance: SourceInstance, error: Exception) -> _Refused:
    return _Refused(
        Reason.BAD_HEADER,
        f"{instance.file.path.name} can no longer be read ({type(error).__name__}).",
        instance,
    )


def _truncated(plane: _Plane, what: str) -> _Refused:
    return _Refused(Reason.TRUNCATED_FRAME, f"Frame {plane.frame + 1} {what}.", plane.instance)
