"""What we ask of peers, with DCMTK, Orthanc and our own acceptor on the other end."""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import peers
import pytest
from made_objects import CT, DEFLATED, EXPLICIT, IMPLICIT, encoded, made_ct
from pynetdicom import build_context, evt
from receiving_node import until

from node.dicom.callbacks import Callbacks, CommitReport, CommitRequest, Incoming
from node.dicom.commitment import report_message
from node.dicom.compare import find_difference
from node.dicom.filemeta import FileMeta, encode_file_meta, read_file_meta
from node.dicom.library import application_entity
from node.dicom.scp import RunningScp, start_scp
from node.dicom.scu import (
    OutgoingFile,
    SendKind,
    SendOutcome,
    Target,
    ask_commitment,
    echo,
    find_instance,
    report_commitment,
    send_instances,
)
from node.dicom.wire.admission import (
    ASK_COMMITMENT,
    ECHO,
    REPORT_COMMITMENT,
    STORE,
    Admission,
    Caller,
    Rejection,
    unknown_caller,
)
from node.errors import PassingError, PeerError
from node.phantom.ports import free_port
from storage.instances import Difference

ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"  # nobody takes it
COMMITMENT = "1.2.840.10008.1.20.1"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
OURS = "LIMNER"
EVERYTHING = frozenset({ECHO, STORE, ASK_COMMITMENT, REPORT_COMMITMENT})


def outgoing(
    folder: Path,
    number: int = 1,
    *,
    syntax: str = EXPLICIT,
    sop_class: str = CT,
    lead: bytes = b"",
    group_length: bool = False,
) -> OutgoingFile:
    """Write an object of ours as a result would lie in the store."""
    dataset = made_ct(number)
    dataset.SOPClassUID = sop_class
    data = encoded(dataset, EXPLICIT if syntax == DEFLATED else syntax)
    if group_length:
        data = struct.pack("<HH2sHI", 0x0008, 0x0000, b"UL", 4, 100) + data
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
        data += bytes(len(data) % 2)
    meta = FileMeta(
        sop_class=sop_class,
        sop_uid=dataset.SOPInstanceUID,
        transfer_syntax=syntax,
        source_ae=OURS,
    )
    whole = encode_file_meta(meta) + data
    path = folder / f"{number}.obj"
    path.write_bytes(lead + whole)
    return OutgoingFile(
        path=path,
        offset=len(lead),
        length=len(whole),
        sop_class=sop_class,
        sop_uid=dataset.SOPInstanceUID,
        transfer_syntax=syntax,
    )


def dataset_of(file: OutgoingFile) -> bytes:
    data = file.path.read_bytes()[file.offset : file.offset + file.length]
    return data[read_file_meta(data)[1] :]


def target(port: int, ae_title: str = "PACS", **options: float) -> Target:
    return Target(name="archive", ae_title=ae_title, host="127.0.0.1", port=port, **options)


@dataclass
class Recorder:
    """An acceptor of ours that answers on order and records what came."""

    answers: list[tuple[int, str]] = field(default_factory=list)
    got: list[Incoming] = field(default_factory=list)
    asked: list[CommitRequest] = field(default_factory=list)
    reports: list[CommitReport] = field(default_factory=list)
    scp: RunningScp | None = None
    cut_at_store: bool = False

    def store(self, incoming: Incoming) -> tuple[int, str]:
        self.got.append(incoming)
        if self.cut_at_store and self.scp is not None:
            self.scp.cut_all()
        return self.answers.pop(0) if self.answers else (0, "")

    def report(self, _caller: Caller, report: CommitReport) -> int:
        self.reports.append(report)
        return 0


@contextmanager
def recorder(
    services: frozenset[str] = EVERYTHING, *, admit: Admission | Rejection | None = None
) -> Iterator[tuple[Recorder, int]]:
    verdict = admit or Admission("limner", services)
    made = Recorder()
    scp = start_scp(
        host="127.0.0.1",
        port=0,
        callbacks=Callbacks(
            admit=lambda _caller: verdict,
            on_store=made.store,
            on_commit_request=lambda _caller, request: made.asked.append(request),
            on_commit_report=made.report,
        ),
    )
    made.scp = scp
    try:
        yield made, scp.port
    finally:
        scp.stop()


# Sending


def test_stored_bytes_arrive_unchanged_at_dcmtk(
    tmp_path: Path, storescp: Callable[..., peers.StoreScp]
) -> None:
    peer = storescp()
    # A group length, which any writer that decodes and encodes would leave out.
    files = [outgoing(tmp_path, number, group_length=True) for number in (1, 2, 3)]
    answers: list[SendOutcome] = []

    outcomes = send_instances(
        target(peer.port, "STORESCP"), files, calling_ae=OURS, on_answer=answers.append
    )

    assert [outcome.kind for outcome in outcomes] == [SendKind.STORED] * 3
    assert outcomes == answers
    assert [outcome.status for outcome in outcomes] == [0, 0, 0]
    received = [read_dataset(path) for path in peer.files()]
    assert sorted(received) == sorted(dataset_of(file) for file in files)


def read_dataset(path: Path) -> bytes:
    data = path.read_bytes()
    return data[read_file_meta(data)[1] :]


def test_an_object_inside_a_larger_file_is_sent_alone(tmp_path: Path) -> None:
    file = outgoing(tmp_path, lead=b"another record" * 100)
    file.path.write_bytes(file.path.read_bytes() + b"and the next one")

    with recorder() as (peer, port):
        (outcome,) = send_instances(target(port), [file], calling_ae=OURS)

    assert outcome.kind is SendKind.STORED
    assert peer.got[0].dataset == dataset_of(file)


@pytest.mark.parametrize("native", [EXPLICIT, DEFLATED])
def test_a_peer_that_takes_only_implicit_gets_the_same_elements_in_it(
    tmp_path: Path, storescp: Callable[..., peers.StoreScp], native: str
) -> None:
    peer = storescp("+xi")

    (outcome,) = send_instances(
        target(peer.port, "STORESCP"), [outgoing(tmp_path, syntax=native)], calling_ae=OURS
    )

    assert outcome.kind is SendKind.STORED
    received = peer.files()[0].read_bytes()
    meta, start = read_file_meta(received)
    assert meta.transfer_syntax == IMPLICIT
    found = find_difference(received[start:], IMPLICIT, encoded(made_ct()), EXPLICIT)
    assert found is Difference.ENCODING
    assert received.endswith(made_ct().PixelData)


def test_a_class_that_the_peer_does_not_take_is_told_before_anything_is_sent(
    tmp_path: Path, storescp: Callable[..., peers.StoreScp]
) -> None:
    peer = storescp()
    files = [outgoing(tmp_path, 1, sop_class=LABELMAP), outgoing(tmp_path, 2)]

    refused, taken = send_instances(target(peer.port, "STORESCP"), files, calling_ae=OURS)

    assert refused.kind is SendKind.NO_CONTEXT
    assert refused.status is None
    assert "archive does not take" in refused.sentence
    assert taken.kind is SendKind.STORED


def test_a_syntax_that_the_peer_does_not_take_is_told_apart_from_the_class(tmp_path: Path) -> None:
    file = replace(outgoing(tmp_path), transfer_syntax=ENCAPSULATED_UNCOMPRESSED)

    with recorder() as (_, port):
        (outcome,) = send_instances(target(port), [file], calling_ae=OURS)

    assert outcome.kind is SendKind.NO_CONTEXT
    assert "but not in" in outcome.sentence


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0xA700, SendKind.RETRY),
        (0xA900, SendKind.REFUSED),
        (0xC000, SendKind.REFUSED),
        (0xB000, SendKind.STORED),
        (0x0124, SendKind.REFUSED),
    ],
)
def test_what_the_peer_answers_and_says_is_in_the_sentence(
    tmp_path: Path, status: int, kind: SendKind
) -> None:
    with recorder() as (peer, port):
        peer.answers = [(status, "Because of the moon"), (0, "")]
        first, second = send_instances(
            target(port), [outgoing(tmp_path, 1), outgoing(tmp_path, 2)], calling_ae=OURS
        )

    assert (first.status, first.kind) == (status, kind)
    assert first.sentence.startswith("archive ")
    assert "Because of the moon" in first.sentence
    assert second.kind is SendKind.STORED  # one refusal does not end the rest


def test_an_answer_that_never_comes_is_lost_and_nothing_is_sent_blindly_after_it(
    tmp_path: Path,
) -> None:
    with recorder() as (peer, port):
        peer.cut_at_store = True
        first, second = send_instances(
            target(port, answer_s=10),
            [outgoing(tmp_path, 1), outgoing(tmp_path, 2)],
            calling_ae=OURS,
        )

    assert (first.kind, first.status) == (SendKind.LOST, None)
    assert "not known" in first.sentence
    assert second.kind is SendKind.RETRY
    assert len(peer.got) == 1


def test_answers_that_come_at_once_are_all_heard(tmp_path: Path) -> None:
    """pynetdicom drops about one of 150, because its own thread takes it (`keep_answers`)."""
    files = [outgoing(tmp_path)] * 600

    with recorder() as (_, port):
        outcomes = send_instances(target(port, answer_s=5), files, calling_ae=OURS)

    assert {outcome.kind for outcome in outcomes} == {SendKind.STORED}


# Reaching


def test_nothing_at_the_port_is_told_with_the_address(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(PassingError, match=f"127.0.0.1:{port}") as failed:
        send_instances(target(port), [outgoing(tmp_path)], calling_ae=OURS)
    assert failed.value.fault.code == "peer-not-reached"


def test_a_host_name_that_does_not_exist_is_told() -> None:
    nowhere = Target(name="archive", ae_title="PACS", host="no-such-host.invalid", port=104)
    with pytest.raises(PassingError) as failed:
        echo(nowhere, calling_ae=OURS)
    assert failed.value.fault.code == "peer-name-unknown"


def test_a_rejection_says_what_the_peer_does_not_know() -> None:
    with recorder(admit=unknown_caller("never heard")) as (_, port):
        for _attempt in range(150):  # one of 150 that come at once is forgotten by pynetdicom
            with pytest.raises(PassingError, match="our AE title"):
                echo(target(port), calling_ae=OURS)


@contextmanager
def silent_peer(answer: bytes | None) -> Iterator[int]:
    """A socket that takes connections and says nothing, or `answer` and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.sendall(answer)
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    "answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack(">BBI", 2, 0, 0xFFFFFFF0)]
)
def test_a_peer_that_is_no_dicom_service_ends_in_seconds(answer: bytes | None) -> None:
    with silent_peer(answer) as port, pytest.raises(PassingError) as failed:
        echo(target(port, connect_s=1, answer_s=1), calling_ae=OURS)
    assert failed.value.fault.code == "peer-aborted"


def test_an_echo_gives_its_time_and_a_peer_without_it_is_told() -> None:
    with recorder() as (_, port):
        assert 0 < echo(target(port), calling_ae=OURS) < 10
    with (
        recorder(frozenset({STORE})) as (_, port),
        pytest.raises(PeerError, match="does not offer"),
    ):
        echo(target(port), calling_ae=OURS)


def test_dcmtk_answers_an_echo(storescp: Callable[..., peers.StoreScp]) -> None:
    assert echo(target(storescp().port, "STORESCP"), calling_ae=OURS) > 0


# Proof


REFERENCES = [(CT, "1.2.3.1"), (CT, "1.2.3.2")]


def test_a_commitment_request_says_what_it_is_about() -> None:
    with recorder() as (peer, port):
        ask_commitment(target(port), "2.25.7", REFERENCES, calling_ae=OURS, hold_s=0)

    (request,) = peer.asked
    assert request.transaction_uid == "2.25.7"
    assert list(request.references) == REFERENCES


def test_a_report_on_a_new_association_says_what_is_kept_and_what_is_not() -> None:
    with recorder() as (peer, port):
        report_commitment(
            target(port), "2.25.7", REFERENCES[:1], {REFERENCES[1]: 0x0112}, calling_ae=OURS
        )

    (report,) = peer.reports
    assert report.transaction_uid == "2.25.7"
    assert report.committed == {"1.2.3.1"}
    assert report.failed == {"1.2.3.2": "0112: no such object instance"}


def test_a_report_on_the_same_association_is_taken_while_it_is_held() -> None:
    reports: list[CommitReport] = []

    def asked(event: evt.Event) -> tuple[int, None]:
        information = report_message(event.action_information.TransactionUID, REFERENCES, {})
        threading.Timer(
            0.3,
            event.assoc.send_n_event_report,
            (information, 1, COMMITMENT, COMMITMENT + ".1"),
        ).start()
        return 0, None

    context = build_context(COMMITMENT)
    context.scu_role = context.scp_role = True
    server = application_entity("PACS").start_server(
        ("127.0.0.1", 0), block=False, contexts=[context], evt_handlers=[(evt.EVT_N_ACTION, asked)]
    )
    try:
        ask_commitment(
            target(server.server_address[1]),
            "2.25.8",
            REFERENCES,
            calling_ae=OURS,
            hold_s=5,
            on_report=reports.append,
        )
    finally:
        server.shutdown()

    assert [report.transaction_uid for report in reports] == ["2.25.8"]
    assert reports[0].committed == {"1.2.3.1", "1.2.3.2"}


def test_a_peer_without_commitment_is_told_with_the_setting_to_change(
    storescp: Callable[..., peers.StoreScp],
) -> None:
    peer = storescp()
    with pytest.raises(PeerError, match="proof"):
        ask_commitment(
            target(peer.port, "STORESCP"), "2.25.9", REFERENCES, calling_ae=OURS, hold_s=0
        )


def test_orthanc_commits_what_it_has_and_names_what_it_has_not(
    tmp_path: Path, orthanc: Callable[..., peers.Orthanc]
) -> None:
    with recorder() as (ours, port):
        pacs = orthanc(modalities={"limner": (OURS, port)})
        to = target(pacs.port, pacs.ae_title)
        files = [outgoing(tmp_path, number) for number in (1, 2)]
        outcomes = send_instances(to, files, calling_ae=OURS)
        assert [outcome.kind for outcome in outcomes] == [SendKind.STORED] * 2
        kept = [(file.sop_class, file.sop_uid) for file in files]

        ask_commitment(to, "2.25.10", [*kept, (CT, "1.2.3.999")], calling_ae=OURS, hold_s=0)
        until(lambda: bool(ours.reports))

        (report,) = ours.reports
        assert report.transaction_uid == "2.25.10"
        assert report.committed == {file.sop_uid for file in files}
        assert report.failed == {"1.2.3.999": "0112: no such object instance"}
        (stored_as,) = pacs.find(files[0].sop_uid)
        there = pacs.read(f"/instances/{stored_as}/file")
        assert there[read_file_meta(there)[1] :] == dataset_of(files[0])
        asked = {"study_uid": "1.2.3.4", "series_uid": "1.2.3.4.1", "calling_ae": OURS}
        assert find_instance(to, sop_uid=files[0].sop_uid, **asked)
        assert not find_instance(to, sop_uid="1.2.3.999", **asked)


def test_looking_up_at_a_peer_without_queries_is_told(
    storescp: Callable[..., peers.StoreScp],
) -> None:
    with pytest.raises(PeerError, match="queries"):
        find_instance(
            target(storescp().port, "STORESCP"),
            study_uid="1.2",
            series_uid="1.2.3",
            sop_uid="1.2.3.4",
            calling_ae=OURS,
        )
