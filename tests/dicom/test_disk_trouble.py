"""A disk that is nearly full or fails: senders are told to send again, and the node goes on.

The space that runs short is that of the memory file system, so that a test can fill it.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attacked_node import Attacked, attacked_node
from raw_peer import (
    COMMAND,
    CT_CONTEXT,
    LAST,
    P_DATA,
    RELEASE_RQ,
    Said,
    associated,
    dataset,
    echo_message,
    fresh_uid,
    honest,
    pdu,
    pdv,
    store_command,
    store_message,
)
from receiving_node import until

from node.dicom.indexing import LARGEST_COMPARED
from node.phantom.ports import free_port
from tests.durability.recording import CANNOT_RECORD

pytestmark = pytest.mark.flow

OUT_OF_RESOURCES = 0xA700
MAX_BLOCK = 1 << 16
SPARE_MB = 100
"""What is free above the reserve at first."""


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory: a file system of its own, if we may mount one, else one that is there."""
    folder = tmp_path_factory.mktemp("memory")
    if os.geteuid() == 0:
        tmpfs = ("mount", "-t", "tmpfs", "-o", "size=2g", "limner-test", folder)
        if subprocess.run(tmpfs, check=False, capture_output=True).returncode == 0:
            try:
                yield folder
            finally:
                subprocess.run(["umount", folder], check=True)
            return
    shared = Path("/dev/shm")  # noqa: S108  emptied at the end
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as inside:
        yield Path(inside)


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory, memory: Path) -> Iterator[Attacked]:
    """A node whose disk has some space above its reserve, and may be filled."""
    free_mb = shutil.disk_usage(memory).free >> 20
    with attacked_node(
        tmp_path_factory.mktemp("scarce"),
        free_port(),
        storage=f'objects = "{memory}/scarce"',
        reserve_mb=free_mb - SPARE_MB,
        object_mb=500,
    ) as running:
        yield running


@contextmanager
def filled(node: Attacked) -> Iterator[None]:
    """Let something else use up the space, down below the reserve."""
    filler = node.settings.storage.objects.with_name("filler")
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 3 * SPARE_MB << 20)
    try:
        yield
    finally:
        filler.unlink()


def stored(node: Attacked, uid: str, data: bytes | None = None) -> Said:
    message = store_message(uid, data)
    with associated(node.port) as peer:
        peer.send(message)
        answer = peer.hear()
        assert answer is not None
        peer.send(pdu(RELEASE_RQ))
        peer.hear()
    return answer


def test_below_its_reserve_the_node_takes_nothing_answers_echo_and_recovers_by_itself(
    scarce: Attacked,
) -> None:
    uid = fresh_uid()
    with scarce.unharmed():
        with filled(scarce):
            until(lambda: stored(scarce, uid).status == OUT_OF_RESOURCES)
            kept = len(scarce.records())
            answer = stored(scarce, uid)
            assert answer.status == OUT_OF_RESOURCES
            assert b"nearly full" in answer.command_element(0x902)
            with associated(scarce.port) as peer:
                peer.send(echo_message())
                answer = peer.hear()
                assert answer is not None
                assert answer.status == 0
            assert len(scarce.records()) == kept
            until(lambda: "instance-refused" in scarce.log.read_text())
        until(lambda: stored(scarce, uid).status == 0)
        until(lambda: uid in scarce.instances())


def test_an_instance_larger_than_the_space_is_read_to_its_end_and_leaves_no_part(
    scarce: Attacked,
) -> None:
    uid = fresh_uid()
    with scarce.unharmed():
        answer = stored(scarce, uid, dataset(uid, pixels=2 * SPARE_MB << 20))

        assert answer.status == OUT_OF_RESOURCES
        assert b"full" in answer.command_element(0x902)
        until(lambda: scarce.files() == [])
        assert stored(scarce, fresh_uid()).status == 0


def test_huge_objects_under_one_uid_are_kept_and_told_apart_without_laying_them_side_by_side(
    tmp_path: Path, memory: Path
) -> None:
    uid = fresh_uid()
    blocks = LARGEST_COMPARED // MAX_BLOCK + 1
    head = dataset(uid, pixels=0)[:-4] + struct.pack("<I", blocks * MAX_BLOCK)
    with (
        attacked_node(
            tmp_path, free_port(), storage=f'objects = "{memory}/huge"', object_mb=300
        ) as node,
        node.unharmed(growth_mb=12),
    ):
        for number in (1, 2):
            with associated(node.port) as peer:
                command = pdv(CT_CONTEXT, COMMAND | LAST, store_command(uid))
                peer.send(pdu(P_DATA, command + pdv(CT_CONTEXT, 0, head)))
                for _ in range(blocks - 1):
                    peer.send(pdu(P_DATA, pdv(CT_CONTEXT, 0, bytes(MAX_BLOCK))))
                peer.send(pdu(P_DATA, pdv(CT_CONTEXT, LAST, bytes([number]) * MAX_BLOCK)))
                answer = peer.hear()
                assert answer is not None
                assert answer.status == 0
        until(lambda: "instance-conflict" in node.log.read_text(), within_s=60)
        assert len(node.files()) == 2


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Attacked, Path]]:
    """A node whose syncs fail on order, and the file that orders it."""
    folder = tmp_path_factory.mktemp("failing")
    library, trigger = folder / "failing_sync.so", folder / "fail"
    if shutil.which("cc") is None:
        pytest.skip(CANNOT_RECORD)
    source = Path(__file__).with_name("failing_sync.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"],
        check=True,
    )
    environment = {"LD_PRELOAD": str(library), "LIMNER_FAIL_SYNC": str(trigger)}
    with attacked_node(folder / "node", free_port(), environment=environment) as running:
        yield running, trigger


@pytest.mark.parametrize(
    ("pixels", "of"),
    [pytest.param(512, ".seg", id="journal"), pytest.param(2_000_000, ".part", id="own file")],
)
def test_a_sync_that_fails_is_answered_as_passing_seen_and_never_tried_again(
    failing: tuple[Attacked, Path], pixels: int, of: str
) -> None:
    node, trigger = failing
    uid = fresh_uid()
    data = dataset(uid, pixels=pixels)
    segments = {record.segment for record in node.records()}
    said_before = node.log.read_text().count("instance not kept")
    trigger.write_text(of)

    answer = stored(node, uid, data)

    assert trigger.with_name("fail.done").exists()
    assert answer.status == OUT_OF_RESOURCES
    assert b"cannot store now" in answer.command_element(0x902)
    until(lambda: node.log.read_text().count("instance not kept") > said_before)
    assert uid not in node.instances()
    for _ in range(5):
        honest(node.port)
    assert stored(node, uid, data).status == 0  # the sender tries again, and is believed
    until(lambda: uid in node.instances())
    place = node.instances()[uid].place
    assert place.name not in segments or of != ".seg"  # that segment is given up
    assert not trigger.with_name("fail.again").exists()
    assert [path.suffix for path in node.files()] == [".obj"] * (of == ".part")


def test_what_a_failed_sync_covered_is_refused_for_all_who_waited_for_it(
    failing: tuple[Attacked, Path],
) -> None:
    node, trigger = failing
    with associated(node.port) as first, associated(node.port) as second:
        pairs = [(peer, fresh_uid()) for peer in (first, second)]
        trigger.write_text(".seg")
        for peer, uid in pairs:
            peer.send(store_message(uid))
        answers = {uid: peer.hear() for peer, uid in pairs}
    statuses = {uid: answer.status for uid, answer in answers.items() if answer is not None}
    assert set(statuses.values()) <= {0, OUT_OF_RESOURCES}
    assert OUT_OF_RESOURCES in statuses.values()
    for uid, status in statuses.items():
        if status == 0:
            until(lambda: uid in node.instances())  # noqa: B023  used at once
    assert not trigger.with_name("fail.again").exists()
