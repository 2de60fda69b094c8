"""Files in a folder, whatever state they are in."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.read import list_folder, read_header
from node.imaging.values import InstanceFile, Refusal, SourceInstance, Volume, VolumePlan
from node.reasons import Reason

from .build import enhanced, save, series


def test_a_folder_is_searched_to_its_depth_and_other_files_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b", series()[:3])
    (tmp_path / "readme.txt").write_text("DICOM files of a phantom")
    (tmp_path / "empty.dcm").touch()
    directory = series()[0]
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    save(tmp_path, [directory], names=["DICOMDIR"])
    listing = list_folder(tmp_path)
    assert len(listing.instances) == 3
    assert listing.ignored == 3


def test_an_instance_without_preamble_is_found_and_read(tmp_path: Path) -> None:
    folder = save(tmp_path, series())
    for path in list(folder.iterdir()):
        path.write_bytes(path.read_bytes()[132:])
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan)


def test_an_instance_may_be_a_region_of_a_larger_file(tmp_path: Path) -> None:
    folder = save(tmp_path / "files", series())
    journal, regions = b"some other record", []
    for file in read_folder(folder):
        data = file.path.read_bytes()
        regions.append((len(journal), len(data)))
        journal += data + b"trailer"
    path = tmp_path / "journal"
    path.write_bytes(journal)
    files = [InstanceFile(path, offset, length) for offset, length in regions]
    (plan,) = find_volumes(files)
    (expected,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan)
    assert isinstance(expected, VolumePlan)
    one, other = load_volume(plan), load_volume(expected)
    assert isinstance(one, Volume)
    assert isinstance(other, Volume)
    assert (one.array == other.array).all()
    cut = [*files[:-1], InstanceFile(path, files[-1].offset, files[-1].length - 10)]
    (refusal,) = find_volumes(cut)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.TRUNCATED_FRAME


@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"]
)
def test_an_instance_without_identity_is_a_bad_header(tmp_path: Path, keyword: str) -> None:
    data = series()[0]
    save(tmp_path, [data], names=["whole"])
    delattr(data, keyword)
    data.file_meta.MediaStorageSOPClassUID = "1.2"
    pydicom.dcmwrite(tmp_path / "cut", data, implicit_vr=False, little_endian=True)
    refusal = read_header(InstanceFile(tmp_path / "cut"))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.BAD_HEADER
    assert keyword in refusal.explanation


def test_a_deflated_bomb_is_a_bad_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.imaging.read.LARGEST_INFLATED_BYTES", 500)
    data = series()[0]
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (refusal,) = find_volumes(read_folder(save(tmp_path, [data])))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.BAD_HEADER


@given(
    position=st.integers(132, 3000),
    bytes_in=st.binary(max_size=12),
    keep=st.integers(100, 6000),
    many=st.booleans(),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_damage_is_read_or_refused_and_never_raises(
    tmp_path: Path, position: int, bytes_in: bytes, keep: int, many: bool
) -> None:
    whole = tmp_path / f"whole-{many}"
    if not whole.exists():
        save(tmp_path, [enhanced([0, 1, 2]) if many else series()[0]], names=[whole.name])
    data = bytearray(whole.read_bytes())
    data[position : position + len(bytes_in)] = bytes_in
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[:keep])
    for found in find_volumes([InstanceFile(damaged)], min_slices=1):
        if isinstance(found, VolumePlan):
            assert isinstance(load_volume(found), Volume | Refusal)


def test_headers_do_not_show_a_patient_when_printed(tmp_path: Path) -> None:
    (file, *_) = read_folder(save(tmp_path, series()))
    instance = read_header(file)
    assert isinstance(instance, SourceInstance)
    assert "PHANTOM" not in repr(instance)
