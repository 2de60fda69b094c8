"""The file in front of a data set is ours: zeros, DICM, and what was negotiated."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_objects import EXPLICIT, encoded, made_ct

from node.dicom.filemeta import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    FileMeta,
    encode_file_meta,
    read_file_meta,
)
from node.dicom.header import HeaderError

META = FileMeta(
    sop_class="1.2.840.10008.5.1.4.1.1.2",
    sop_uid="1.2.3.4.1.1",
    transfer_syntax=EXPLICIT,
    source_ae="SCANNER",
)


def test_a_data_set_behind_it_is_a_file_that_pydicom_reads() -> None:
    data = encode_file_meta(META) + encoded(made_ct())

    dataset = pydicom.dcmread(BytesIO(data))

    assert data[:128] == bytes(128)
    assert dataset.PatientID == "P1"
    meta = dataset.file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4.1.1"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION
    assert meta.SourceApplicationEntityTitle == "SCANNER"
    assert data[132 + 12 + meta.FileMetaInformationGroupLength :] == encoded(made_ct())


def test_the_implementation_class_uid_is_ours_and_valid() -> None:
    assert pydicom.uid.UID(IMPLEMENTATION_CLASS_UID).is_valid
    assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")


uids = st.lists(st.integers(0, 99_999), min_size=1, max_size=9).map(lambda p: ".".join(map(str, p)))


@given(
    sop_class=uids,
    sop_uid=uids,
    syntax=uids,
    source=st.text("ABC_019", max_size=16),
)
def test_what_is_written_is_read_back(
    sop_class: str, sop_uid: str, syntax: str, source: str
) -> None:
    meta = FileMeta(sop_class=sop_class, sop_uid=sop_uid, transfer_syntax=syntax, source_ae=source)
    data = encode_file_meta(meta)

    assert len(data) % 2 == 0
    assert read_file_meta(data + b"\x08\x00rest") == (meta, len(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for whole in (data, bytes(128) + b"DICM" + data, bytes(128) + b"DICM\x02\x00" + data):
        try:
            _, start = read_file_meta(whole)
        except HeaderError:
            continue
        assert 132 <= start <= len(whole)


def test_a_file_without_the_prefix_is_refused() -> None:
    with pytest.raises(HeaderError, match="DICM"):
        read_file_meta(bytes(200))
