"""Find the compressed frames of an instance: items, offset tables, where each frame begins.

Every length is checked against the bytes of the instance before it is believed. Nothing is
decoded here. Source: PS3.5 A.4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from node.imaging.attributes import values
from node.imaging.read import open_instance
from node.imaging.streams import starts_frame
from node.imaging.syntaxes import Codec
from node.imaging.values import SourceInstance

_ITEM: Final = b"\xfe\xff\x00\xe0"
_DELIMITER: Final = b"\xfe\xff\xdd\xe0"


MOST_FRAGMENTS: Final = 1 << 17
"""Items that are followed in one instance; a file of empty items would keep us for minutes."""


class CutShortError(ValueError):
    """The fragments end before they should, or do not make up the frames."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """One item of the pixel element: the place of its value in the instance."""

    offset: int
    length: int


def read_frames(instance: SourceInstance, codec: Codec, frames: Sequence[int]) -> list[bytes]:
    """Return the compressed bytes of some frames of an instance.

    Args:
        instance: A compressed image.
        codec: What its frames are.
        frames: Frame numbers from 0.

    Raises:
        CutShortError: An item lies behind the end of the instance, the sequence is not closed, or
            the items do not make up the frames that the header promises.
        OSError: The file cannot be read.
    """
    groups = locate_frames(instance, codec)
    return read_located(instance, [groups[frame] for frame in frames])


def locate_frames(instance: SourceInstance, codec: Codec) -> list[list[Fragment]]:
    """Return the fragments of every frame of an instance.

    Raises:
        CutShortError: As `read_frames`.
        OSError: The file cannot be read.
    """
    with open_instance(instance.file) as stream:
        size = instance.file.length or stream.seek(0, 2)
        table, found = _fragments(stream, instance, size)
        return _group(stream, instance, codec, table, found)


def read_located(instance: SourceInstance, frames: Sequence[Sequence[Fragment]]) -> list[bytes]:
    """Return the compressed bytes of frames whose fragments are known.

    Raises:
        OSError: The file cannot be read.
    """
    with open_instance(instance.file) as stream:
        return [b"".join(_value(stream, part) for part in parts) for parts in frames]


def _value(stream: BinaryIO, fragment: Fragment, most: int | None = None) -> bytes:
    stream.seek(fragment.offset)
    return stream.read(fragment.length if most is None else min(most, fragment.length))


def _fragments(
    stream: BinaryIO, instance: SourceInstance, size: int
) -> tuple[Fragment, list[Fragment]]:
    """Return the basic offset table and the fragments, every one inside the instance."""
    at = instance.pixels.offset if instance.pixels else 0
    found: list[Fragment] = []
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            raise CutShortError("the fragments end without a delimiter")
        if head[:4] == _DELIMITER:
            break
        length = int(struct.unpack("<I", head[4:])[0])
        if head[:4] != _ITEM or at + 8 + length > size:
            raise CutShortError(f"fragment {len(found)} lies behind the end of the instance")
        if len(found) > MOST_FRAGMENTS:
            raise CutShortError(f"there are more than {MOST_FRAGMENTS} fragments")
        found.append(Fragment(at + 8, length))
        at += 8 + length
    if len(found) < 2:
        raise CutShortError("there is no fragment behind the offset table")
    return found[0], found[1:]


def _group(
    stream: BinaryIO,
    instance: SourceInstance,
    codec: Codec,
    table: Fragment,
    fragments: list[Fragment],
) -> list[list[Fragment]]:
    """Return the fragments of each frame."""
    count = int(str(instance.header.get("NumberOfFrames") or 1))
    if count == 1:
        return [fragments]
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    starts = _from_table(stream, instance, table, fragments, count)
    if starts is None:  # an empty table is legal
        starts = [
            index
            for index, fragment in enumerate(fragments)
            if starts_frame(codec, _value(stream, fragment, 16))
        ]
    if len(starts) != count or starts[0] != 0 or starts != sorted(set(starts)):
        raise CutShortError(f"{len(fragments)} fragments do not make up {count} frames")
    ends = [*starts[1:], len(fragments)]
    return [fragments[start:end] for start, end in zip(starts, ends, strict=True)]


def _from_table(
    stream: BinaryIO,
    instance: SourceInstance,
    table: Fragment,
    fragments: list[Fragment],
    count: int,
) -> list[int] | None:
    """Return the index of the first fragment of each frame by an offset table, or None."""
    extended = values(instance.header, "ExtendedOffsetTable")
    if extended and isinstance(extended[0], bytes) and len(extended[0]) == 8 * count:
        offsets = struct.unpack(f"<{count}Q", extended[0])
    elif table.length == 4 * count:
        offsets = struct.unpack(f"<{count}I", _value(stream, table))
    else:
        return None
    first = fragments[0].offset
    index_at = {fragment.offset - first: index for index, fragment in enumerate(fragments)}
    starts = [index_at.get(offset) for offset in offsets]
    return [start for start in starts if start is not None]
