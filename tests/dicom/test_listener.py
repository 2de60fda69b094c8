"""The listener over real sockets: who gets in, what is kept, what is answered."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import peers
import pytest
from made_objects import CT, EXPLICIT, IMPLICIT, encoded, made_ct, saved
from pynetdicom import build_context
from raw_peer import (
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    VERIFICATION,
    Peer,
    associated,
    pdu,
    request,
)
from receiving_node import Node, until
from scu_client import COMMITMENT, associate, report, send_one, send_raw, stored

from node.dicom.listener import run_listener
from node.errors import SetupError
from node.settings import Settings
from storage.associations import AssociationOutcome
from storage.database import reading
from storage.deliveries import list_deliveries
from storage.peers import find_peer_state

PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"


def test_an_acknowledged_instance_has_its_bytes_its_rows_and_its_sender(node: Node) -> None:
    assert stored(node, made_ct(1), made_ct(2)) == [0, 0]

    rows = node.instances()
    assert [row.sop_uid for row in rows] == ["1.2.3.4.1.1", "1.2.3.4.1.2"]
    assert [node.dataset(row) for row in rows] == [encoded(made_ct(1)), encoded(made_ct(2))]
    assert rows[0].digest == hashlib.sha256(encoded(made_ct(1))).hexdigest()
    assert rows[0].sender == "scanner"
    assert rows[0].transfer_syntax == EXPLICIT
    (association,) = node.ended_associations(1)
    assert association.outcome is AssociationOutcome.RELEASED
    assert rows[0].association_id == association.id
    assert (association.peer, association.instances, association.refused) == ("scanner", 2, 0)
    with reading(node.engine) as db:
        state = find_peer_state(db, "scanner")
    assert state is not None
    assert state.last_heard_ms is not None


@pytest.mark.parametrize(
    ("calling", "called", "diagnostic", "word"),
    [
        ("STRANGER", "LIMNER", 3, "STRANGER"),
        ("SCANNER", "SOMEONE", 7, "SOMEONE"),
        ("ELSEWHERE", "LIMNER", 3, "127.0.0.1"),
    ],
)
def test_a_stranger_is_rejected_with_the_standards_reason_and_noted(
    node: Node, calling: str, called: str, diagnostic: int, word: str
) -> None:
    with Peer(node.port) as peer:
        peer.send(request(calling=calling.encode(), called=called.encode()))
        answer = peer.hear()

    assert answer is not None
    assert (answer.kind, answer.body) == (RJ, bytes((0, 1, 1, diagnostic)))
    until(lambda: bool(node.refused()))
    (row,) = node.refused()
    assert word in row.reason
    assert (row.calling_ae, row.called_ae, row.address) == (calling, called, "127.0.0.1")
    assert row.wanted == (VERIFICATION, CT)
    assert node.associations() == []


def test_a_peer_that_may_only_echo_is_offered_nothing_else(node: Node) -> None:
    echoed = peers.dcmtk(
        "echoscu", "-aet", "MONITOR", "-aec", "LIMNER", "127.0.0.1", str(node.port)
    )
    association = associate(
        node, build_context(CT), build_context("1.2.840.10008.1.1"), calling="MONITOR"
    )

    assert echoed.returncode == 0
    assert [context.abstract_syntax for context in association.accepted_contexts] == [
        "1.2.840.10008.1.1"
    ]
    association.release()
    assert node.instances() == []


def test_a_peer_that_may_not_report_cannot_open_the_commitment_service(node: Node) -> None:
    association = associate(node, build_context(COMMITMENT))
    assert association.accepted_contexts == []
    association.abort()


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
        "1.2.840.10008.1.2.5",
    ],
)
def test_every_syntax_that_we_keep_is_accepted_on_its_own(node: Node, syntax: str) -> None:
    association = associate(node, build_context(CT, syntax), build_context(LABELMAP, syntax))
    accepted = [str(context.transfer_syntax[0]) for context in association.accepted_contexts]
    association.release()
    assert accepted == [syntax, syntax]


def test_what_we_do_not_keep_is_not_accepted(node: Node) -> None:
    association = associate(
        node,
        build_context(CT, "1.2.840.10008.1.2.1.99"),  # deflated
        build_context(CT, ["1.2.840.10008.1.2.4.50", IMPLICIT]),
        build_context("1.2.840.10008.5.1.4.31"),  # modality worklist
        build_context("1.2.840.10008.5.1.4.1.2.2.2"),  # C-MOVE
        build_context(PRIVATE_CLASS),
    )
    accepted = {
        str(context.abstract_syntax): str(context.transfer_syntax[0])
        for context in association.accepted_contexts
    }
    association.release()
    # The native syntax wins over one that would make the sender compress with loss.
    assert accepted == {CT: IMPLICIT, PRIVATE_CLASS: EXPLICIT}


def test_a_private_class_is_kept_where_the_settings_allow_it(node: Node) -> None:
    dataset = made_ct()
    dataset.SOPClassUID = PRIVATE_CLASS

    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    association = associate(node, build_context(PRIVATE_CLASS, EXPLICIT))
    status = association.send_c_store(dataset).Status
    association.release()

    assert status == 0
    assert [row.sop_class for row in node.instances()] == [PRIVATE_CLASS]


def test_the_same_instance_again_is_one_instance_whose_space_is_taken_once(node: Node) -> None:
    same = [made_ct(size=64) for _ in range(3)]

    assert stored(node, *same[:2]) == [0, 0]
    assert stored(node, same[2]) == [0]

    (row,) = node.instances()
    until(lambda: [record.place for record in node.records()] == [row.place])
    assert node.dataset(row) == encoded(made_ct(size=64))


def test_other_bytes_under_a_known_uid_are_kept_and_never_replace_the_first(node: Node) -> None:
    other = made_ct(size=64)
    other.SliceThickness = "9"

    assert stored(node, made_ct(size=64), other, other) == [0, 0, 0]

    (row,) = node.instances()
    assert node.dataset(row) == encoded(made_ct(size=64))
    until(lambda: len(node.records()) == 2)
    kept = {node.store.read(record.place)[record.dataset_offset :] for record in node.records()}
    assert kept == {encoded(made_ct(size=64)), encoded(other)}


def test_the_same_instance_in_another_encoding_is_not_new(node: Node) -> None:
    assert stored(node, made_ct(size=64)) == [0]
    dataset = made_ct(size=64)
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = IMPLICIT
    association = associate(node, build_context(CT, IMPLICIT))
    assert association.send_c_store(dataset).Status == 0
    association.release()

    (row,) = node.instances()
    assert row.transfer_syntax == EXPLICIT
    until(lambda: [record.place for record in node.records()] == [row.place])


def test_a_full_disk_is_answered_as_passing_and_leaves_nothing(idle_node: Node) -> None:
    idle_node.settings = with_reserve(idle_node, 1 << 40)
    idle_node.start()

    answer = send_raw(idle_node, encoded(made_ct()))
    echoed = peers.dcmtk(
        "echoscu", "-aet", "SCANNER", "-aec", "LIMNER", "127.0.0.1", str(idle_node.port)
    )

    assert answer.Status == 0xA700
    assert answer.ErrorComment == "The disk is nearly full; send again later."
    assert echoed.returncode == 0
    assert idle_node.instances() == []
    assert idle_node.keeps_nothing()


def with_reserve(node: Node, reserve_mb: int) -> Settings:
    return replace(node.settings, storage=replace(node.settings.storage, reserve_mb=reserve_mb))


@contextmanager
def database_away(node: Node) -> Iterator[None]:
    """Put a folder where the database was: a path that none can be opened at."""
    database = Path(node.engine.url.database or "")
    hidden = database.with_suffix(".hidden")
    node.engine.dispose()
    database.rename(hidden)
    database.mkdir()
    try:
        yield
    finally:
        database.rmdir()
        hidden.rename(database)


def test_a_database_that_is_away_delays_rows_and_nothing_else(idle_node: Node) -> None:
    with database_away(idle_node):
        idle_node.start()
        assert stored(idle_node, made_ct(1), made_ct(2)) == [0, 0]
        echoed = peers.dcmtk(
            "echoscu", "-aet", "SCANNER", "-aec", "LIMNER", "127.0.0.1", str(idle_node.port)
        )
        assert echoed.returncode == 0

    rows = idle_node.instances()
    assert [idle_node.dataset(row) for row in rows] == [encoded(made_ct(1)), encoded(made_ct(2))]
    assert rows[0].sender == "scanner"


def test_what_lay_on_disk_at_a_start_without_a_database_gets_its_rows_when_that_is_back(
    idle_node: Node,
) -> None:
    before = Path(idle_node.engine.url.database or "").with_suffix(".before")
    shutil.copyfile(idle_node.engine.url.database or "", before)
    idle_node.start()
    assert stored(idle_node, made_ct(1)) == [0]
    assert len(idle_node.instances()) == 1
    idle_node.stop()
    idle_node.engine.dispose()
    before.rename(before.with_suffix(".sqlite"))  # as if its rows had never been written

    with database_away(idle_node):
        idle_node.start()
        assert stored(idle_node, made_ct(2)) == [0]

    until(lambda: len(idle_node.instances()) == 2)


def test_an_aborted_association_keeps_what_was_acknowledged(node: Node) -> None:
    association = associate(node)
    for number in (1, 2, 3):
        dataset = made_ct(number)
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        assert association.send_c_store(dataset).Status == 0
    association.abort()

    assert len(node.instances()) == 3
    (row,) = node.ended_associations(1)
    assert (row.outcome, row.instances) == (AssociationOutcome.ABORTED, 3)


def test_a_connection_that_breaks_is_noted_as_lost(node: Node) -> None:
    association = associate(node)
    connection = association.dul.socket.socket
    connection.shutdown(socket.SHUT_RDWR)

    (row,) = node.ended_associations(1)
    assert row.outcome is AssociationOutcome.LOST


def test_more_associations_than_allowed_are_rejected_as_passing(idle_node: Node) -> None:
    idle_node.settings = replace(
        idle_node.settings, listener=replace(idle_node.settings.listener, max_associations=2)
    )
    idle_node.start()
    first, second = associate(idle_node), associate(idle_node)

    with Peer(idle_node.port) as third:
        third.send(request())
        answer = third.hear()

    assert answer is not None
    assert (answer.kind, answer.body) == (RJ, bytes((0, 2, 3, 2)))
    first.release()
    second.release()
    idle_node.ended_associations(2)
    until(lambda: bool(idle_node.refused()))
    assert "As many associations" in idle_node.refused()[0].reason
    fourth = associate(idle_node)
    assert fourth.is_established
    fourth.release()


def test_who_was_told_that_its_association_is_released_may_open_the_next_at_once(
    idle_node: Node,
) -> None:
    idle_node.settings = replace(
        idle_node.settings, listener=replace(idle_node.settings.listener, max_associations=1)
    )
    idle_node.start()
    with ExitStack() as still_connected:
        for _ in range(5):
            peer = still_connected.enter_context(associated(idle_node.port))
            peer.send(pdu(RELEASE_RQ))
            answer = peer.hear()
            assert answer is not None
            assert answer.kind == RELEASE_RP


def test_a_stock_dcmtk_sender_is_served(node: Node, tmp_path: Path) -> None:
    files = [saved(made_ct(n), tmp_path / f"{n}.dcm") for n in range(1, 6)]

    sent = peers.dcmtk(
        *("storescu", "-aet", "SCANNER", "-aec", "LIMNER", "127.0.0.1", str(node.port)),
        *files[:3],
    )
    again = peers.dcmtk(
        *("dcmsend", "-aet", "SCANNER", "-aec", "LIMNER", "127.0.0.1", str(node.port)),
        *files,
    )

    assert (sent.returncode, sent.stdout) == (0, "")
    assert again.returncode == 0, again.stdout
    assert len(node.instances()) == 5


def test_two_associations_at_once_make_one_study(node: Node) -> None:
    def send(start: int, statuses: list[int]) -> None:
        statuses.extend(stored(node, *(made_ct(n) for n in range(start, start + 20))))

    statuses: list[int] = []
    threads = [threading.Thread(target=send, args=(start, statuses)) for start in (1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [0] * 40
    rows = node.instances()
    assert len(rows) == len({row.sop_uid for row in rows}) == 30
    assert len({row.study_id for row in rows}) == 1


def test_stopping_answers_what_is_in_progress_and_ends_in_seconds(
    idle_node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, holds = "receive.before-sync", tmp_path / "holds"
    holds.mkdir()
    monkeypatch.setenv("LIMNER_HOLD_AT", point)  # the wire inherits it
    monkeypatch.setenv("LIMNER_HOLD_DIR", str(holds))
    idle_node.start()
    silent = associate(idle_node)  # holds an association open and says nothing
    statuses: list[int] = []
    sender = threading.Thread(target=lambda: statuses.append(send_one(idle_node, made_ct())))
    sender.start()
    until((holds / f"{point}.reached").exists)
    going_on = threading.Timer(0.8, (holds / f"{point}.go").touch)  # a disk that takes its time
    going_on.start()

    started = time.monotonic()
    idle_node.stop()

    assert time.monotonic() - started < 8
    going_on.join()
    sender.join(10)
    assert statuses == [0]
    assert len(idle_node.instances()) == 1
    assert {row.outcome for row in idle_node.associations()} <= {
        AssociationOutcome.ABORTED,
        AssociationOutcome.RELEASED,
        AssociationOutcome.LOST,
    }
    silent.abort()


def test_a_port_that_is_taken_is_told_with_what_to_do(idle_node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        idle_node.settings = replace(
            idle_node.settings,
            listener=replace(idle_node.settings.listener, port=taken.getsockname()[1]),
        )
        with pytest.raises(SetupError, match="another"):
            run_listener(
                idle_node.settings, idle_node.engine, idle_node.store, stop=threading.Event()
            )


def test_the_listener_never_imports_torch_or_the_image_libraries() -> None:
    code = (
        "import sys, node.dicom.listener, node.dicom.scu;"
        "print([m for m in ('torch', 'highdicom', 'scipy', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "[]"


def test_an_unknown_commitment_report_is_answered_success_and_moves_nothing(node: Node) -> None:
    answer = report(node, "2.25.1", "1.2.3.4")

    assert answer.Status == 0
    with reading(node.engine) as db:
        assert list_deliveries(db) == []
