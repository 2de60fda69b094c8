"""Times of cines: read where they are said, told where they cannot be, and never fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.uid import MPEGTransferSyntaxes

from node.commands.imaging import inspect
from node.imaging.frame_times import FrameTimes, read_frame_times
from node.imaging.images import find_images
from node.imaging.inspect import inspect_folder
from node.imaging.read import read_folder
from node.imaging.syntaxes import READ
from node.imaging.values import Refusal
from node.reasons import Reason

from .build import compressed, save
from .ultrasound_files import picture, plan_of, tissue

FRAME_TIME, VECTOR = 0x00181063, 0x00181065


def header(**said: Any) -> Dataset:
    data = Dataset()
    for keyword, value in said.items():
        setattr(data, keyword, value)
    return data


def times(frames: int = 4, **said: Any) -> FrameTimes:
    return read_frame_times(header(**said), frames)


KNOWN: dict[str, tuple[dict[str, Any], float | None, tuple[float, ...]]] = {
    "nothing": ({}, None, ()),
    "one time for all": ({"FrameTime": "33.3"}, 33.3, ()),
    "an even vector": ({"FrameTimeVector": ["0", "40", "40", "40"]}, 40.0, ()),
    "a vector rounded to whole numbers": (
        {"FrameTimeVector": ["0", "133", "134", "133"]},
        pytest.approx(400 / 3),
        (),
    ),
    "an uneven vector": ({"FrameTimeVector": ["0", "40", "80", "20"]}, None, (0, 40, 120, 140)),
    "both, the vector is named": (
        {
            "FrameTime": "50",
            "FrameTimeVector": ["0", "40", "80", "20"],
            "FrameIncrementPointer": VECTOR,
        },
        None,
        (0, 40, 120, 140),
    ),
    "both, the one time is named": (
        {
            "FrameTime": "50",
            "FrameTimeVector": ["0", "40", "80", "20"],
            "FrameIncrementPointer": FRAME_TIME,
        },
        50.0,
        (),
    ),
    "both, none is named": (
        {"FrameTime": "50", "FrameTimeVector": ["0", "40", "40", "40"]},
        40.0,
        (),
    ),
    "a rate": ({"CineRate": "25"}, 40.0, ()),
    "a display rate": ({"RecommendedDisplayFrameRate": "20"}, 50.0, ()),
    "time before rate": ({"FrameTime": "33.3", "CineRate": "25"}, 33.3, ()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_times_are_read_where_they_are_said(name: str) -> None:
    said, each_ms, at_ms = KNOWN[name]
    assert times(**said) == FrameTimes(each_ms, at_ms, ())


WRONG: dict[str, tuple[dict[str, Any], float | None, tuple[float, ...], str]] = {
    "too short a vector": (
        {"FrameTimeVector": ["0", "40", "40"], "FrameTime": "33"},
        33.0,
        (),
        "FrameTimeVector has 3 values for 4 frames",
    ),
    "too long a vector": (
        {"FrameTimeVector": ["0", "40", "40", "40", "40"]},
        None,
        (),
        "FrameTimeVector has 5 values for 4 frames",
    ),
    "back in time": (
        {"FrameTimeVector": ["0", "40", "-20", "40"], "CineRate": "25"},
        40.0,
        (),
        "does not run forward",
    ),
    "no number in the vector": (
        {"FrameTimeVector": ["0", "40", "1e400", "40"]},
        None,
        (),
        "holds something that is no number",
    ),
    "longer than any cine": (
        {"FrameTimeVector": ["0", "1e308", "1e308", "1e308"], "CineRate": "25"},
        40.0,
        (),
        "does not run forward",
    ),
    "time stands still": ({"FrameTimeVector": ["0", "0", "0", "0"]}, None, (), "not run forward"),
    "not from 0": (
        {"FrameTimeVector": ["7", "40", "80", "20"]},
        None,
        (0, 40, 120, 140),
        "begins with 7",
    ),
    "a negative time": ({"FrameTime": "-40"}, None, (), "FrameTime is -40 ms"),
    "a time of 0": ({"FrameTime": "0", "CineRate": "50"}, 20.0, (), "FrameTime is 0 ms"),
    "a negative rate": ({"CineRate": "-3"}, None, (), "CineRate is -3 frames a second"),
}


@pytest.mark.parametrize("name", WRONG)
def test_times_that_cannot_be_are_told_and_not_believed(name: str) -> None:
    said, each_ms, at_ms, sentence = WRONG[name]
    found = times(**said)
    assert (found.each_ms, found.at_ms) == (each_ms, at_ms)
    (note,) = found.notes
    assert sentence in note


def test_a_still_has_no_times_whatever_it_says() -> None:
    assert times(frames=1, FrameTime="-4", CineRate="25") == FrameTimes(None, (), ())


def test_inspect_shows_uneven_times_and_stays_usable_with_wrong_ones(tmp_path: Path) -> None:
    uneven = picture(tissue(4))
    del uneven.FrameTime
    uneven.FrameTimeVector, uneven.FrameIncrementPointer = ["0", "40", "80", "20"], VECTOR
    save(tmp_path / "uneven", [uneven])
    shown = CliRunner().invoke(inspect, [str(tmp_path / "uneven"), "--json"])
    assert shown.exit_code == 0, shown.output
    (said,) = json.loads(shown.output)["volumes"]
    assert (said["frame_time_ms"], said["frame_times_ms"]) == (None, [0, 40, 120, 140])
    even = inspect_folder(save(tmp_path / "even", [picture(tissue(4))]))["volumes"][0]
    assert (even["frame_time_ms"], even["frame_times_ms"]) == (40, None)
    wrong = picture(tissue(4))
    wrong.FrameTime = "-40"
    (told,) = inspect_folder(save(tmp_path / "wrong", [wrong]))["volumes"]
    assert told["usable"] is True
    assert told["frame_time_ms"] is None
    assert any("FrameTime is -40 ms" in note for note in told["notes"])


def test_a_vector_of_many_frames_is_read_from_its_file(tmp_path: Path) -> None:
    data = picture(np.zeros((600, 16, 16), np.uint8))
    del data.FrameTime
    data.FrameTimeVector = ["0", *(str(20 + index % 7) for index in range(599))]
    plan = plan_of(tmp_path, data)
    assert len(plan.frame_times_ms) == 600
    assert plan.frame_times_ms[-1] == sum(20 + index % 7 for index in range(599))


@pytest.mark.parametrize("syntax", MPEGTransferSyntaxes, ids=lambda syntax: str(syntax.name))
def test_video_is_refused_with_what_to_send_instead(syntax: Any, tmp_path: Path) -> None:
    stream = bytes.fromhex("000001b3") + bytes(60)  # the header of an MPEG sequence
    cine = compressed(picture(tissue(1)), syntax, stream)
    (refused,) = find_images(read_folder(save(tmp_path, [cine])))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.UNSUPPORTED_SYNTAX
    assert str(syntax) in refused.explanation
    assert READ in refused.explanation
    (said,) = inspect_folder(tmp_path)["volumes"]
    assert (said["usable"], said["reason"]) == (False, "unsupported-syntax")


def test_what_refusals_call_readable_is_read(tmp_path: Path) -> None:
    grey = tissue(1)[0]
    for name, stream, syntax in (
        ("JPEG", imagecodecs.jpeg8_encode(grey, lossless=True), "1.2.840.10008.1.2.4.70"),
        ("JPEG-LS", imagecodecs.jpegls_encode(grey), "1.2.840.10008.1.2.4.80"),
        (
            "JPEG 2000",
            imagecodecs.jpeg2k_encode(grey, level=0, codecformat="j2k"),
            "1.2.840.10008.1.2.4.90",
        ),
        ("HTJ2K", imagecodecs.htj2k_encode(grey), "1.2.840.10008.1.2.4.201"),
    ):
        assert name in READ
        data = compressed(picture(grey), syntax, bytes(stream))
        (said,) = inspect_folder(save(tmp_path / name, [data]))["volumes"]
        assert said["usable"], said
