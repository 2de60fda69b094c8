"""What peers must not send is refused in words, and harms nobody else."""

from __future__ import annotations

import socket
import struct

import pytest
from made_objects import encoded, made_ct
from receiving_node import Node, until
from scu_client import raw_association, send_raw, stored

# pydicom warns about the invalid UIDs that these tests send, on both ends of the socket.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*allowed for VR UI:UserWarning", "ignore:Invalid value for VR UI:UserWarning"
)


@pytest.mark.parametrize(
    ("keyword", "value", "command_uid", "answered"),
    [
        ("SOPInstanceUID", "1.2.3.999", None, (0xA900, "Instance")),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4", None, (0xA900, "Class")),
        ("StudyInstanceUID", "", None, (0xC000, "StudyInstanceUID")),
        ("SeriesInstanceUID", "x.y", None, (0xC000, "SeriesInstanceUID")),
        ("PatientID", "P1", "../../../etc/passwd", (0x0117, "UID")),
        ("PatientID", "P1", "1." + "2" * 70, (0x0117, "UID")),
    ],
)
def test_what_contradicts_its_command_or_cannot_be_read_is_refused_in_words(
    node: Node, keyword: str, value: str, command_uid: str | None, answered: tuple[int, str]
) -> None:
    status, word = answered
    dataset = made_ct()
    dataset[keyword]._value = value

    answer = send_raw(node, encoded(dataset), sop_uid=command_uid or made_ct().SOPInstanceUID)

    assert answer.Status == status
    assert word in answer.ErrorComment
    assert node.instances() == []
    assert node.keeps_nothing()


@pytest.mark.parametrize("length", [5_000, 3_000_000])  # the larger one outgrows the buffer
def test_bytes_that_are_no_data_set_are_refused(node: Node, length: int) -> None:
    for start in (b"\xff" * 30, b"%PDF-1.4 nothing of the kind"):
        data = (start * (length // len(start)))[:length]
        answer = send_raw(node, data)
        assert answer.Status == 0xC000
    assert node.keeps_nothing()
    assert stored(node, made_ct()) == [0]


@pytest.mark.parametrize(
    ("calling", "established"),
    [
        (b"SCANNER\0\0\0\0\0\0\0\0\0", True),
        (b"         SCANNER", True),
        (b"\xff\xfe\xfd SCANNER    ", False),
        (b"SCAN\x07NER", False),
        (b"SCANNER\xc3\xbc", False),
        (b"\x1b[31mRED        ", False),
        (b" " * 16, False),
        (b"\0" * 16, False),
        (b"A\nINFO: all fine", False),
        (b"' OR 1=1; --    ", False),
    ],
)
def test_any_calling_ae_title_gets_an_answer_and_harms_nothing(
    node: Node, calling: bytes, *, established: bool
) -> None:
    answer = raw_association(node, calling)

    assert (answer == b"\x02") is established
    assert stored(node, made_ct()) == [0]
    node.ended_associations(1 + established)
    until(lambda: bool(node.refused()) is not established)
    for row in (*node.associations(), *node.refused()):
        assert row.calling_ae.isprintable()


def test_a_pdu_that_claims_four_gigabytes_ends_its_connection_only(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + b"x" * 1000)
        assert connection.recv(100) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"
    assert stored(node, made_ct()) == [0]
