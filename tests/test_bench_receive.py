"""The client and the sink of bench/receive.py do what the figures say they do."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from peers import running_storescp, wait_for_port
from pynetdicom import AE, evt

from bench.dicom_client import Sending, Sent, Target, associate, send_instances
from bench.dicom_objects import DicomObject, Kind, make_object
from bench.receive_load import Measured
from bench.receive_report import Cell, ratio
from bench.receivers import Sync
from node.phantom.ports import free_port

SMALL = make_object(Kind.SMALL, random.Random(3))
FRAMES = replace(SMALL, block=random.Random(4).randbytes(9_000), repeats=5)
"""Sent as one block again and again, whose length is no multiple of a fragment's."""


def dataset(made: DicomObject, serial: int) -> bytes:
    """Return the dataset of one instance, put together without the client's framing."""
    uid = made.sop_uid(serial).encode()
    end = made.sop_uid_at + len(uid)
    return made.head[: made.sop_uid_at] + uid + made.head[end:] + made.block * made.repeats


def send(made: DicomObject, target: Target, *, pdu: int, sending: Sending) -> tuple[Sent, list]:
    acknowledged: list[str] = []
    association = associate(target, made.sop_class, max_pdu_bytes=pdu, sending=sending)
    sent = send_instances(
        association,
        made,
        count=3,
        max_pdu_bytes=pdu,
        sending=sending,
        on_acknowledged=acknowledged.append,
    )
    association.release()
    return sent, acknowledged


@pytest.mark.parametrize("made", [SMALL, FRAMES], ids=["one block", "repeated block"])
@pytest.mark.parametrize("sending", Sending)
@pytest.mark.parametrize("pdu", [4_096, 131_072])
def test_storescp_keeps_every_instance_byte_for_byte(
    tmp_path: Path, made: DicomObject, sending: Sending, pdu: int
) -> None:
    with running_storescp(tmp_path / "received", options=["-pdu", str(max(pdu, 4_096))]) as scp:
        target = Target(host="127.0.0.1", port=scp.port, called_ae=scp.ae_title)
        sent, acknowledged = send(made, target, pdu=pdu, sending=sending)
        received = scp.files()

    assert (sent.failure, sent.statuses) == ("", {0: 3})
    assert acknowledged == [made.sop_uid(serial) for serial in (1, 2, 3)]
    assert len(received) == 3
    for serial, path in enumerate(received, start=1):
        meta = pydicom.filereader.read_file_meta_info(path)
        assert meta.MediaStorageSOPInstanceUID == made.sop_uid(serial)
        assert path.read_bytes().endswith(dataset(made, serial))


@pytest.mark.parametrize("kind", [Kind.CT, Kind.MR])
def test_pynetdicom_decodes_what_the_client_sends(kind: Kind) -> None:
    made = make_object(kind, random.Random(5))
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    ae = AE()
    ae.add_supported_context(made.sop_class)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        target = Target(
            host="127.0.0.1", port=server.server_address[1], called_ae="ANY", calling_ae="BENCH"
        )
        sent, _ = send(made, target, pdu=16_384, sending=Sending.WHOLE)
    finally:
        server.shutdown()

    assert sent.statuses == {0: 3}
    assert [data.SOPInstanceUID for data in received] == [made.sop_uid(n) for n in (1, 2, 3)]
    assert {data.Rows * data.Columns * 2 for data in received} == {len(made.block)}
    assert {data.Modality for data in received} == {kind.upper()}


def test_the_sink_has_written_each_message_before_it_answers(tmp_path: Path) -> None:
    port = free_port()
    sink = subprocess.Popen(
        [sys.executable, "-m", "bench.dicom_sink", str(port), str(tmp_path), "--mb", "2"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, sink)
        target = Target(host="127.0.0.1", port=port, called_ae="SINK")
        association = associate(target, FRAMES.sop_class, max_pdu_bytes=131_072)
        for serial in (1, 2, 3):
            sent = send_instances(association, FRAMES, count=1, first_serial=serial)
            written = (tmp_path / "sink0").read_bytes()

            assert sent.statuses == {0: 1}
            assert written.count(FRAMES.block) == serial * FRAMES.repeats
            assert FRAMES.sop_uid(serial).encode() in written
        association.release()
    finally:
        sink.terminate()
        sink.wait(10)


def test_ratios_are_taken_round_by_round_and_leave_failed_rounds_out() -> None:
    def cell(number: int, server: str, per_second: float, failure: str = "") -> Cell:
        figures = dict.fromkeys(Measured.__slots__, 0)
        measured = Measured(**{**figures, "per_second": per_second, "failure": failure})
        return Cell(Sync.NONE, Kind.CT, 1, number, server, measured)

    cells = [
        *(cell(0, "us", 200), cell(0, "other", 100)),
        *(cell(1, "us", 300), cell(1, "other", 100)),
        *(cell(2, "us", 900), cell(2, "other", 100)),
        *(cell(3, "us", 9_000), cell(3, "other", 1, "answered A700")),
    ]

    assert ratio(cells, "us", "other") == 3
    assert ratio(cells, "us", "absent") is None
