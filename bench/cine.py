"""A long colour cine as grey frames: how long it takes, and how much memory it holds.

One question, answered by one interleaved run: our reader, a few frames at a time, beside pydicom,
which decodes the whole element. 300 frames of 800 x 600 in red, green, blue (432 MB uncompressed),
written into a temporary folder once native and once as JPEG. Each measurement is a process of its
own, because the peak of a process never falls. Run: `python -m bench.cine`.
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

FRAMES: Final = 300
ROWS: Final = 600
COLUMNS: Final = 800
AT_ONCE: Final = 8
DRAWN: Final = 6


def main() -> None:
    """Write the cines, measure both readers in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        _measure(given.one[0], Path(given.one[1]))
        return
    with tempfile.TemporaryDirectory(prefix="limner-cine-") as folder:
        files = _write(Path(folder))
        print("| cine | reader | seconds | peak above start, MB |\n|---|---|---|---|")
        for name, path in files.items():
            seen: dict[str, list[tuple[float, float]]] = {"limner": [], "pydicom": []}
            for _ in range(given.rounds):
                for reader, values in seen.items():
                    command = [sys.executable, "-m", "bench.cine", "--one", reader, str(path)]
                    said = subprocess.run(command, capture_output=True, check=True, text=True)
                    seconds, megabytes = (float(one) for one in said.stdout.split())
                    values.append((seconds, megabytes))
            for reader, values in seen.items():
                seconds, megabytes = (statistics.median(one) for one in zip(*values, strict=True))
                print(f"| {name} | {reader} | {seconds:.2f} | {megabytes:.0f} |")


def _write(folder: Path) -> dict[str, Path]:
    """Write six drawn frames fifty times over: native, and as JPEG of full-range YCbCr."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    from node.phantom.ultrasound import Look, Screen, make_ultrasound

    screen = Screen(shape=(DRAWN, ROWS, COLUMNS), look=Look.COLOUR)
    drawn = pydicom.dcmread(io.BytesIO(make_ultrasound(1, screen).instances[0].data))
    pixels = drawn.pixel_array
    drawn.NumberOfFrames = FRAMES
    drawn.PixelData = pixels.tobytes() * (FRAMES // DRAWN)
    files = {name: folder / f"{number}.dcm" for number, name in enumerate(("native RGB", "JPEG"))}
    drawn.save_as(files["native RGB"])
    streams = [bytes(imagecodecs.jpeg8_encode(frame, level=85)) for frame in pixels]
    drawn.PhotometricInterpretation = "YBR_FULL_422"
    drawn.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    drawn.PixelData = encapsulate(streams * (FRAMES // DRAWN))
    drawn["PixelData"].VR, drawn["PixelData"].is_undefined_length = "OB", True
    drawn.save_as(files["JPEG"])
    return files


def _measure(reader: str, path: Path) -> None:
    """Read every frame as grey; print seconds and the growth of the peak in MB."""
    import numpy as np
    import pydicom

    from node.imaging.frame_reader import open_frames
    from node.imaging.images import find_images
    from node.imaging.values import FramesPlan, InstanceFile

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
    seconds = time.perf_counter() - begun
    if not total:
        sys.exit("nothing was read")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(seconds, grown / 1024)


if __name__ == "__main__":
    main()
