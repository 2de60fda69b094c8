"""The bytes of the segment journal: how a segment begins, and how a record does.

    block 0 of a segment:  magic | salt | size | time made | checksum
    a record:              head (fixed fields) | context (JSON) | values | PS3.10 bytes | padding

A head names its own segment (by the random salt) and offset and carries checksums of everything,
so that after a crash what is whole can be told from what is torn, whatever stale or hostile bytes
lie between, and nobody can plant a record inside a data set.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import xxhash

from storage.objects import Place

BLOCK: Final = 4096

RECORD_MAGIC: Final = b"LIMNREC1"
_SEGMENT_MAGIC: Final = b"LIMNSEG1"
_SEGMENT_HEAD: Final = struct.Struct("<8s16sQQ")  # magic, salt, size, made (ms)
_HEAD: Final = struct.Struct("<8s16sQQIIIIQQ16s")
_LENGTHS_AT: Final = 40
_CHECKSUM_BYTES: Final = 16
HEAD_BYTES: Final = _HEAD.size + _CHECKSUM_BYTES
_REFERS: Final = 1  # flag: the PS3.10 bytes lie in the object that the context names

Buffer = bytes | bytearray | memoryview


class Record(NamedTuple):
    """One durable record.

    Attributes:
        segment: Object name of the segment.
        offset: Of the record in its segment.
        span: Bytes that the record takes there, a multiple of `BLOCK`.
        place: Where the PS3.10 bytes lie.
        dataset_offset: Of the data set in the PS3.10 bytes.
        context: What was known of the sender, as it was given to `append`.
        values: What the header walk found, as it was given to `append`.
        received_ms: Wall clock of the receiver, milliseconds since 1970 UTC.
        checksum: xxh3_128 of the data set, hex.
    """

    segment: str
    offset: int
    span: int
    place: Place
    dataset_offset: int
    context: Mapping[str, str]
    values: bytes
    received_ms: int
    checksum: str


class Arrived(NamedTuple):
    """What `append` stores of one instance.

    Attributes:
        context: JSON bytes of an object of strings.
        values: Opaque bytes, read again by whoever makes the rows.
        meta: Preamble and file meta information.
        pieces: The data set in order; empty if `elsewhere` has it.
        length: Bytes of the data set.
        checksum: xxh3_128 of the data set, 16 bytes.
        received_ms: Milliseconds since 1970 UTC.
        elsewhere: Whether the PS3.10 bytes lie in a file of their own, which the context names
            as `object`. `meta` then only says where its data set starts.
    """

    context: bytes
    values: bytes
    meta: bytes
    pieces: Sequence[Buffer]
    length: int
    checksum: bytes
    received_ms: int
    elsewhere: bool = False


class Written(NamedTuple):
    """Where `append` put a record, and what it wrote before the data set."""

    segment: str
    offset: int
    span: int
    head: bytes


def aligned(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def encode_segment_head(salt: bytes, size: int) -> bytes:
    """Return block 0 of a segment."""
    fields = _SEGMENT_HEAD.pack(_SEGMENT_MAGIC, salt, size, time.time_ns() // 1_000_000)
    return (fields + xxhash.xxh3_128_digest(fields)).ljust(BLOCK, b"\0")


def read_salt(block: bytes) -> bytes | None:
    """Return the salt of a segment from its block 0; None if that was never finished."""
    fields = block[: _SEGMENT_HEAD.size]
    if len(fields) < _SEGMENT_HEAD.size or not fields.startswith(_SEGMENT_MAGIC):
        return None
    checksum = block[_SEGMENT_HEAD.size : _SEGMENT_HEAD.size + _CHECKSUM_BYTES]
    if xxhash.xxh3_128_digest(fields) != checksum:
        return None
    salt: bytes = _SEGMENT_HEAD.unpack(fields)[1]
    return salt


def encode_head(salt: bytes, offset: int, span: int, arrived: Arrived) -> bytes:
    """Return all of a record that comes before its data set."""
    fields = _HEAD.pack(
        RECORD_MAGIC,
        salt,
        offset,
        span,
        len(arrived.context),
        len(arrived.values),
        len(arrived.meta),
        _REFERS if arrived.elsewhere else 0,
        arrived.length,
        arrived.received_ms,
        arrived.checksum,
    )
    rest = arrived.context + arrived.values + arrived.meta
    return fields + xxhash.xxh3_128_digest(fields + rest) + rest


def head_size(start: bytes) -> int:
    """Return how many bytes the head that starts here claims to have, at most 16 MiB."""
    if len(start) < HEAD_BYTES:
        return HEAD_BYTES
    context_bytes, values_bytes, meta_bytes = struct.unpack_from("<III", start, _LENGTHS_AT)
    return min(HEAD_BYTES + int(context_bytes) + int(values_bytes) + int(meta_bytes), 16 << 20)


def decode_head(segment: str, offset: int, head: bytes, salt: bytes | None) -> Record | None:
    """Return the record whose head starts at `offset`; None if that is not a whole head.

    Args:
        segment: Object name of the segment.
        offset: In the segment.
        head: At least everything before the data set.
        salt: Of the segment; None if the head comes from its writer and not from the disk.
    """
    if len(head) < HEAD_BYTES:
        return None
    magic, its_salt, its_offset, span, context_bytes, values_bytes, meta_bytes, *rest = (
        _HEAD.unpack_from(head)
    )
    flags, length, received_ms, checksum = rest
    size = HEAD_BYTES + context_bytes + values_bytes + meta_bytes
    expected = (RECORD_MAGIC, its_salt if salt is None else salt, offset)
    if (magic, its_salt, its_offset) != expected or size > len(head):
        return None
    fields, end = head[: _HEAD.size], HEAD_BYTES + context_bytes
    if xxhash.xxh3_128_digest(fields + head[HEAD_BYTES:size]) != head[_HEAD.size : HEAD_BYTES]:
        return None
    context = json.loads(head[HEAD_BYTES:end])
    if flags & _REFERS:
        place = Place(context["object"], 0, meta_bytes + length)
    else:
        place = Place(segment, offset + end + values_bytes, meta_bytes + length)
    return Record(
        segment=segment,
        offset=offset,
        span=span,
        place=place,
        dataset_offset=meta_bytes,
        context=context,
        values=head[end : end + values_bytes],
        received_ms=received_ms,
        checksum=checksum.hex(),
    )
