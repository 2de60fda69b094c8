"""Several wires on one port, and what is left when one of them, or their keeper, is killed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from storage.associations import AssociationOutcome

from .calling import Caller, Turned
from .listening import Listening, is_alive, kill, made_listening

pytestmark = pytest.mark.flow


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    with made_listening(tmp_path / "node", listener="processes = 2") as made:
        yield made


@dataclass
class Stubborn:
    """A modality that sends one image after another, each until it is answered with 0000."""

    port: int
    name: str
    acknowledged: list[str] = field(default_factory=list)
    breaks: int = 0
    refused: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Stubborn:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        caller: Caller | None = None
        for number in itertools.count():
            uid = f"1.2.3.{self.name}.{number}"
            while uid not in self.acknowledged[-1:]:
                if self._stop.is_set():
                    if caller is not None:
                        caller.close()
                    return
                try:
                    caller = caller or Caller(self.port)
                    status = caller.store(uid)
                    if status == 0:
                        self.acknowledged.append(uid)
                    else:
                        self.refused.append(f"{uid}: {status:04X}")
                except (OSError, Turned) as trouble:
                    self.breaks += 1
                    if isinstance(trouble, ConnectionRefusedError | Turned):
                        self.refused.append(repr(trouble))
                    if caller is not None:
                        caller.close()
                    caller = None


def test_both_wires_accept_on_one_port_and_have_a_segment_each(listening: Listening) -> None:
    keeper = listening.start()
    wires = keeper.wires()
    assert len(wires) == 2
    callers: list[Caller] = []

    def both_serve() -> bool:
        callers.append(Caller(listening.port))
        return all(served(pid, listening.port) for pid in wires)

    listening.until(both_serve, "both have accepted")
    for number, caller in enumerate(callers):
        assert caller.store(f"1.2.3.{number}") == 0
        caller.release()

    listening.until(lambda: len(listening.instances()) == len(callers), "all are indexed")
    assert len({row.object_name for row in listening.instances()}) == len(listening.segments()) == 2


def test_a_wire_that_is_killed_under_load_takes_nothing_with_it(listening: Listening) -> None:
    keeper = listening.start()
    with (
        Stubborn(listening.port, "1") as one,
        Stubborn(listening.port, "2") as two,
        Stubborn(listening.port, "3") as three,
    ):
        senders = (one, two, three)
        for _ in range(4):
            goal = [len(sender.acknowledged) + 15 for sender in senders]
            listening.until(
                lambda goal=goal: all(  # type: ignore[misc]
                    len(sender.acknowledged) >= least
                    for sender, least in zip(senders, goal, strict=True)
                ),
                "all senders go on",
            )
            wires = listening.until(
                lambda: found if len(found := keeper.wires()) == 2 else None, "two wires run"
            )
            kill(wires[0])

    assert [sender.refused for sender in senders] == [[], [], []]
    assert sum(sender.breaks for sender in senders) > 0, (
        "no sender was connected to what was killed"
    )
    acknowledged = {uid for sender in senders for uid in sender.acknowledged}
    listening.until(lambda: acknowledged <= listening.sop_uids(), "all are indexed")
    rows = listening.instances()
    assert len(rows) == len({row.sop_uid for row in rows})
    # At the most the one that each sender could not wait for.
    assert len(listening.sop_uids() - acknowledged) <= len(senders)
    assert keeper.said().count("wire-died") == 4
    listening.until(
        lambda: all(row.outcome is not AssociationOutcome.OPEN for row in listening.associations()),
        "no association is open in the rows",
    )


def test_wires_whose_keeper_is_killed_answer_what_is_under_way_and_end(
    listening: Listening,
) -> None:
    keeper = listening.start()
    wires = keeper.wires()
    callers = [Caller(listening.port) for _ in range(4)]
    halves = [caller.message(f"1.2.3.{n}", size=60_000) for n, caller in enumerate(callers)]
    for caller, half in zip(callers, halves, strict=True):
        caller.socket.sendall(half[:30_000])
    idle = Caller(listening.port)
    listening.until(lambda: len(listening.associations()) == 5, "all are being received")

    kill(keeper.pid)
    keeper.process.wait()
    time.sleep(0.2)
    for caller, half in zip(callers, halves, strict=True):
        caller.socket.sendall(half[30_000:])
    assert [caller.answer() for caller in callers] == [0, 0, 0, 0]

    listening.until(lambda: not any(map(is_alive, wires)), "the wires have ended", within_s=15)
    for caller in (*callers, idle):
        caller.close()
    assert listening.instances() == []  # nobody was there to write rows

    listening.start()
    listening.until(lambda: len(listening.instances()) == 4, "all are indexed at the next start")
    assert {row.outcome for row in listening.associations()} == {AssociationOutcome.LOST}


def test_what_an_old_wire_still_answers_is_indexed_by_the_listener_that_runs(
    tmp_path: Path,
) -> None:
    with made_listening(tmp_path / "node") as listening:
        first = listening.start()
        (old_wire,) = first.wires()
        late = Caller(listening.port)
        assert late.store("1.2.3.1") == 0
        listening.until(lambda: len(listening.instances()) == 1, "the segment is known")
        half = late.message("1.2.3.2", size=60_000)
        late.socket.sendall(half[:30_000])
        kill(first.pid)
        first.process.wait()
        second = listening.launch()
        # The old wire gives its peer 5 s; in most runs the next listener has begun by then.
        began_s = time.monotonic()
        while "event='listening'" not in second.said() and time.monotonic() - began_s < 4:
            time.sleep(0.02)
        late.socket.sendall(half[30_000:])
        assert late.answer() == 0
        late.close()
        listening.until(lambda: not is_alive(old_wire), "the old wire has ended")
        listening.until(lambda: "event='listening'" in second.said(), "the next one listens")

        with Caller(listening.port) as caller:
            assert caller.store("1.2.3.3") == 0

        wanted = {"1.2.3.1", "1.2.3.2", "1.2.3.3"}
        listening.until(lambda: listening.sop_uids() == wanted, "all three are indexed")
        assert listening.records() == 3, "none was written over another"


def test_segments_that_nobody_goes_on_with_give_their_space_back(tmp_path: Path) -> None:
    with made_listening(tmp_path / "node") as listening:
        keeper = listening.start()
        for number in range(3):
            with Caller(listening.port) as caller:
                assert caller.store(f"1.2.3.{number}") == 0
            (wire,) = keeper.wires()
            kill(wire)
            listening.until(
                lambda wire=wire: keeper.wires() not in ([], [wire]),  # type: ignore[misc]
                "it was started again",
            )
        listening.until(lambda: len(listening.instances()) == 3, "all are indexed")

        def used_mib() -> float:
            root = listening.settings.storage.objects
            return sum((root / name).stat().st_blocks for name in listening.segments()) / 2048

        assert len(listening.segments()) == 3
        listening.until(lambda: used_mib() < 1, "what is left takes little space")
        assert listening.records() == 3


def served(pid: int, port: int) -> bool:
    """Return whether a process has accepted a connection on a port."""
    return any(
        one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process(pid).net_connections("tcp")
    )
