"""Compressed frames: the right values, or a refusal; never a hang, a crash or a guess."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rle.rle import encode_frame

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.decode import DecodeFailure, FrameDecoder, FrameTask
from node.imaging.syntaxes import Codec
from node.imaging.values import Refusal, Volume, VolumePlan
from node.reasons import Reason

from .build import compressed, enhanced, phantom, save, series

N = 3
Cells = NDArray[np.uint16]


def _rle(cells: Cells) -> bytes:
    return bytes(encode_frame(cells.tobytes(), *cells.shape, 1, 16, "<"))


ENCODERS: dict[str, Callable[[Cells], bytes]] = {
    RLELossless: _rle,
    JPEGLosslessSV1: lambda cells: imagecodecs.jpeg8_encode(cells, lossless=True, bitspersample=12),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda cells: imagecodecs.jpeg2k_encode(
        cells, level=0, codecformat="j2k", reversible=True, bitspersample=12
    ),
    HTJ2KLossless: lambda cells: imagecodecs.htj2k_encode(cells, reversible=True),
}


def compressed_series(
    syntax: str, damage: Callable[[bytes], bytes] = lambda frame: frame
) -> list[Dataset]:
    """Return a series whose second slice is damaged."""
    encode = ENCODERS[syntax]
    data = []
    for index, each in enumerate(series(pixels=phantom(N))):
        frame = encode(phantom(N)[index])
        data.append(compressed(each, syntax, damage(frame) if index == 1 else frame))
    return data


@pytest.fixture(scope="module")
def decoder() -> Iterator[FrameDecoder]:
    with FrameDecoder() as found:
        yield found


def read(folder: Path, decoder: FrameDecoder) -> Volume | Refusal:
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan), plan
    return load_volume(plan, decoder=decoder)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: uid.name)
def test_lossless_frames_give_the_native_values(
    tmp_path: Path, syntax: str, decoder: FrameDecoder
) -> None:
    volume = read(save(tmp_path, compressed_series(syntax)), decoder)
    assert isinstance(volume, Volume), volume
    np.testing.assert_array_equal(volume.array, phantom(N).astype(np.int16) - 1024)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: uid.name)
def test_a_frame_cut_short_is_refused_and_names_its_instance(
    tmp_path: Path, syntax: str, decoder: FrameDecoder
) -> None:
    cut = compressed_series(syntax, lambda frame: frame[: len(frame) // 2 // 2 * 2])
    refusal = read(save(tmp_path, cut), decoder)
    assert isinstance(refusal, Refusal)
    wanted = {Reason.TRUNCATED_FRAME}
    if syntax == RLELossless:  # has no end marker: only the decoder can see it
        wanted = {Reason.TRUNCATED_FRAME, Reason.DECODE_FAILED}
    assert refusal.reason in wanted
    assert refusal.instances == ("2.25.10001",)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: uid.name)
def test_a_frame_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, syntax: str, decoder: FrameDecoder
) -> None:
    other = ENCODERS[syntax](phantom(1, 40, 24)[0] % 4096)
    refusal = read(save(tmp_path, compressed_series(syntax, lambda _: other)), decoder)
    assert isinstance(refusal, Refusal)
    wanted = Reason.DECODE_FAILED if syntax == RLELossless else Reason.DECODE_MISMATCH
    assert refusal.reason is wanted


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: uid.name)
def test_no_damage_to_the_body_gets_past_as_an_exception(
    tmp_path: Path, syntax: str, decoder: FrameDecoder
) -> None:
    rng = np.random.default_rng(11)

    def damage(frame: bytes) -> bytes:
        body = np.frombuffer(frame, np.uint8).copy()
        at = rng.integers(70, len(body) - 2, 6)
        body[at] ^= rng.integers(1, 255, 6).astype(np.uint8)
        return body.tobytes()

    for index in range(4):
        folder = save(tmp_path / str(index), compressed_series(syntax, damage))
        assert isinstance(read(folder, decoder), Volume | Refusal)


def test_fewer_bits_in_the_stream_than_in_the_header_are_a_mismatch(
    tmp_path: Path, decoder: FrameDecoder
) -> None:
    narrow = imagecodecs.jpeg8_encode((phantom(N)[1] % 256).astype(np.uint8), lossless=True)
    refusal = read(save(tmp_path, compressed_series(JPEGLosslessSV1, lambda _: narrow)), decoder)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.DECODE_MISMATCH
    assert "8 bits" in refusal.explanation


def test_signed_values_survive_a_codec_that_knows_no_sign(
    tmp_path: Path, decoder: FrameDecoder
) -> None:
    values = phantom(N).astype(np.int16) - 1000
    data = series(pixels=values)
    for index, each in enumerate(data):
        each.RescaleIntercept = 0
        cells = (values[index] & 0x0FFF).astype(np.uint16)
        compressed(each, JPEGLSLossless, imagecodecs.jpegls_encode(cells))
    volume = read(save(tmp_path, data), decoder)
    assert isinstance(volume, Volume), volume
    np.testing.assert_array_equal(volume.array, values)


def test_a_codestream_that_says_signed_is_read_by_the_header(
    tmp_path: Path, decoder: FrameDecoder
) -> None:
    values = phantom(N).astype(np.int16) - 1000
    data = series(pixels=values)
    for index, each in enumerate(data):
        each.RescaleIntercept = 0
        frame = imagecodecs.jpeg2k_encode(
            values[index], level=0, codecformat="j2k", reversible=True
        )
        compressed(each, JPEG2000Lossless, frame)
    volume = read(save(tmp_path, data), decoder)
    assert isinstance(volume, Volume), volume
    np.testing.assert_array_equal(volume.array, values)


def test_twelve_bit_lossy_frames_are_near_the_native_values(
    tmp_path: Path, decoder: FrameDecoder
) -> None:
    smooth = phantom(N)
    smooth[:, 0] = smooth[:, 1]
    data = series(pixels=smooth)
    for index, each in enumerate(data):
        frame = imagecodecs.jpeg8_encode(smooth[index], level=98, bitspersample=12)
        compressed(each, JPEGExtended12Bit, frame)
    volume = read(save(tmp_path, data), decoder)
    assert isinstance(volume, Volume), volume
    assert np.abs(volume.array - (smooth.astype(int) - 1024)).max() <= 8


def test_a_frame_whose_lower_half_is_suddenly_one_value_is_refused(
    tmp_path: Path, decoder: FrameDecoder
) -> None:
    half = phantom(N)[1].copy()
    half[10:] = 2048
    frame = ENCODERS[JPEGLSLossless](half)
    refusal = read(save(tmp_path, compressed_series(JPEGLSLossless, lambda _: frame)), decoder)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.TRUNCATED_FRAME
    assert "one value" in refusal.explanation


def test_an_unknown_syntax_is_refused_by_name(tmp_path: Path) -> None:
    data = compressed_series(JPEGLSLossless)
    for each in data:
        each.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    (refusal,) = find_volumes(read_folder(save(tmp_path, data)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.UNSUPPORTED_SYNTAX
    assert "MPEG2 Main Profile / Main Level (1.2.840.10008.1.2.4.100)" in refusal.explanation


@pytest.mark.parametrize("pieces", [1, 3])
def test_frames_of_an_enhanced_instance_are_found_with_and_without_fragments(
    tmp_path: Path, decoder: FrameDecoder, pieces: int
) -> None:
    order = [2, 0, 3, 1]
    data = enhanced(order)
    frames = [ENCODERS[JPEGLSLossless](phantom(4)[index]) for index in order]
    compressed(data, JPEGLSLossless, *frames)
    if pieces > 1:
        data.PixelData = _in_pieces(frames, pieces)
    volume = read(save(tmp_path, [data]), decoder)
    assert isinstance(volume, Volume), volume
    np.testing.assert_array_equal(volume.array, phantom(4))


def _in_pieces(frames: list[bytes], pieces: int) -> bytes:
    """Fragment every frame and leave the offset table empty, as is legal."""
    item = b"\xfe\xff\x00\xe0"
    written = item + bytes(4)
    for frame in frames:
        whole = frame + bytes(len(frame) % 2)
        step = len(whole) // pieces // 2 * 2
        cuts = [*(step * k for k in range(pieces)), len(whole)]
        for start, end in pairwise(cuts):
            written += item + (end - start).to_bytes(4, "little") + whole[start:end]
    return written


def _task(cells: Cells) -> FrameTask:
    return FrameTask(Codec.JPEG_LS, imagecodecs.jpegls_encode(cells), *cells.shape, 2)


def _decodes(process: psutil.Process) -> bool:
    return any(part.endswith("decode_child.py") for part in process.cmdline())


def test_a_child_that_is_killed_fails_one_frame_and_is_replaced() -> None:
    tasks = [_task(plane) for plane in phantom(N)]
    with FrameDecoder(children=1) as decoder:
        assert isinstance(decoder.decode(tasks), np.ndarray)
        child = max(
            (each for each in psutil.Process().children() if _decodes(each)),
            key=psutil.Process.create_time,
        )
        os.kill(child.pid, signal.SIGKILL)
        failure = decoder.decode(tasks)
        assert isinstance(failure, DecodeFailure)
        assert "SIGKILL" in failure.explanation
        cells = decoder.decode(tasks)
        assert isinstance(cells, np.ndarray)
        np.testing.assert_array_equal(cells, phantom(N))


def test_a_frame_that_takes_too_long_is_given_up_and_its_child_replaced() -> None:
    rng = np.random.default_rng(5)
    slow = imagecodecs.jpeg2k_encode(
        rng.integers(0, 4096, (1500, 1500)).astype(np.uint16), level=0, reversible=True
    )
    with FrameDecoder(children=1, wall_s=0.05) as decoder:
        failure = decoder.decode([FrameTask(Codec.JPEG_2000, slow, 1500, 1500, 2)])
        assert isinstance(failure, DecodeFailure)
        assert "took longer than 0.05 s" in failure.explanation
    with FrameDecoder(children=1) as decoder:
        assert isinstance(decoder.decode([_task(phantom(1)[0])]), np.ndarray)


def test_a_frame_that_needs_more_memory_than_a_child_may_have_fails_alone() -> None:
    big = imagecodecs.jpegls_encode(np.zeros((5000, 5000), np.uint16))
    task = FrameTask(Codec.JPEG_LS, big, 5000, 5000, 2)
    with FrameDecoder(children=1, memory_limit_bytes=128 << 20) as decoder:
        assert isinstance(decoder.decode([task]), DecodeFailure)
    with FrameDecoder(children=1) as decoder:
        assert isinstance(decoder.decode([task]), np.ndarray)


def test_children_end_with_their_decoder() -> None:
    before = {each.pid for each in psutil.Process().children()}
    with FrameDecoder(children=2) as decoder:
        assert isinstance(decoder.decode([_task(phantom(1)[0])] * 20), np.ndarray)
        assert len({each.pid for each in psutil.Process().children()} - before) == 2
    assert {each.pid for each in psutil.Process().children()} <= before
