"""Floods: more connections than there are places, descriptors or threads. Others are still served.

127.0.0.2 stands for the honest neighbour of an attacker at 127.0.0.1: Linux answers on the whole
loopback network.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from attacked_node import Attacked, attacked_node
from raw_peer import (
    ABORT,
    AC,
    RELEASE_RQ,
    RJ,
    Peer,
    Said,
    associated,
    echo_message,
    honest,
    pdu,
    request,
)
from receiving_node import until

from node.dicom.wire.acceptor import MOST_WAITING
from node.phantom.ports import free_port

pytestmark = pytest.mark.flow

NEIGHBOUR = "127.0.0.2"
TOO_MANY = b"\0\2\3\2"


def asked(port: int, *, source: str = "127.0.0.1") -> tuple[Peer, Said | None]:
    """Return a peer that asked for an association, and what it was answered."""
    peer = Peer(port, source=source)
    peer.send(request())
    return peer, peer.hear()


@contextmanager
def held(peers: list[Peer]) -> Iterator[None]:
    with ExitStack() as stack:
        for peer in peers:
            stack.enter_context(peer)
        yield


def test_of_five_hundred_silent_connections_a_bounded_crowd_is_kept_and_a_neighbour_is_served(
    attacked: Attacked,
) -> None:
    with attacked.unharmed(growth_mb=6) as before:
        flood = [Peer(attacked.port) for _ in range(500)]
        with held(flood):
            for _ in range(3):
                honest(attacked.port, source=NEIGHBOUR)
            honest(attacked.port)  # from the attacker's own address too
            now = attacked.wire_footprint()
            assert now.threads <= before.threads + MOST_WAITING + 10
            assert now.descriptors <= before.descriptors + MOST_WAITING + 10

            newest = flood[-MOST_WAITING // 2 :]
            assert all(peer.is_attached() for peer in newest)


def test_a_neighbour_that_is_slow_to_ask_is_not_crowded_out_by_a_flood(attacked: Attacked) -> None:
    with attacked.unharmed(growth_mb=6), Peer(attacked.port, source=NEIGHBOUR) as slow:
        flood = [Peer(attacked.port) for _ in range(3 * MOST_WAITING)]
        with held(flood):
            until(lambda: not flood[MOST_WAITING].is_attached())  # so many were crowded out
            slow.send(request())
            answer = slow.hear()

            assert answer is not None
            assert answer.kind == AC
            slow.send(pdu(RELEASE_RQ))
            slow.hear()


def test_strangers_who_ask_again_and_again_hold_no_place(attacked: Attacked) -> None:
    stranger = request(calling=b"STRANGER")
    with attacked.unharmed(growth_mb=6):
        flood = [Peer(attacked.port) for _ in range(200)]
        with held(flood):
            for peer in flood:
                peer.send(stranger)  # and then does not close, though it was rejected
            honest(attacked.port, source=NEIGHBOUR)
            honest(attacked.port)


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A node that gives each address three of its five places."""
    with attacked_node(
        tmp_path_factory.mktemp("shared-out"),
        free_port(),
        listener="max_associations = 5\nmax_per_address = 3",
        warm=5,
    ) as running:
        yield running


def test_no_address_takes_more_places_than_its_share(shared_out: Attacked) -> None:
    with shared_out.unharmed(growth_mb=6):
        mine = [associated(shared_out.port) for _ in range(3)]
        with held(mine):
            refused = [asked(shared_out.port) for _ in range(20)]
            with held([peer for peer, _ in refused]):
                for _, answer in refused:
                    assert answer is not None
                    assert (answer.kind, answer.body) == (RJ, TOO_MANY)
                honest(shared_out.port, source=NEIGHBOUR)
            for peer in mine:  # those that have a place keep it
                peer.send(echo_message())
                answer = peer.hear()
                assert answer is not None
                assert answer.status == 0


def test_all_addresses_together_take_no_more_places_than_there_are(shared_out: Attacked) -> None:
    with shared_out.unharmed(growth_mb=6):
        taken = [
            associated(shared_out.port, source=f"127.0.0.{number}") for number in range(11, 16)
        ]
        with held(taken):
            peer, answer = asked(shared_out.port, source=NEIGHBOUR)
            with peer:
                assert answer is not None
                assert (answer.kind, answer.body) == (RJ, TOO_MANY)
            taken[0].send(pdu(RELEASE_RQ))
            taken[0].hear_to_the_end()
            until(lambda: _accepted(shared_out.port, NEIGHBOUR))


def _accepted(port: int, source: str) -> bool:
    peer, answer = asked(port, source=source)
    with peer:
        peer.send(pdu(RELEASE_RQ))
        return answer is not None and answer.kind == AC


def test_thousands_of_probes_leave_nothing_behind(attacked: Attacked) -> None:
    with attacked.unharmed(growth_mb=2):
        for number in range(5_000):
            probe = Peer(attacked.port)
            if number % 2:
                probe.reset()
            else:
                probe.socket.close()
            if number % 1_000 == 0:
                honest(attacked.port)


def test_thousands_of_requests_and_releases_leave_nothing_behind(attacked: Attacked) -> None:
    with attacked.unharmed(growth_mb=2):
        for _ in range(500):
            with associated(attacked.port) as peer:
                peer.send(pdu(RELEASE_RQ))
                peer.hear()


@contextmanager
def limited(process: psutil.Process, limit: int, value: int) -> Iterator[None]:
    """Lower a resource limit of a process that runs."""
    before = resource.prlimit(process.pid, limit)
    resource.prlimit(process.pid, limit, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, limit, before)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Attacked]:
    """A node that was never in need before: what is imported at first use is not there yet."""
    with attacked_node(tmp_path / "fresh", free_port(), warm=5) as running:
        yield running


def test_when_descriptors_run_out_silent_connections_make_room(fresh: Attacked) -> None:
    wire = fresh.wire()
    with (
        fresh.unharmed(growth_mb=6),
        limited(wire, resource.RLIMIT_NOFILE, wire.num_fds() + 20),
    ):
        flood = [Peer(fresh.port) for _ in range(60)]
        with held(flood):
            honest(fresh.port, source=NEIGHBOUR)
    until(lambda: "no descriptor" in fresh.log.read_text())


def test_when_no_thread_can_be_started_connections_are_closed_and_nothing_dies(
    attacked: Attacked,
) -> None:
    wire = attacked.wire()
    with attacked.unharmed(growth_mb=6):
        with limited(wire, resource.RLIMIT_AS, wire.memory_info().vms + (1 << 20)):
            flood = [Peer(attacked.port) for _ in range(30)]
            with held(flood):
                until(lambda: "connection not served" in attacked.log.read_text())
                assert any(peer.hear_to_the_end() == b"" for peer in flood[-3:])
        honest(attacked.port, source=NEIGHBOUR)


def test_a_wrong_word_from_each_of_many_ends_only_its_own_connection(attacked: Attacked) -> None:
    with attacked.unharmed(growth_mb=6), associated(attacked.port, source=NEIGHBOUR) as good:
        flood = [Peer(attacked.port) for _ in range(100)]
        with held(flood):
            for peer in flood:
                peer.send(b"\xff" * 100)
            for peer in flood:
                said = peer.hear()
                assert said is not None
                assert said.kind == ABORT
        good.send(echo_message())
        answer = good.hear()

        assert answer is not None
        assert answer.status == 0
