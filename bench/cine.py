"""A long colour cine as grey frames: how long it takes, and how much memory it holds.

One question, answered by one interleaved run: our reader, a few frames at a time, beside pydicom,
which decodes the whole element. Frames of 800 x 600 in red, green, blue, written into a temporary
folder native and as JPEG, in two lengths: memory that is a matter of the length grows from one to
the other. Each measurement is a process of its own, because the peak of a process never falls;
processor seconds hold for it and its children, and the largest child's peak stands beside its own.
Run: `python -m bench.cine`; `--frames 300` for a longer one.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

FRAMES: Final = 120
"""173 MB uncompressed: the run ends within two minutes on two quiet cores."""

ROWS: Final = 600
COLUMNS: Final = 800
AT_ONCE: Final = 8
DRAWN: Final = 6
READERS: Final = ("limner", "pydicom")


def main() -> None:
    """Write the cines, measure both readers in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of the longer cine")
    parser.add_argument("--one", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    lengths = (given.frames // 4, given.frames)
    if lengths[0] < DRAWN:
        parser.error(f"--frames: at least {4 * DRAWN}")
    if given.write:
        _write(given.write, lengths)
        return
    if given.one:
        _measure(given.one[0], Path(given.one[1]))
        return
    with tempfile.TemporaryDirectory(prefix="limner-cine-") as folder:
        # By a process of its own: a child's peak begins with its parent's.
        drawing = [sys.executable, "-m", "bench.cine", "--write", folder]
        subprocess.run([*drawing, "--frames", str(given.frames)], check=True)
        files = _files(Path(folder), lengths)
        print(
            "| cine | reader | wall s | processor s | peak above start, MB | largest child, MB |\n"
            "|---|---|---|---|---|---|"
        )
        for name, path in files.items():
            seen: dict[str, list[list[float]]] = {reader: [] for reader in READERS}
            for _ in range(given.rounds):
                for reader, values in seen.items():
                    command = [sys.executable, "-m", "bench.cine", "--one", reader, str(path)]
                    said = subprocess.run(command, capture_output=True, check=True, text=True)
                    values.append([float(one) for one in said.stdout.split()])
            for reader, values in seen.items():
                wall, cpu, own, child = (
                    statistics.median(one) for one in zip(*values, strict=True)
                )
                print(f"| {name} | {reader} | {wall:.2f} | {cpu:.2f} | {own:.0f} | {child:.0f} |")


def _files(folder: Path, lengths: tuple[int, ...]) -> dict[str, Path]:
    """Return the cines by name."""
    files = {}
    for frames in lengths:
        files[f"{DRAWN * (frames // DRAWN)} frames, native RGB"] = folder / f"{frames}.dcm"
        files[f"{DRAWN * (frames // DRAWN)} frames, JPEG"] = folder / f"{frames}-jpeg.dcm"
    return files


def _write(folder: Path, lengths: tuple[int, ...]) -> None:
    """Write six drawn frames over and over: native, and as JPEG of full-range YCbCr."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    from node.phantom.ultrasound import Look, Screen, make_ultrasound

    screen = Screen(shape=(DRAWN, ROWS, COLUMNS), look=Look.COLOUR)
    data = make_ultrasound(1, screen).instances[0].data
    pixels = pydicom.dcmread(io.BytesIO(data)).pixel_array
    streams = [bytes(imagecodecs.jpeg8_encode(frame, level=85)) for frame in pixels]
    for frames in lengths:
        native = pydicom.dcmread(io.BytesIO(data))
        native.NumberOfFrames = DRAWN * (frames // DRAWN)
        native.PixelData = pixels.tobytes() * (frames // DRAWN)
        native.save_as(folder / f"{frames}.dcm")
        native.PhotometricInterpretation = "YBR_FULL_422"
        native.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        native.PixelData = encapsulate(streams * (frames // DRAWN))
        native["PixelData"].VR, native["PixelData"].is_undefined_length = "OB", True
        native.save_as(folder / f"{frames}-jpeg.dcm")


def _measure(reader: str, path: Path) -> None:
    """Read every frame as grey; print seconds and what memory peaked at."""
    import numpy as np
    import pydicom

    from node.imaging.frame_reader import open_frames
    from node.imaging.images import find_images
    from node.imaging.values import FramesPlan, InstanceFile

    before = resource.getrusage(resource.RUSAGE_SELF)
    used = before.ru_utime + before.ru_stime
    begun = time.perf_counter()
    total = 0
    if reader == "limner":
        (plan,) = find_images([InstanceFile(path)])
        if not isinstance(plan, FramesPlan):
            sys.exit(f"not readable: {plan}")
        with open_frames(plan, colour_accepted=False) as frames:
            for first in range(0, plan.shape[0], AT_ONCE):
                some = range(first, min(first + AT_ONCE, plan.shape[0]))
                total += int(frames.read(some).sum())
    else:
        pixels = pydicom.dcmread(path).pixel_array
        for frame in pixels:
            total += int(np.rint(frame @ np.array([0.299, 0.587, 0.114])).sum())
    wall = time.perf_counter() - begun
    if not total:
        sys.exit("nothing was read")
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime - used
    print(wall, cpu, (own.ru_maxrss - before.ru_maxrss) / 1024, children.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
