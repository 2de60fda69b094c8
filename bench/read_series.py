"""How long does a native CT series take to read, against raw bytes and against pydicom?

Interleaved runs on files in the page cache, medians and ratios. Run it alone:
`python bench/read_series.py [FOLDER]`; without a folder it writes a series of 200 slices of
512 x 512 to a scratch folder first.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.values import Volume, VolumePlan

ROUNDS = 9
RAW = "raw bytes of the pixels"
PYDICOM = "bare folder: dcmread"


def write_series(folder: Path, slices: int = 200) -> Path:
    """Write a plain CT series with noise in it."""
    rng = np.random.default_rng(1)
    for index in range(slices):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"2.25.{index + 10}"
        data.Modality, data.PatientID = "CT", "BENCH"
        data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.1", "2.25.2"
        data.ImagePositionPatient = [-180.0, -180.0, 1.25 * index]
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows = data.Columns = 512
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        data.RescaleIntercept, data.RescaleSlope = -1024, 1
        data.PixelData = rng.integers(0, 4096, (512, 512)).astype(np.uint16).tobytes()
        data["PixelData"].VR = "OW"
        path = folder / f"{(index * 7) % slices:04d}.dcm"
        pydicom.dcmwrite(
            path, data, implicit_vr=False, little_endian=True, enforce_file_format=True
        )
    return folder


def raw_bytes(plan: VolumePlan) -> None:
    """Read the same pixel bytes into one new array, and nothing else."""
    whole = np.empty(plan.shape, np.uint16)
    for index, part in enumerate(plan.slices):
        instance = plan.instances[part.instance]
        offset = instance.pixels.offset if instance.pixels else 0
        descriptor = os.open(instance.file.path, os.O_RDONLY)
        os.preadv(descriptor, [whole[index].reshape(-1).view(np.uint8).data], offset)
        os.close(descriptor)


def with_pydicom(folder: Path) -> None:
    """Find, read, sort and rescale as most scripts do."""
    read = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    read.sort(key=lambda data: float(data.ImagePositionPatient[2]))
    whole = np.empty((len(read), *read[0].pixel_array.shape), np.int16)
    for index, data in enumerate(read):
        slope, intercept = int(data.RescaleSlope), int(data.RescaleIntercept)
        whole[index] = data.pixel_array.astype(np.int16) * slope + intercept


def whole_way(folder: Path) -> None:
    """Listing, headers, geometry and pixels by our own way in."""
    for plan in find_volumes(read_folder(folder)):
        if isinstance(plan, VolumePlan):
            load(plan)


def load(plan: VolumePlan) -> None:
    """Read the pixels of a plan."""
    if not isinstance(load_volume(plan), Volume):
        raise SystemExit("the series could not be read")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return milliseconds on the clock and of all threads' CPU."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - start) * 1000, (time.process_time() - busy) * 1000


def main() -> None:
    """Print medians and ratios, of the clock and of CPU."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_series(Path(scratch))
        found = find_volumes(read_folder(folder))
        plans = [plan for plan in found if isinstance(plan, VolumePlan)]
        if not plans:
            raise SystemExit(f"{folder} holds no usable volume")
        ways: dict[str, Callable[[], None]] = {
            RAW: lambda: raw_bytes(plans[0]),
            "known headers: load_volume": lambda: load(plans[0]),
            "bare folder: all of it": lambda: whole_way(folder),
            PYDICOM: lambda: with_pydicom(folder),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, work in ways.items():
                taken[name].append(timed(work))
    medians = {
        name: (median(wall for wall, _ in values), median(cpu for _, cpu in values))
        for name, values in taken.items()
    }
    print(f"{plans[0].shape} voxels, {ROUNDS} interleaved rounds; clock / CPU")
    for name, (wall, cpu) in medians.items():
        raw_wall, raw_cpu = medians[RAW]
        anchor_wall, anchor_cpu = medians[PYDICOM]
        print(
            f"{name:28} {wall:8.1f} /{cpu:8.1f} ms"
            f"   {wall / raw_wall:5.2f} /{cpu / raw_cpu:5.2f} x raw"
            f"   {wall / anchor_wall:5.2f} /{cpu / anchor_cpu:5.2f} x pydicom"
        )
    print("goals: known headers at most 1.3 x raw, bare folder at most 0.4 x pydicom")


if __name__ == "__main__":
    main()
