"""An instance answered with success is there after a crash at any moment of a recorded session.

A short session is recorded: every write, sync and name, and every answer. It has 45 instances over
three associations, one of several megabytes; in the middle all processes are killed and started
again. Then the tree of files is rebuilt as a crash at this or that moment may have left it, by a
strict reading of POSIX, and the node looks at it. It must have every instance that was answered for
before the crash, byte for byte, and nothing torn; once with the database as the crash left it, once
with an empty one.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from node.dicom.books import Books
from storage.conflicts import OnConflict
from storage.database import open_engine
from storage.objects import ObjectStore

from .listening import Listening, Nursery, made_listening, made_nursery
from .recording import (
    CANNOT_RECORD,
    Event,
    Kind,
    build_recorder,
    can_record,
    read_log,
    record_to,
)
from .replay import Luck, Replay
from .sending import SUCCESS, Association, Made, c_store_answer, made
from .verifying import Lost, check_kept, make_old, tell, wait_swept

pytestmark = [
    pytest.mark.flow,
    pytest.mark.xdist_group("crash replay"),  # one recorded session for all
    pytest.mark.skipif(not can_record(), reason=CANNOT_RECORD),
]

ASSOCIATIONS: Final = 3
INSTANCES: Final = 45
BEFORE_THE_KILL: Final = 15
LARGE: Final = 17
CRASHES: Final = 200
STARTS: Final = 10
LUCKS: Final = tuple(Luck)
SEED = int(os.environ.get("LIMNER_TEST_SEED", "12"))


@dataclass(frozen=True, slots=True)
class Session:
    """A recorded session.

    Attributes:
        start: The files before it.
        events: All that the listener did.
        sent: What was sent, by message id.
        empty_database: A database of this version without rows.
    """

    start: Replay
    events: list[Event]
    sent: dict[int, Made]
    empty_database: Path

    def answers(self) -> dict[int, Made]:
        """Return what was answered with success, by the number of events until it was."""
        return {
            position: self.sent[message_id]
            for position, event in enumerate(self.events, start=1)
            if event.kind is Kind.SENT
            for message_id in _successes(event.data)
        }


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash after so many events, and what it leaves."""

    position: int
    luck: Luck
    database_lost: bool


def _successes(data: bytes) -> Iterator[int]:
    """Yield the message ids that a sequence of PDUs answers with success."""
    at = 0
    while at + 6 <= len(data):
        length = int.from_bytes(data[at + 2 : at + 6])
        answer = c_store_answer(data[at + 6 : at + 6 + length]) if data[at] == 4 else None
        if answer and answer[1] == SUCCESS:
            yield answer[0]
        at += 6 + length


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with made_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("session")
    node, log = folder / "node", folder / "record"
    objects = [made(SEED, number, large=number == LARGE) for number in range(INSTANCES)]
    with (
        made_nursery(record_to(build_recorder(folder), log, node)) as recorded,
        made_listening(node, folder / "log.txt", recorded) as listening,
    ):
        database = database_of(listening)
        empty = shutil.copyfile(database, folder / "empty")
        start = Replay(node)
        listening.wait_listening()
        send(listening.port, objects[:BEFORE_THE_KILL])
        unfinished = Association(listening.port)
        data = unfinished.encode(objects[LARGE])
        unfinished.send(data[: len(data) // 2])
        listening.halt()
        unfinished.close()
        listening.wait_listening()
        send(listening.port, objects[BEFORE_THE_KILL:])
        listening.stop()
    return Session(start, read_log(log), {one.message_id: one for one in objects}, empty)


def database_of(listening: Listening) -> Path:
    return Path(listening.settings.storage.database_url.removeprefix("sqlite:///"))


def send(port: int, objects: Sequence[Made]) -> None:
    """Send objects over several associations at once."""

    def send_some(some: Sequence[Made]) -> None:
        association = Association(port)
        for one in some:
            association.store(one)
        association.release()

    senders = [
        threading.Thread(target=send_some, args=(objects[first::ASSOCIATIONS],))
        for first in range(ASSOCIATIONS)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory, where there is one: what is written there is read once."""
    memory = Path("/dev/shm")  # noqa: S108  a name of its own is made there
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="limner-crash-") as made_there:
        yield Path(made_there)


def recover_by_listener(listening: Listening) -> None:
    """Let `limner listen` find what there is, and see that it sweeps what nobody refers to."""
    listening.wait_listening()
    wait_swept(listening)


def recover_here(listening: Listening) -> None:
    """Do what `limner listen` does before it lets peers connect, without starting a process."""
    settings = listening.settings
    engine = open_engine(settings.storage.database_url)
    books = Books(
        engine,
        ObjectStore(settings.storage.objects),
        settings.node.name,
        on_conflict=OnConflict(settings.storage.on_conflict),
    )
    try:
        books.catch_up()
    finally:
        engine.dispose()


def check_crashes(
    session: Session,
    crashes: Iterable[Crash],
    folder: Path,
    recover: Callable[[Listening], None],
    nursery: Nursery,
) -> int:
    """Check what the node finds after each crash; return how many crashes that were.

    Raises:
        Lost: An instance that was answered for before the crash is not there, or one is torn.
    """
    offered = {one.uid: one for one in session.sent.values()}
    answers = session.answers()
    assert len(answers) == INSTANCES
    replay = copy.deepcopy(session.start)
    at = count = 0
    for crash in sorted(crashes, key=lambda crash: crash.position):
        for event in session.events[at : crash.position]:
            replay.apply(event)
        at = crash.position
        left = folder / f"crash-{count}"
        left.mkdir()
        replay.leave(left, crash.luck, random.Random(f"{SEED}/{crash}"))
        listening = Listening(left, folder / "log.txt", nursery)
        if crash.database_lost:
            lose_database(listening, session.empty_database)
        make_old(listening)
        acknowledged = {one.uid: one for given, one in answers.items() if given <= at}
        try:
            recover(listening)
            check_kept(listening, acknowledged, offered=offered, patience_s=0)
        except AssertionError as error:
            error.add_note(f"seed {SEED}, {crash} of {len(session.events)} events, in {left}")
            raise
        finally:
            listening.kill()
        shutil.rmtree(left)
        count += 1
    return count


def lose_database(listening: Listening, empty: Path) -> None:
    database = database_of(listening)
    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    shutil.copyfile(empty, database)


def some_crashes(session: Session, count: int) -> list[Crash]:
    """Return crashes at random moments."""
    rng = random.Random(SEED)
    return [
        Crash(rng.randrange(len(session.events) + 1), rng.choice(LUCKS), rng.random() < 0.5)
        for _ in range(count)
    ]


@pytest.mark.parametrize("database_lost", [False, True], ids=["database-as-left", "no-database"])
def test_every_instance_is_durable_when_it_is_answered_for(
    session: Session, nursery: Nursery, folder: Path, database_lost: bool
) -> None:
    crashes = [Crash(position, Luck.NONE, database_lost) for position in session.answers()]

    assert check_crashes(session, crashes, folder, recover_here, nursery) == INSTANCES


def test_a_crash_at_any_moment_keeps_what_was_answered_for_and_nothing_torn(
    session: Session, nursery: Nursery, folder: Path
) -> None:
    crashes = some_crashes(session, CRASHES)

    count = check_crashes(session, crashes, folder, recover_here, nursery)
    tell(f"{count} crashes of {len(session.events)} events, none loses or tears an instance")


def test_a_listener_started_after_a_crash_keeps_the_same_and_sweeps_the_rest(
    session: Session, nursery: Nursery, folder: Path
) -> None:
    last = max(session.answers())
    crashes = [*some_crashes(session, STARTS), Crash(last, Luck.NONE, True)]

    count = check_crashes(session, crashes, folder, recover_by_listener, nursery)
    tell(f"{count} starts of the listener, none loses, tears or leaves an instance")


@pytest.mark.accept
@pytest.mark.timeout(7200)
def test_a_crash_at_every_moment_keeps_what_was_answered_for_and_nothing_torn(
    session: Session, nursery: Nursery, folder: Path
) -> None:
    crashes = [
        Crash(position, luck, database_lost)
        for position in range(len(session.events) + 1)
        for luck in LUCKS
        for database_lost in (False, True)
    ]

    count = check_crashes(session, crashes, folder, recover_here, nursery)
    tell(f"{count} crashes of {len(session.events)} events, none loses or tears an instance")


def is_folder_sync(event: Event) -> bool:
    return event.kind is Kind.SYNCED and Path(event.path).suffix == ""


def is_file_sync(event: Event) -> bool:
    return event.kind is Kind.SYNCED and Path(event.path).suffix in {".obj", ".part", ".seg"}


@pytest.mark.parametrize("left_out", [is_file_sync, is_folder_sync])
def test_a_session_with_a_sync_left_out_is_seen_to_lose_instances(
    session: Session,
    nursery: Nursery,
    folder: Path,
    left_out: Callable[[Event], bool],
) -> None:
    events = [event for event in session.events if not left_out(event)]
    assert len(events) < len(session.events)
    faulty = replace(session, events=events)
    last = max(faulty.answers())

    with pytest.raises(Lost):
        check_crashes(faulty, [Crash(last, Luck.NONE, False)], folder, recover_here, nursery)


def test_an_answer_before_the_write_is_seen_to_lose_its_instance(
    session: Session, nursery: Nursery, folder: Path
) -> None:
    position, one = next(iter(session.answers().items()))
    written = next(
        number
        for number, event in enumerate(session.events)
        if event.kind is Kind.WRITTEN and one.uid.encode() in event.data
    )
    answer = session.events[position - 1]
    early = [*session.events[:written], answer, *session.events[written:]]
    del early[position]
    faulty = replace(session, events=early)

    with pytest.raises(Lost):
        check_crashes(faulty, [Crash(written + 1, Luck.ALL, False)], folder, recover_here, nursery)
