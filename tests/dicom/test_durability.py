"""Durable, then yes: what a kill at each step leaves, and what a start makes of what is on disk.

Kills at random moments, power cuts and replayed crashes are in `tests/durability`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from made_objects import encoded, made_ct
from receiving_node import CONFIGURATION, Node, until
from scu_client import send_one, send_raw, stored
from sqlalchemy import update

from storage.database import reading, writing
from storage.segment_writer import count_prepared
from storage.segments import list_segments
from storage.studies import StudyRow, find_study
from storage.tables import Instance, StudyState

LISTENER = """
import dataclasses, os, sys, threading
from pathlib import Path
from node.dicom.listener import run_listener
from node.settings import load_settings
from storage.database import open_engine
from storage.objects import ObjectStore
folder = Path(sys.argv[1])
settings = load_settings(folder / "limner.toml")
settings = dataclasses.replace(
    settings, listener=dataclasses.replace(settings.listener, port=0)
)
run_listener(
    settings,
    open_engine(f"sqlite:///{folder / 'limner.sqlite'}"),
    ObjectStore(folder / "objects"),
    stop=threading.Event(),
    on_ready=lambda port: print(f"port {port}", flush=True),
)
"""


class Listener:
    """A listener whose processes can be killed without a chance to say goodbye."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        (folder / "limner.toml").write_text(CONFIGURATION)
        self._process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def port(self) -> int:
        """Return its port once it listens."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("port"):
                return int(line.split()[1])
        pytest.fail("the listener ended before it listened")

    def kill(self) -> None:
        """Kill keeper and wire at the same moment."""
        if self._process.poll() is not None:
            return
        keeper = psutil.Process(self._process.pid)
        tree = [keeper, *keeper.children(recursive=True)]
        for process in tree:
            os.kill(process.pid, signal.SIGSTOP)  # so that none sees the others die
        for process in tree:
            os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(tree, 20)
        self._process.communicate(timeout=20)


@pytest.fixture
def listener(idle_node: Node) -> Iterator[Callable[[dict[str, str]], Listener]]:
    """A function that runs a listener, as processes of its own, for the node of the test."""
    made: list[Listener] = []

    def make(environment: dict[str, str]) -> Listener:
        made.append(Listener(idle_node.settings.path.parent, environment))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.mark.parametrize(
    ("point", "after"),
    [  # status answered, or -1 for no answer; whole records; rows
        ("receive.before-sync", (-1, 0, 0)),
        ("receive.after-sync", (-1, 1, 0)),
        ("index.before-commit", (0, 1, 0)),
        ("index.after-commit", (0, 1, 1)),
    ],
)
def test_a_kill_at_each_step_leaves_nothing_or_all_and_a_second_sending_completes_it(
    idle_node: Node,
    listener: Callable[[dict[str, str]], Listener],
    tmp_path: Path,
    point: str,
    after: tuple[int, int, int],
) -> None:
    answer, durable, rows_after = after
    holds = tmp_path / "holds"
    holds.mkdir()
    running = listener({"LIMNER_HOLD_AT": point, "LIMNER_HOLD_DIR": str(holds)})
    idle_node.port = running.port()
    statuses: list[int] = []
    sender = threading.Thread(target=lambda: statuses.append(send_one(idle_node, made_ct(size=64))))
    sender.start()
    if point.startswith("index."):  # rows come after the answer
        sender.join()
    until((holds / f"{point}.reached").exists)
    running.kill()
    sender.join()

    assert statuses == [answer]
    assert len(idle_node.records()) == durable
    assert len(idle_node.instances()) == rows_after

    idle_node.start()
    assert len(idle_node.instances()) == durable
    assert stored(idle_node, made_ct(size=64)) == [0]
    (row,) = idle_node.instances()
    assert idle_node.dataset(row) == encoded(made_ct(size=64))
    until(lambda: [record.place for record in idle_node.records()] == [row.place])


def without_rows(node: Node, work: Callable[[], object]) -> None:
    """Let a running listener do some work, stop it, and make its rows as if never written."""
    database = Path(node.engine.url.database or "")
    before = database.read_bytes()
    node.start()
    work()
    node.stop()
    node.engine.dispose()
    for left in database.parent.glob(f"{database.name}-*"):
        left.unlink()
    database.write_bytes(before)


def test_a_record_without_rows_gets_them_at_the_start_with_its_sender(idle_node: Node) -> None:
    without_rows(idle_node, lambda: stored(idle_node, made_ct(1), made_ct(2)))
    assert idle_node.instances() == []

    idle_node.start()

    rows = idle_node.instances()
    assert [row.sender for row in rows] == ["scanner", "scanner"]
    assert [idle_node.dataset(row) for row in rows] == [encoded(made_ct(1)), encoded(made_ct(2))]


def test_an_instance_too_large_for_the_buffer_gets_its_rows_at_the_start_too(
    idle_node: Node,
) -> None:
    large = made_ct(size=1024)
    without_rows(idle_node, lambda: stored(idle_node, large))
    assert len(idle_node.files()) == 1

    idle_node.start()

    (row,) = idle_node.instances()
    assert row.place.name.startswith("instances/")
    assert idle_node.dataset(row) == encoded(made_ct(size=1024))


def test_what_was_sent_twice_before_it_had_rows_is_one_instance_whose_space_is_taken_once(
    idle_node: Node,
) -> None:
    def send_twice() -> None:
        for _ in range(2):
            assert stored(idle_node, made_ct(size=64)) == [0]
            assert stored(idle_node, made_ct(7, size=1024)) == [0]

    without_rows(idle_node, send_twice)

    idle_node.start()

    rows = idle_node.instances()
    until(lambda: {one.place for one in idle_node.records()} == {row.place for row in rows})
    assert [row.sop_uid for row in rows] == ["1.2.3.4.1.1", "1.2.3.4.1.7"]
    assert idle_node.dataset(rows[0]) == encoded(made_ct(size=64))
    assert idle_node.dataset(rows[1]) == encoded(made_ct(7, size=1024))
    assert len(idle_node.files()) == 1


def test_conflicting_bytes_survive_every_start(idle_node: Node) -> None:
    other = made_ct(size=64)
    other.SliceThickness = "9"
    idle_node.start()
    assert stored(idle_node, made_ct(size=64), other) == [0, 0]

    for _ in range(2):
        idle_node.stop()
        idle_node.start()

    (row,) = idle_node.instances()
    assert idle_node.dataset(row) == encoded(made_ct(size=64))
    kept = [idle_node.store.read(one.place)[one.dataset_offset :] for one in idle_node.records()]
    assert sorted(kept) == sorted([encoded(made_ct(size=64)), encoded(other)])


def test_a_record_that_is_torn_gets_no_rows_and_hides_none_behind_it(idle_node: Node) -> None:
    def send_three() -> None:
        for number in (1, 2, 3):
            assert stored(idle_node, made_ct(number, size=64)) == [0]
        second = idle_node.records()[1]
        with (idle_node.store.folder / second.segment).open("r+b") as segment:
            segment.seek(second.offset + second.span - 4096)
            segment.write(b"\xff" * 16)  # as if this block had never reached the disk

    without_rows(idle_node, send_three)

    idle_node.start()

    assert [row.sop_uid for row in idle_node.instances()] == ["1.2.3.4.1.1", "1.2.3.4.1.3"]
    assert stored(idle_node, made_ct(2, size=64)) == [0]
    assert len(idle_node.instances()) == 3


def test_a_listener_goes_on_in_the_segment_of_the_one_before(idle_node: Node) -> None:
    for number in range(1, 5):
        idle_node.start()
        assert stored(idle_node, made_ct(number)) == [0]
        idle_node.stop()

    assert len(list_segments(idle_node.store.folder, "test")) == 1
    assert len(idle_node.instances()) == 4


def test_bytes_that_are_gone_before_their_digest_hold_their_study_with_a_sentence(
    idle_node: Node,
) -> None:
    idle_node.start()
    lost = made_ct(1, study_uid="1.2.3.5", size=1024)
    assert stored(idle_node, lost, made_ct(2)) == [0, 0]
    assert len(idle_node.instances()) == 2
    idle_node.stop()
    with writing(idle_node.engine) as db:
        db.execute(update(Instance).values(digest=""))
    idle_node.files()[0].unlink()

    idle_node.start()

    def study(uid: str) -> StudyRow | None:
        with reading(idle_node.engine) as db:
            return find_study(db, uid)

    until(lambda: (found := study("1.2.3.5")) is not None and found.state is StudyState.HELD)
    other = study("1.2.3.4")
    assert other is not None
    assert other.state is StudyState.ARRIVING


def test_left_over_parts_are_swept_when_the_listener_starts(idle_node: Node) -> None:
    folder = idle_node.store.folder / "instances" / "ab"
    folder.mkdir(parents=True)
    part = folder / "abcdef.part"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))

    idle_node.start()

    assert not part.exists()


def test_what_nobody_was_answered_for_is_swept_and_what_cannot_be_read_is_kept(
    idle_node: Node,
) -> None:
    idle_node.start()
    assert stored(idle_node, made_ct(1, size=1024)) == [0]
    assert len(idle_node.instances()) == 1
    idle_node.stop()
    (known,) = idle_node.files()
    unanswered = known.with_name("test-1.obj")
    unanswered.write_bytes(known.read_bytes())
    unreadable = known.with_name("test-2.obj")
    unreadable.write_bytes(b"\xff" * 1024)
    for path in (known, unanswered, unreadable):
        os.utime(path, (0, 0))

    idle_node.start()

    until(lambda: not unanswered.exists())
    assert known.exists()
    assert unreadable.exists()


def test_a_disk_that_fails_is_answered_as_passing_and_leaves_no_row(node: Node) -> None:
    folder = node.store.folder
    folder.rename(folder.with_name("gone"))
    folder.write_text("a file where the folder was")
    statuses = [send_one(node, made_ct(1)), send_one(node, made_ct(2, size=1024))]

    folder.unlink()
    folder.with_name("gone").rename(folder)

    assert statuses == [0xA700, 0xA700]
    assert node.instances() == []
    assert node.keeps_nothing()
    until(lambda: send_raw(node, encoded(made_ct(1))).Status == 0)
    assert len(node.instances()) == 1


def test_segments_are_made_ready_again_when_nothing_more_arrives(idle_node: Node) -> None:
    storage = replace(idle_node.settings.storage, journal_mb=4, journal_ahead=2)
    idle_node.settings = replace(idle_node.settings, storage=storage)
    idle_node.start()

    def ready() -> int:
        return count_prepared(idle_node.store.folder, "test")

    until(lambda: ready() == 2)
    assert stored(idle_node, *(made_ct(number, size=600) for number in range(1, 16))) == [0] * 15
    assert ready() < 2
    until(lambda: ready() == 2)
    assert len(idle_node.instances()) == 15
