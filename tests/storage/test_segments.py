"""The segment journal by itself: what is appended is found again, and nothing else is."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from storage import segment_writer
from storage.errors import StorageFailed
from storage.file_system import TMPFS
from storage.records import BLOCK, HEAD_BYTES, Arrived, Written
from storage.segment_writer import SegmentWriter, count_prepared, prepare_segment
from storage.segments import (
    held_segment,
    list_segments,
    scan_segment,
    told_record,
    trim_segment,
)

SIZE = 4 << 20


def arrived(number: int, length: int = 10_000) -> Arrived:
    dataset = bytes([number % 251]) * length
    return Arrived(
        context=b'{"peer":"ct%d"}' % number,
        values=b"values",
        meta=b"meta",
        pieces=(dataset[:100], dataset[100:]),
        length=length,
        checksum=xxhash.xxh3_128_digest(dataset),
        received_ms=number,
    )


@pytest.fixture(params=["past the cache", "through the cache"])
def writer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SegmentWriter:
    if request.param == "through the cache":  # as on a file system that cannot do otherwise
        monkeypatch.setattr(segment_writer, "file_system_type", lambda _: TMPFS)
    return SegmentWriter(tmp_path, owner="n", segment_bytes=SIZE)


def numbers(root: Path, segment: str, start: int = 0) -> list[int]:
    return [record.received_ms for record in scan_segment(root, segment, start)]


def bytes_of(root: Path, written: Written) -> bytes:
    record = told_record(written.segment, written.offset, written.head)
    with (root / record.place.name).open("rb") as file:
        file.seek(record.place.offset)
        return file.read(record.place.length)


def test_what_was_appended_is_read_where_its_record_says(
    tmp_path: Path, writer: SegmentWriter
) -> None:
    first, second = writer.append(arrived(1)), writer.append(arrived(2, length=BLOCK))
    assert bytes_of(tmp_path, first) == b"meta" + b"\x01" * 10_000
    assert bytes_of(tmp_path, second) == b"meta" + b"\x02" * BLOCK
    assert second.offset == first.offset + first.span
    record = told_record(second.segment, second.offset, second.head)
    assert (record.context, record.values, record.dataset_offset) == ({"peer": "ct2"}, b"values", 4)
    with pytest.raises(StorageFailed, match="no whole record"):
        told_record(first.segment, first.offset, second.head)


def test_appends_of_many_threads_all_lie_there_and_never_on_each_other(
    tmp_path: Path, writer: SegmentWriter
) -> None:
    written: dict[int, Written] = {}

    def append(part: int) -> None:
        for number in range(part, 400, 8):
            written[number] = writer.append(arrived(number, length=30_000 + number))

    threads = [threading.Thread(target=append, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = [number for name in list_segments(tmp_path, "n") for number in numbers(tmp_path, name)]
    assert sorted(found) == list(range(400))
    assert len(list_segments(tmp_path, "n")) > 1  # it went on in another segment
    for number, where in written.items():
        assert bytes_of(tmp_path, where)[4:] == bytes([number % 251]) * (30_000 + number)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole, at: whole.__setitem__(at + 20, whole[at + 20] ^ 1),  # in the head
        lambda whole, at: whole.__setitem__(at + 5000, whole[at + 5000] ^ 1),  # in the data set
        lambda whole, at: whole.__setitem__(slice(at, at + BLOCK), bytes(BLOCK)),
    ],
)
def test_a_spoilt_record_is_stepped_over(
    tmp_path: Path, writer: SegmentWriter, spoil: Callable[[bytearray, int], None]
) -> None:
    places = [writer.append(arrived(number)) for number in (1, 2, 3)]
    path = tmp_path / places[1].segment
    whole = bytearray(path.read_bytes())
    spoil(whole, places[1].offset)
    path.write_bytes(whole)
    assert numbers(tmp_path, places[0].segment) == [1, 3]


def test_a_record_planted_in_a_data_set_or_left_of_another_segment_is_not_taken_for_one(
    tmp_path: Path, writer: SegmentWriter
) -> None:
    first = writer.append(arrived(1))
    with (tmp_path / first.segment).open("rb") as file:
        file.seek(first.offset)
        planted = file.read(first.span)
    # At the start of a block, as a sender might arrange it who knows its own record.
    head = 4096 - HEAD_BYTES - len(b'{"peer":"ct9"}' + b"values" + b"meta")
    dataset = bytes(head) + planted
    writer.append(
        arrived(9)._replace(
            pieces=(dataset,), length=len(dataset), checksum=xxhash.xxh3_128_digest(bytes(1))
        )
    )  # its own checksum does not fit, so the scan looks into it
    writer.append(arrived(3))
    assert numbers(tmp_path, first.segment) == [1, 3]


def test_a_prepared_segment_is_taken_first_and_one_writer_at_a_time(tmp_path: Path) -> None:
    prepare_segment(tmp_path, "n", SIZE)
    assert count_prepared(tmp_path, "n") == 1
    writers = [SegmentWriter(tmp_path, owner="n", segment_bytes=SIZE) for _ in range(2)]
    names = [writer.append(arrived(number)).segment for number, writer in enumerate(writers)]
    assert len(set(names)) == 2
    assert count_prepared(tmp_path, "n") == 0
    with held_segment(tmp_path, names[0]) as mine:
        assert not mine
    writers[0].close()
    with held_segment(tmp_path, names[0]) as mine:
        assert mine


def test_a_segment_is_gone_on_with_by_the_next_process_and_by_nobody_while_it_is_in_use(
    tmp_path: Path, writer: SegmentWriter
) -> None:
    first = writer.append(arrived(1))
    end = first.offset + first.span

    def going_on() -> SegmentWriter:
        return SegmentWriter(
            tmp_path, owner="n", segment_bytes=SIZE, resume=first.segment, resume_at=end
        )

    other = going_on().append(arrived(2))
    assert other.segment != first.segment
    writer.close()
    second = going_on().append(arrived(3))
    assert (second.segment, second.offset) == (first.segment, end)
    assert numbers(tmp_path, first.segment) == [1, 3]


def test_a_segment_that_is_trimmed_keeps_its_records_and_gives_back_the_rest(
    tmp_path: Path, writer: SegmentWriter
) -> None:
    first = writer.append(arrived(1))
    writer.close()
    trim_segment(tmp_path, first.segment, first.offset + first.span)
    assert numbers(tmp_path, first.segment) == [1]
    assert (tmp_path / first.segment).stat().st_blocks * 512 < SIZE // 4


def test_a_scan_believes_the_disk_and_not_what_memory_holds_of_it(tmp_path: Path) -> None:
    """After a sync that failed memory holds, as clean, what the disk does not."""
    writer = SegmentWriter(tmp_path, owner="n", segment_bytes=32 << 20)
    for number in range(31):
        last = writer.append(arrived(number, length=1_000_000))
    (tmp_path / last.segment).read_bytes()
    assert pages_in_memory(tmp_path / last.segment) == (32 << 20) // mmap.PAGESIZE
    assert numbers(tmp_path, last.segment, last.offset) == [30]
    # Read again are both ends and what the kernel reads around them, not what lay between.
    assert pages_in_memory(tmp_path / last.segment) < 0.7 * (32 << 20) // mmap.PAGESIZE


def pages_in_memory(path: Path) -> int:
    """Return how many pages of a file the kernel holds (mincore)."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        size = os.fstat(file.fileno()).st_size
        held = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        begin = ctypes.c_char.from_buffer(mapped)
        try:
            address = ctypes.c_void_p(ctypes.addressof(begin))
            assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), held) == 0
        finally:
            del begin
        return sum(one & 1 for one in held)
