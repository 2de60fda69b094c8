"""Instances for benchmarks, as Explicit VR Little Endian bytes of plausible size and header.

An object is made once; every instance of it differs in its SOP Instance UID only, which lies at a
known place and has a fixed length (`2.25.` and 39 digits, PS3.5 B.2), so that a sender can write
the last ten digits over those of the instance before. Pixel data is noise: it does not compress.
A large object is kept as one block that repeats. Standard library only.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
SERIAL_DIGITS: Final = 10

_IMPLEMENTATION_UID: Final = b"2.25.306180312440152374231402313045716842401"
_LONG_VRS: Final = frozenset({"OB", "OW", "UN"})
_PIXEL_DATA: Final = 0x7FE00010
_SOP_INSTANCE_UID: Final = 0x00080018


class Kind(StrEnum):
    """Which object."""

    CT = "ct"  # one slice of 512 x 512 x 16 bit, 13 KB of private elements, 539 KB in all
    MR = "mr"  # one slice of 256 x 256 x 16 bit under 71 KB of private elements, 204 KB in all
    US = "us"  # 191 frames of 1024 x 1024 x 8 bit, 200 MB in all
    SMALL = "small"  # 32 x 32 x 16 bit and few elements, 3.5 KB in all


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomObject:
    """A dataset that stands for many instances.

    Attributes:
        sop_class: SOP Class UID.
        head: The dataset up to the value of its pixel data.
        block: The pixel data, or one frame of it.
        repeats: How often `block` follows `head`.
        sop_uid_at: Where in `head` the SOP Instance UID's 44 characters begin.
        stem: The first 34 characters of every instance's UID.
    """

    sop_class: str
    head: bytes
    block: bytes
    repeats: int
    sop_uid_at: int
    stem: str

    @property
    def dataset_bytes(self) -> int:
        """Length of the dataset."""
        return len(self.head) + len(self.block) * self.repeats

    def sop_uid(self, serial: int) -> str:
        """Return the SOP Instance UID of the instance with that number."""
        return numbered_uid(self.stem, serial)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What makes one kind differ from another."""

    sop_class: str
    modality: str
    rows: int
    frames: int
    bits: int
    private: tuple[tuple[int, int], ...]  # tag -> bytes; creators stand in front of them


_SHAPES: Final = {
    Kind.CT: _Shape(
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        modality="CT",
        rows=512,
        frames=1,
        bits=16,
        private=((0x00091001, 1_024), (0x00091002, 4_096), (0x00091003, 7_880)),
    ),
    Kind.MR: _Shape(
        sop_class="1.2.840.10008.5.1.4.1.1.4",
        modality="MR",
        rows=256,
        frames=1,
        bits=16,
        private=((0x00291010, 11_048), (0x00291020, 59_960)),
    ),
    Kind.US: _Shape(
        sop_class="1.2.840.10008.5.1.4.1.1.3.1",
        modality="US",
        rows=1024,
        frames=191,
        bits=8,
        private=(),
    ),
    Kind.SMALL: _Shape(
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        modality="CT",
        rows=32,
        frames=1,
        bits=16,
        private=(),
    ),
}


def uid_stem(rng: random.Random) -> str:
    """Return the first 34 characters of UIDs that `numbered_uid` completes to 128-bit ones."""
    return f"2.25.1{rng.randrange(10**28):028d}"


def numbered_uid(stem: str, serial: int) -> str:
    """Return a UID of 44 characters."""
    return f"{stem}{serial:0{SERIAL_DIGITS}d}"


def make_object(kind: Kind, rng: random.Random) -> DicomObject:
    """Return an object of a study and a series of its own.

    Args:
        kind: Which object.
        rng: Gives UIDs and noise; two generators with one seed give one object.
    """
    shape = _SHAPES[kind]
    stem = uid_stem(rng)
    elements = _patient_and_study(rng) | _series_and_image(shape, rng, stem) | _private(shape, rng)
    encoded = {tag: _element(tag, vr, value) for tag, (vr, value) in sorted(elements.items())}
    frame = rng.randbytes(shape.rows * shape.rows * shape.bits // 8)
    pixels = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", len(frame) * shape.frames)
    before = sum(len(data) for tag, data in encoded.items() if tag < _SOP_INSTANCE_UID)
    return DicomObject(
        sop_class=shape.sop_class,
        head=b"".join(encoded.values()) + pixels,
        block=frame,
        repeats=shape.frames,
        sop_uid_at=before + 8,
        stem=stem,
    )


def file_start(made: DicomObject, serial: int) -> bytes:
    """Return what comes before the blocks in the PS3.10 file of one instance."""
    uid = made.sop_uid(serial).encode()
    meta = b"".join(
        _element(tag, vr, value)
        for tag, vr, value in (
            (0x00020001, "OB", b"\x00\x01"),
            (0x00020002, "UI", made.sop_class.encode()),
            (0x00020003, "UI", uid),
            (0x00020010, "UI", EXPLICIT_VR_LITTLE_ENDIAN.encode()),
            (0x00020012, "UI", _IMPLEMENTATION_UID),
        )
    )
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    head = made.head[: made.sop_uid_at] + uid + made.head[made.sop_uid_at + len(uid) :]
    return bytes(128) + b"DICM" + length + meta + head


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """Encode one element (PS3.5 7.1.2), padding its value to an even length."""
    if len(value) % 2:
        value += b"\x00" if vr in ("UI", "OB", "UN") else b" "
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG_VRS:
        return start + struct.pack("<2xI", len(value)) + value
    return start + struct.pack("<H", len(value)) + value


def _patient_and_study(rng: random.Random) -> dict[int, tuple[str, bytes]]:
    number = rng.randrange(10**8)
    return {
        0x00080020: ("DA", b"20260312"),
        0x00080030: ("TM", b"081530.120000"),
        0x00080050: ("SH", b"A%08d" % number),
        0x00080080: ("LO", b"General Hospital"),
        0x00080090: ("PN", b"Referring^Physician"),
        0x00081030: ("LO", b"Thorax and abdomen"),
        0x00100010: ("PN", b"Benchmark^P%08d" % number),
        0x00100020: ("LO", b"BENCH-%08d" % number),
        0x00100030: ("DA", b"19610704"),
        0x00100040: ("CS", b"F"),
        0x00101010: ("AS", b"064Y"),
        0x00101030: ("DS", b"71.5"),
        0x0020000D: ("UI", numbered_uid(uid_stem(rng), 1).encode()),
        0x00200010: ("SH", b"S%08d" % number),
    }


def _series_and_image(shape: _Shape, rng: random.Random, stem: str) -> dict[int, tuple[str, bytes]]:
    texts = {
        0x00080005: ("CS", b"ISO_IR 100"),
        0x00080008: ("CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        0x00080016: ("UI", shape.sop_class.encode()),
        _SOP_INSTANCE_UID: ("UI", numbered_uid(stem, 0).encode()),
        0x00080021: ("DA", b"20260312"),
        0x00080022: ("DA", b"20260312"),
        0x00080023: ("DA", b"20260312"),
        0x00080031: ("TM", b"081612.000000"),
        0x00080032: ("TM", b"081613.250000"),
        0x00080033: ("TM", b"081613.250000"),
        0x00080060: ("CS", shape.modality.encode()),
        0x00080070: ("LO", b"Bench Medical"),
        0x00081010: ("SH", b"SCANNER1"),
        0x0008103E: ("LO", b"Thorax 1.25 axial"),
        0x00081090: ("LO", b"Model 64"),
        0x00180015: ("CS", b"CHEST"),
        0x00180050: ("DS", b"1.25"),
        0x00180060: ("DS", b"120"),
        0x00180088: ("DS", b"1.25"),
        0x00180090: ("DS", b"500"),
        0x00181000: ("LO", b"SN-000417"),
        0x00181020: ("LO", b"7.2.1"),
        0x00181030: ("LO", b"Thorax routine"),
        0x00181100: ("DS", b"360"),
        0x00181120: ("DS", b"0"),
        0x00181150: ("IS", b"500"),
        0x00181151: ("IS", b"220"),
        0x00181160: ("SH", b"BODY"),
        0x00181210: ("SH", b"STANDARD"),
        0x00185100: ("CS", b"HFS"),
        0x0020000E: ("UI", numbered_uid(uid_stem(rng), 1).encode()),
        0x00200011: ("IS", b"2"),
        0x00200012: ("IS", b"1"),
        0x00200013: ("IS", b"1"),
        0x00200032: ("DS", b"-180\\-180\\1.25"),
        0x00200037: ("DS", b"1\\0\\0\\0\\1\\0"),
        0x00200052: ("UI", numbered_uid(uid_stem(rng), 1).encode()),
        0x00201040: ("LO", b"SN"),
        0x00201041: ("DS", b"1.25"),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280030: ("DS", b"0.703125\\0.703125"),
        0x00281050: ("DS", b"40"),
        0x00281051: ("DS", b"400"),
        0x00281052: ("DS", b"-1024"),
        0x00281053: ("DS", b"1"),
    }
    if shape.frames > 1:
        texts |= {
            0x00181063: ("DS", b"33.3"),
            0x00280008: ("IS", str(shape.frames).encode()),
            0x00280009: ("AT", struct.pack("<HH", 0x0018, 0x1063)),
        }
    numbers = {
        0x00280002: 1,
        0x00280010: shape.rows,
        0x00280011: shape.rows,
        0x00280100: shape.bits,
        0x00280101: shape.bits,
        0x00280102: shape.bits - 1,
        0x00280103: 0,
    }
    return texts | {tag: ("US", struct.pack("<H", number)) for tag, number in numbers.items()}


def _private(shape: _Shape, rng: random.Random) -> dict[int, tuple[str, bytes]]:
    found: dict[int, tuple[str, bytes]] = {}
    for tag, length in shape.private:
        found[tag & 0xFFFF0000 | 0x0010] = ("LO", b"BENCH HEADER")
        found[tag] = ("OB", rng.randbytes(length))
    return found
