"""Read the voxels of a planned volume: one array, filled slice by slice.

Native pixels are read at their offset straight into the array that is handed out. The file is
asked again for everything that matters, because it may have changed since the plan was made.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.attributes import tolerated
from node.imaging.constant_end import constant_rows, ends_suddenly
from node.imaging.decode import DecodeFailure, FrameDecoder, FrameTask
from node.imaging.enhanced import frame_groups
from node.imaging.fragments import CutShortError, read_frames
from node.imaging.native import NativeReader
from node.imaging.pixel_format import (
    LARGEST_VOXELS,
    PixelFormat,
    ValueRule,
    pixels_of,
    value_rule,
)
from node.imaging.pixels import convert_plane
from node.imaging.planes import Plane, RefusedError, unreadable
from node.imaging.streams import check_stream
from node.imaging.syntaxes import COMPRESSED
from node.imaging.values import (
    PixelPlace,
    Refusal,
    SourceInstance,
    Volume,
    VolumePlan,
)
from node.reasons import Reason

MOST_THREADS: Final = 4
"""Threads that read one volume; more do not help a disk or a page cache."""


def load_volume(plan: VolumePlan, *, decoder: FrameDecoder | None = None) -> Volume | Refusal:
    """Read the voxels of a plan.

    Args:
        plan: From `find_volumes`.
        decoder: Children that decode compressed frames, for callers that read many volumes; by
            default they are started for this volume and ended with it.

    Returns:
        The volume, int16 where that is exact and float32 otherwise (always in SUVbw), or a
        refusal that names the instance whose pixels could not be had.
    """
    try:
        with tolerated():
            planes = _planes(plan)
        with ExitStack() as stack:
            if decoder is None:
                decoder = stack.enter_context(FrameDecoder())
            decoded = _decode(planes, decoder)
        array, padding = _fill(plan, planes, decoded)
    except RefusedError as refused:
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
        suv=plan.suv,
    )


def _planes(plan: VolumePlan) -> list[Plane]:
    """Return what fills each slice, or raise the refusal."""
    if plan.shape[0] * plan.shape[1] * plan.shape[2] > LARGEST_VOXELS:
        raise RefusedError(
            Reason.BAD_HEADER,
            f"{' x '.join(map(str, plan.shape))} voxels are more than a volume may have.",
            plan.instances[0],
        )
    groups = {
        index: frame_groups(plan.instances[index].header)
        for index in {part.instance for part in plan.slices if part.frame is not None}
    }
    planes: list[Plane] = []
    for index, part in enumerate(plan.slices):
        instance = plan.instances[part.instance]
        place, form, rule = _pixels(instance, plan)
        frame = 0
        if part.frame is not None:
            frame = part.frame - 1
            own = value_rule(
                instance.header,
                groups[part.instance][frame].transformation(),
                form,
                big_endian=place.big_endian,
            )
            if isinstance(own, str):
                raise RefusedError(Reason.BAD_HEADER, own, instance)
            rule = own
        if plan.factors:
            rule = rule.scaled(plan.factors[index])
        planes.append(Plane(instance, place, form, rule, frame))
    return planes


def _pixels(
    instance: SourceInstance, plan: VolumePlan
) -> tuple[PixelPlace, PixelFormat, ValueRule]:
    if instance.pixels is None:
        raise RefusedError(Reason.NOT_AN_IMAGE, "The instance holds no pixel element.", instance)
    found = pixels_of(instance)
    if isinstance(found, str):
        raise RefusedError(Reason.BAD_HEADER, found, instance)
    form, rule = found
    if (form.rows, form.columns) != plan.shape[1:]:
        raise RefusedError(
            Reason.MIXED_MATRIX, "Rows x columns differ from those of the plan.", instance
        )
    return instance.pixels, form, rule


def _decode(planes: list[Plane], decoder: FrameDecoder) -> dict[int, NDArray[Any]]:
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
            raise RefusedError(
                Reason.DECODE_FAILED,
                f"Frame {plane.frame + 1}: {cells.explanation}.",
                plane.instance,
            )
        decoded |= dict(zip(chosen, cells, strict=True))
    _refuse_constant_ends(planes, decoded)
    return decoded


def _tasks(planes: list[Plane], indices: list[int]) -> dict[int, FrameTask]:
    """Return the checked frames of one compressed instance by plane index."""
    first = planes[indices[0]]
    codec, form = COMPRESSED[first.place.transfer_syntax], first.form
    try:
        frames = read_frames(first.instance, codec, [planes[index].frame for index in indices])
    except CutShortError as error:
        raise RefusedError(
            Reason.TRUNCATED_FRAME, f"The pixel element: {error}.", first.instance
        ) from error
    except OSError as error:
        raise unreadable(first.instance, error) from error
    tasks = {}
    for index, data in zip(indices, frames, strict=True):
        fault = check_stream(codec, data, form)
        if fault is not None:
            raise RefusedError(
                fault[0], f"Frame {planes[index].frame + 1}: {fault[1]}.", first.instance
            )
        tasks[index] = FrameTask(codec, data, form.rows, form.columns, form.bits_allocated // 8)
    return tasks


def _refuse_constant_ends(planes: list[Plane], decoded: dict[int, NDArray[Any]]) -> None:
    """Refuse a frame whose lower rows are one value where its neighbours' are not.

    Decoders fill what they could not decode with a constant. The lowest value of the frame is
    air or padding, in which many slices end, so it does not count.
    """
    ends = {index: constant_rows(cells) for index, cells in decoded.items()}
    for index, cells in decoded.items():
        beside = [ends[near] for near in (index - 1, index + 1) if near in ends]
        if ends_suddenly(cells, ends[index], beside):
            plane = planes[index]
            raise RefusedError(
                Reason.TRUNCATED_FRAME,
                f"The last {ends[index]} rows of frame {plane.frame + 1} are one value, "
                f"where its neighbours are not.",
                plane.instance,
            )


def _fill(
    plan: VolumePlan, planes: list[Plane], decoded: dict[int, NDArray[Any]]
) -> tuple[NDArray[np.int16] | NDArray[np.float32], NDArray[np.bool_] | None]:
    """Read and convert every plane; int16 first where the headers allow it."""
    whole_numbers = all(plane.rule.integral and not plane.form.floating for plane in planes)
    if whole_numbers and not plan.factors:
        whole: NDArray[np.int16] = np.empty(plan.shape, dtype=np.int16)
        fits, padding = _convert_into(whole, planes, decoded)
        if fits:
            return whole, padding
        del whole
    real: NDArray[np.float32] = np.empty(plan.shape, dtype=np.float32)
    return real, _convert_into(real, planes, decoded)[1]


def _convert_into(
    out: NDArray[Any], planes: list[Plane], decoded: dict[int, NDArray[Any]]
) -> tuple[bool, NDArray[np.bool_] | None]:
    """Fill `out`; return whether all values fitted, and where padding lies.

    In threads, because reading and array arithmetic both let go of the interpreter.
    """
    count = len(planes)
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)), count)
    blocks = [range(k * count // threads, (k + 1) * count // threads) for k in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(lambda block: _convert_block(out, planes, decoded, block), blocks)
        found = list(done)  # in the order of slices, so the first refusal is always the same
    if None in found:
        return False, None
    marked = {index: mask for part in found if part for index, mask in part.items()}
    if not marked:
        return True, None
    padding = np.zeros(out.shape, dtype=np.bool_)
    for index, mask in marked.items():
        padding[index] = mask
    return True, padding


def _convert_block(
    out: NDArray[Any], planes: list[Plane], decoded: dict[int, NDArray[Any]], block: range
) -> dict[int, NDArray[np.bool_]] | None:
    """Fill some slices; return their padding by index, or None if a value did not fit."""
    marked: dict[int, NDArray[np.bool_]] = {}
    with NativeReader() as reader:
        for index in block:
            plane = planes[index]
            if index in decoded:
                # A copy, because a second pass into float32 may need the cells once more. What
                # a decoder returns has its own precision; HighBit is about native cells.
                cells, high_bit = decoded[index].copy(), plane.form.bits_stored - 1
            else:
                cells, high_bit = reader.read(plane, out[index]), plane.form.high_bit
            fits, padding = convert_plane(
                cells, plane.form, plane.rule, out[index], high_bit=high_bit
            )
            if not fits:
                return None
            if padding is not None:
                marked[index] = padding
    return marked
