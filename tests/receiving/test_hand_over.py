"""One `limner listen` takes the port over from another, and nobody who calls notices."""

from __future__ import annotations

import contextlib
import itertools
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node.dicom.handover import NAME
from node.phantom.ports import free_port
from storage.associations import AssociationOutcome

from .calling import Caller, Turned
from .listening import Listener, Listening, is_alive, kill, made_listening

pytestmark = pytest.mark.flow


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    # A folder as deep as some hospitals have them: the address of a Unix socket has 107 characters.
    with made_listening(tmp_path / ("deep" * 20) / "node") as made:
        yield made


@dataclass
class Modality:
    """Opens an association, sends three images, releases, and begins again, until told to stop.

    Attributes:
        acknowledged: UIDs answered with 0000.
        troubles: Whatever else happened.
    """

    port: int
    name: str
    acknowledged: set[str] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Modality:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        numbers = itertools.count()
        while not self._stop.is_set():
            try:
                caller = Caller(self.port)
                for number in itertools.islice(numbers, 3):
                    uid = f"1.2.3.{self.name}.{number}"
                    status = caller.store(uid)
                    if status:
                        self.troubles.append(f"{uid} was answered {status:04X}")
                    else:
                        self.acknowledged.add(uid)
                caller.release()
            except (OSError, Turned) as trouble:
                self.troubles.append(repr(trouble))
                return


def test_no_connection_is_refused_while_the_port_is_handed_over(listening: Listening) -> None:
    predecessors = [listening.start()]
    with Modality(listening.port, "1") as one, Modality(listening.port, "2") as other:
        for _ in range(2):
            successor = listening.start()
            assert predecessors[-1].process.wait(20) == 0, listening.logs()
            predecessors.append(successor)
        # So that the last one is known to serve on its own.
        at_least = len(one.acknowledged) + 10
        listening.until(
            lambda: len(one.acknowledged) >= at_least or one.troubles, "the last one serves"
        )

    assert one.troubles == other.troubles == []
    acknowledged = one.acknowledged | other.acknowledged
    listening.until(lambda: len(listening.instances()) == len(acknowledged), "all are indexed")
    assert listening.sop_uids() == acknowledged
    assert listening.records() == len(acknowledged), "each one lies on disk once"
    outcomes = {row.outcome for row in listening.associations()}
    assert outcomes <= {AssociationOutcome.RELEASED, AssociationOutcome.OPEN}
    assert listening.refused() == []


def test_an_open_association_goes_on_to_its_end_with_the_predecessor(listening: Listening) -> None:
    first = listening.start()
    (old_wire,) = first.wires()
    open_one = Caller(listening.port)
    assert open_one.store("1.2.3.1") == 0
    half = open_one.message("1.2.3.2", size=100_000)
    open_one.socket.sendall(half[:50_000])

    second = listening.start()
    listening.until(lambda: "port-handed-over" in first.said(), "the port was handed over")
    with Caller(listening.port) as new:
        assert new.store("1.2.3.3") == 0
        new.release()
    assert not first.ended()
    assert is_alive(old_wire)
    listening.until(lambda: len(listening.instances()) == 2, "both sides index")

    open_one.socket.sendall(half[50_000:])
    assert open_one.answer() == 0
    assert open_one.store("1.2.3.4") == 0
    open_one.release()
    assert first.process.wait(20) == 0, first.said()
    assert not is_alive(old_wire)
    listening.until(lambda: len(listening.instances()) == 4, "all are indexed")
    listening.until(lambda: "predecessor-ended" in second.said(), "the successor knows it")
    assert {row.outcome for row in listening.associations()} == {AssociationOutcome.RELEASED}


def test_what_a_predecessor_leaves_when_it_is_killed_is_looked_up(listening: Listening) -> None:
    first = listening.start()
    open_one = Caller(listening.port)
    assert open_one.store("1.2.3.1") == 0
    listening.start()
    listening.until(lambda: "port-handed-over" in first.said(), "the port was handed over")
    half = open_one.message("1.2.3.2", size=100_000)
    open_one.socket.sendall(half[:50_000])
    time.sleep(0.1)

    kill(first.pid)
    first.process.wait()
    open_one.socket.sendall(half[50_000:])  # its wire answers what is under way before it ends
    assert open_one.answer() == 0

    listening.until(lambda: len(listening.instances()) == 2, "what nobody told is found")
    listening.until(
        lambda: {row.outcome for row in listening.associations()} == {AssociationOutcome.LOST},
        "its association is known to be lost",
    )
    open_one.close()
    with Caller(listening.port) as new:
        assert new.store("1.2.3.3") == 0


def test_an_association_that_a_killed_predecessor_served_is_known_to_be_lost(
    listening: Listening,
) -> None:
    first = listening.start()
    with Caller(listening.port):  # it has sent nothing, so no segment tells of it
        listening.until(lambda: len(listening.associations()) == 1, "it is known")
        listening.start()
        listening.until(lambda: "port-handed-over" in first.said(), "the port was handed over")
        time.sleep(1.5)  # the successor has looked at everything once
        kill(first.pid)
        first.process.wait()

        listening.until(
            lambda: listening.associations()[0].outcome is AssociationOutcome.LOST, "it is lost"
        )


def test_a_port_is_free_when_the_successor_has_ended_before_its_predecessor(
    listening: Listening,
) -> None:
    first = listening.start()
    open_one = Caller(listening.port)
    assert open_one.store("1.2.3.1") == 0
    second = listening.start()
    listening.until(lambda: "port-handed-over" in first.said(), "the port was handed over")
    listening.stop(second)

    with pytest.raises(ConnectionRefusedError):
        Caller(listening.port)
    assert open_one.store("1.2.3.2") == 0
    listening.start()
    with Caller(listening.port) as new:
        assert new.store("1.2.3.3") == 0
    assert open_one.store("1.2.3.4") == 0
    open_one.release()
    assert first.process.wait(20) == 0
    wanted = {f"1.2.3.{number}" for number in range(1, 5)}
    listening.until(lambda: listening.sop_uids() == wanted, "all are indexed")
    assert listening.records() == 4


def test_a_predecessor_that_finishes_still_ends_at_once_when_it_is_told_to(
    listening: Listening,
) -> None:
    first = listening.start()
    open_one = Caller(listening.port)
    assert open_one.store("1.2.3.1") == 0
    listening.start()
    listening.until(lambda: "port-handed-over" in first.said(), "the port was handed over")

    began_s = time.monotonic()
    assert listening.stop(first) == 0
    assert time.monotonic() - began_s < 8

    with pytest.raises(OSError, match=r"reset|closed|07"):
        open_one.store("1.2.3.2")
    open_one.close()
    with Caller(listening.port) as new:
        assert new.store("1.2.3.3") == 0


def test_several_successors_at_once_leave_exactly_one_listener(listening: Listening) -> None:
    listening.start()
    with Modality(listening.port, "1") as modality:
        for _ in range(3):
            listening.launch()

        def one_is_left() -> bool:
            living = [one for one in listening.started if not one.ended()]
            return len(living) == 1 and "listening" in living[0].said()

        listening.until(one_is_left, "one is left", within_s=60)

    assert modality.troubles == []
    codes = sorted(one.process.returncode for one in listening.started if one.ended())
    assert codes == [0, 0, 0], listening.logs()


def test_who_connects_and_goes_away_takes_nothing(listening: Listening) -> None:
    first = listening.start()
    path = listening.settings.node.data / NAME

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for said in (b"", b"taken", b"nonsense\n"):
        with connected(path) as link:
            link.sendall(said)
            link.shutdown(socket.SHUT_WR)
            socket.recv_fds(link, 1000, 4)
            assert link.recv(1000) == b""
    with Caller(listening.port) as caller:
        assert caller.store("1.2.3.1") == 0
    assert not first.ended()

    listening.start()
    assert first.process.wait(20) == 0


def test_a_successor_that_cannot_serve_changes_nothing(listening: Listening) -> None:
    first = listening.start()
    blocked = socket.create_server(("127.0.0.1", 0))
    text = listening.config.read_text()
    taken = blocked.getsockname()[1]
    listening.edit(f"port = {listening.port}", f"port = {taken}")

    second = listening.launch()
    assert second.process.wait(30) != 0
    assert "listener-address" in second.said()
    with Caller(listening.port) as caller:
        assert caller.store("1.2.3.1") == 0

    blocked.close()
    listening.config.write_text(text)
    listening.start()
    assert first.process.wait(20) == 0


def test_a_listener_with_another_port_replaces_the_first_one(listening: Listening) -> None:
    first = listening.start()
    other = free_port()
    listening.edit(f"port = {listening.port}", f"port = {other}")

    listening.start()

    assert first.process.wait(20) == 0
    with Caller(other) as caller:
        assert caller.store("1.2.3.1") == 0
    with pytest.raises(ConnectionRefusedError):
        Caller(listening.port)


def test_a_file_that_a_killed_listener_left_is_replaced(listening: Listening) -> None:
    first = listening.start()
    wires = first.wires()
    kill(first.pid)
    first.process.wait()
    assert (listening.settings.node.data / NAME).exists()

    second = listening.start()

    with Caller(listening.port) as caller:
        assert caller.store("1.2.3.1") == 0
    listening.until(lambda: not any(map(is_alive, wires)), "the old wires have ended")
    assert listening.stop(second) == 0
    assert not (listening.settings.node.data / NAME).exists()
    assert listening.stop(listening.start()) == 0


def connected(path: Path) -> socket.socket:
    """Connect to a Unix socket whose path is too long for an address."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(20)
    with contextlib.chdir(path.parent):
        link.connect(path.name)
    return link


def test_under_limner_run_a_listener_by_hand_renews_the_one_of_the_run(
    listening: Listening,
) -> None:
    with supervised(listening) as run, Modality(listening.port, "1") as modality:
        (old,) = run.wires()  # of a supervisor these are the processes that it keeps
        by_hand = listening.start()
        assert by_hand.process.wait(30) == 0, listening.logs()
        (new,) = listening.until(
            lambda: found if (found := run.wires()) not in ([], [old]) else None,
            "the run has a listener again",
        )
        assert is_alive(new)
        assert not is_alive(old)
        at_least = len(modality.acknowledged) + 10
        listening.until(
            lambda: len(modality.acknowledged) >= at_least or modality.troubles, "it serves"
        )

    assert modality.troubles == []


@contextlib.contextmanager
def supervised(listening: Listening) -> Iterator[Listener]:
    """Run what `limner run` runs, with the listener alone."""
    code = (
        "import sys; from pathlib import Path; from node.settings import load_settings;"
        "from node.supervise import Supervisor;"
        "Supervisor(load_settings(Path(sys.argv[1])), ['listen'], lambda *_: None).run()"
    )
    log = listening.folder / "run.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(listening.config)], stdout=out, stderr=out
        )
    run = Listener(process, log)
    try:
        listening.until(lambda: "event='listening'" in run.said(), "the run's listener listens")
        yield run
    finally:
        process.terminate()
        process.wait(30)
