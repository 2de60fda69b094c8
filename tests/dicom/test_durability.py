"""Durable, then yes: what was answered with success is there after a kill, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PEERS, Node
from made_objects import CT, EXPLICIT, encoded, made_ct
from pydicom.dataset import Dataset
from scu_client import associate, send_one, stored, until

from node.dicom.adoption import adopt
from node.dicom.filemeta import FileMeta, encode_file_meta
from storage.objects import Place

KILLS = 5

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
for _ in sys.stdin:  # each line starts a listener; the forks share the cost of the imports
    child = os.fork()
    if child == 0:
        run_listener(
            settings,
            open_engine(f"sqlite:///{folder / 'limner.sqlite'}"),
            ObjectStore(folder / "objects"),
            stop=threading.Event(),
            on_ready=lambda port: print(f"port {port} {os.getpid()}", flush=True),
        )
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


class Listeners:
    """A process that runs one listener after the other, each in a child of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        (folder / "limner.toml").write_text(PEERS)
        self._process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **environment},
        )
        self._pid = 0

    def start(self) -> int:
        """Start a listener; return its port."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        _, port, pid = self._line("port")
        self._pid = int(pid)
        return int(port)

    def kill(self) -> None:
        """Kill it without a chance to say goodbye."""
        os.kill(self._pid, signal.SIGKILL)
        self._line("ended")
        self._pid = 0

    def close(self) -> None:
        if self._pid:
            self.kill()
        self._process.communicate("", timeout=20)

    def _line(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.split()
        pytest.fail(f"the process ended before it said '{word}'")


@pytest.fixture
def listeners(idle_node: Node) -> Iterator[Callable[..., Listeners]]:
    """A function that makes `Listeners` for the node of the test."""
    made: list[Listeners] = []

    def make(**environment: str) -> Listeners:
        made.append(Listeners(idle_node.settings.path.parent, **environment))
        return made[-1]

    yield make
    for one in made:
        one.close()


def send_until_killed(
    node: Node, prefix: str, acknowledged: dict[str, bytes], unanswered: set[str]
) -> None:
    """Send instances on one association until it breaks; note each that was acknowledged."""
    association = associate(node)
    for number in range(10_000):
        dataset = made_ct(number, study_uid=prefix, size=64)
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        unanswered.add(dataset.SOPInstanceUID)
        if association.send_c_store(dataset).get("Status") != 0:
            break
        unanswered.discard(dataset.SOPInstanceUID)
        acknowledged[dataset.SOPInstanceUID] = encoded(made_ct(number, study_uid=prefix, size=64))
    association.abort()


def check_everything_acknowledged(node: Node, acknowledged: dict[str, bytes]) -> None:
    rows = {row.sop_uid: row for row in node.instances()}
    missing = sorted(set(acknowledged) - set(rows))
    assert missing == []
    for uid, data in acknowledged.items():
        assert node.dataset(rows[uid]) == data


def test_every_acknowledged_instance_survives_kills_under_load(
    idle_node: Node, listeners: Callable[..., Listeners]
) -> None:
    rng = random.Random(int(os.environ.get("LIMNER_TEST_SEED", "11")))
    acknowledged: dict[str, bytes] = {}
    unanswered: set[str] = set()
    line = listeners()
    for kill in range(KILLS):
        before = len(acknowledged)
        idle_node.port = line.start()
        senders = [
            threading.Thread(
                target=send_until_killed,
                args=(idle_node, f"1.2.{kill}.{number}", acknowledged, unanswered),
            )
            for number in (1, 2)
        ]
        for sender in senders:
            sender.start()
        until(lambda: len(acknowledged) > before + 3, within_s=30)  # noqa: B023  used at once
        time.sleep(rng.uniform(0.0, 0.3))
        under_load = [sender.is_alive() for sender in senders]
        line.kill()
        for sender in senders:
            sender.join()
        assert under_load == [True, True]  # a kill of an idle listener proves nothing
        check_everything_acknowledged(idle_node, acknowledged)

    # What was not acknowledged is there whole or not at all, once it has been adopted.
    idle_node.store.sweep(older_than_s=0)
    adopted(idle_node)
    rows = idle_node.instances()
    assert {row.sop_uid for row in rows} <= set(acknowledged) | unanswered
    assert len(rows) == len(idle_node.objects())
    check_everything_acknowledged(idle_node, acknowledged)


@pytest.mark.parametrize(
    ("point", "rows_after"), [("receive.before-sync", 0), ("receive.after-rows", 1)]
)
def test_a_kill_at_each_step_leaves_nothing_or_all_and_a_second_sending_completes_it(
    idle_node: Node,
    listeners: Callable[..., Listeners],
    tmp_path: Path,
    point: str,
    rows_after: int,
) -> None:
    holds = tmp_path / "holds"
    holds.mkdir()
    line = listeners(LIMNER_HOLD_AT=point, LIMNER_HOLD_DIR=str(holds))
    idle_node.port = line.start()
    statuses: list[int] = []
    sender = threading.Thread(target=lambda: statuses.append(send_one(idle_node, made_ct())))
    sender.start()
    until((holds / f"{point}.reached").exists, within_s=20)
    line.kill()
    sender.join()

    assert statuses == [-1]  # no answer
    assert len(idle_node.instances()) == rows_after

    idle_node.start()
    assert stored(idle_node, made_ct()) == [0]
    assert len(idle_node.instances()) == 1
    assert len([path for path in idle_node.objects() if path.suffix == ".obj"]) == 1


def put_object(node: Node, dataset: Dataset) -> Place:
    meta = FileMeta(
        sop_class=CT,
        sop_uid=dataset.SOPInstanceUID,
        transfer_syntax=EXPLICIT,
        source_ae="SCANNER",
    )
    return node.store.put((encode_file_meta(meta), encoded(dataset)), kind="instances")


def adopted(node: Node, *, settled_s: float = 0) -> int:
    return adopt(
        node.engine,
        node.store,
        senders={"SCANNER": "scanner"},
        stop=threading.Event(),
        settled_s=settled_s,
    )


def test_an_object_without_rows_is_adopted_with_its_sender(idle_node: Node) -> None:
    place = put_object(idle_node, made_ct())

    assert adopted(idle_node) == 1

    (row,) = idle_node.instances()
    assert (row.place, row.sender) == (place, "scanner")
    assert idle_node.dataset(row) == encoded(made_ct())
    assert adopted(idle_node) == 0


def test_an_object_that_was_sent_again_meanwhile_is_removed(node: Node) -> None:
    assert stored(node, made_ct()) == [0]
    left = put_object(node, made_ct())

    assert adopted(node) == 1

    assert not node.store.path(left).exists()
    (row,) = node.instances()
    assert node.dataset(row) == encoded(made_ct())


def test_a_young_object_is_left_to_whoever_is_writing_it(idle_node: Node) -> None:
    put_object(idle_node, made_ct())

    assert adopted(idle_node, settled_s=600) == 0
    assert idle_node.instances() == []


def test_an_object_that_cannot_be_read_is_left_where_it_is(idle_node: Node) -> None:
    place = idle_node.store.put(b"no DICOM at all" * 50, kind="instances")

    adopted(idle_node)

    assert idle_node.store.path(place).exists()
    assert idle_node.instances() == []


def test_objects_with_rows_survive_every_adoption(node: Node) -> None:
    other = made_ct()
    other.SliceThickness = "9"
    assert stored(node, made_ct(), other) == [0, 0]  # the second is a conflict, kept beside

    assert adopted(node) == 0
    assert len(node.objects()) == 2


def test_left_over_parts_are_swept_when_the_listener_starts(idle_node: Node) -> None:
    folder = idle_node.store.folder / "instances" / "ab"
    folder.mkdir(parents=True)
    part = folder / "abcdef.part"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))

    idle_node.start()

    assert not part.exists()


def test_a_disk_that_fails_is_answered_as_passing_and_leaves_no_row(idle_node: Node) -> None:
    idle_node.start()
    folder = idle_node.store.folder
    folder.rename(folder.with_name("gone"))
    folder.write_text("a file where the folder was")

    assert send_one(idle_node, made_ct()) == 0xA700
    assert idle_node.instances() == []
