"""Read the voxels of a planned volume: one array, filled slice by slice.

Native pixels are read at their offset straight into the array that is handed out. The file is
asked again for everything that matters, because it may have changed since the plan was made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.imaging.attributes import tolerated
from node.imaging.enhanced import frame_groups
from node.imaging.pixels import (
    LARGEST_VOXELS,
    PixelFormat,
    ValueRule,
    convert_plane,
    pixel_format,
    value_rule,
)
from node.imaging.read import read_deflated
from node.imaging.syntaxes import DEFLATED
from node.imaging.values import (
    PixelPlace,
    Refusal,
    SourceInstance,
    Volume,
    VolumePlan,
)
from node.reasons import Reason


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


def load_volume(plan: VolumePlan) -> Volume | Refusal:
    """Read the voxels of a plan.

    Returns:
        The volume, int16 where that is exact and float32 otherwise, or a refusal that names the
        instance whose pixels could not be had.
    """
    try:
        with tolerated():
            planes = _planes(plan)
        array, padding = _fill(plan, planes)
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


def _fill(
    plan: VolumePlan, planes: list[_Plane]
) -> tuple[NDArray[np.int16] | NDArray[np.float32], NDArray[np.bool_] | None]:
    """Read and convert every plane; int16 first where the headers allow it."""
    if all(plane.rule.integral and not plane.form.floating for plane in planes):
        whole: NDArray[np.int16] = np.empty(plan.shape, dtype=np.int16)
        fits, padding = _convert_into(whole, planes)
        if fits:
            return whole, padding
        del whole
    real: NDArray[np.float32] = np.empty(plan.shape, dtype=np.float32)
    return real, _convert_into(real, planes)[1]


def _convert_into(out: NDArray[Any], planes: list[_Plane]) -> tuple[bool, NDArray[np.bool_] | None]:
    """Fill `out`; return whether all values fitted, and where padding lies."""
    padding: NDArray[np.bool_] | None = None
    with _NativeReader() as reader:
        for index, plane in enumerate(planes):
            cells = reader.read(plane, out[index])
            fits, found = convert_plane(
                cells, plane.form, plane.rule, out[index], high_bit=plane.form.high_bit
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
            raise _Refused(
                Reason.BAD_HEADER,
                f"{file.path.name} can no longer be read ({type(error).__name__}).",
                plane.instance,
            ) from error
        self._instance = plane.instance


def _truncated(plane: _Plane, what: str) -> _Refused:
    return _Refused(Reason.TRUNCATED_FRAME, f"Frame {plane.frame + 1} {what}.", plane.instance)
