"""Peers that connect and wait, or speak a byte now and then: they hold nothing for long.

Each attack runs against `limner listen` with more attackers than it takes associations. While they
are attached an honest peer is served; when their deadline has passed they are gone, and threads,
descriptors and memory of the processes are what they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from attacked_node import DEADLINE_S, Attacked
from raw_peer import (
    ABORT,
    COMMAND,
    CT_CONTEXT,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    Peer,
    associated,
    dataset,
    echo_message,
    fresh_uid,
    honest,
    pdu,
    pdv,
    request,
    store_command,
    store_message,
)
from receiving_node import until

from node.dicom.callbacks import Callbacks
from node.dicom.scp import start_scp
from node.dicom.wire.admission import ECHO, STORE, Admission
from node.dicom.wire.connection import Limits

pytestmark = pytest.mark.flow

MANY = 60
"""More than the 50 associations of an untouched configuration."""

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(100)


@contextmanager
def attached(make: Callable[[], Peer], count: int) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(make()) for _ in range(count)]


def trickled(peers: list[Peer], data: bytes, *, each: int = 1) -> None:
    """Send a byte of `data` from each peer, again and again, until the node has enough of all."""
    until_s = time.monotonic() + 10 * DEADLINE_S
    for at in range(0, len(data), each):
        left = [peer for peer in peers if peer.is_attached()]
        if not left:
            return
        assert time.monotonic() < until_s, f"{len(left)} are still attached"
        for peer in left:
            peer.send(data[at : at + each])
        time.sleep(0.2)
    raise AssertionError("the node took all of it")


def test_silent_connections_hold_back_nobody_and_are_closed(attacked: Attacked) -> None:
    with attacked.unharmed(), attached(lambda: Peer(attacked.port), MANY) as silent:
        honest(attacked.port)
        assert all(peer.is_attached() for peer in silent)

        for peer in silent:
            (abort,) = peer.hear_all()
            assert (abort.kind, abort.body) == (ABORT, b"\0\0\0\0")


def test_a_tls_client_on_the_plain_port_is_told_apart_and_closed_at_once(
    attacked: Attacked,
) -> None:
    with attacked.unharmed(), Peer(attacked.port) as silent, Peer(attacked.port) as peer:
        peer.send(TLS_HELLO)

        assert peer.hear_all() == []
        assert silent.is_attached()
    until(lambda: "without TLS" in attacked.log.read_text())


@pytest.mark.parametrize(
    "said", [b"", TLS_HELLO, b"\x16\x03\x01", request()], ids=["silent", "hello", "part", "plain"]
)
def test_clients_that_make_no_handshake_hold_back_no_other_tls_client(
    attacked: Attacked, said: bytes
) -> None:
    tls = attacked.tls()
    with attacked.unharmed(), attached(lambda: Peer(attacked.tls_port), MANY) as stuck:
        for peer in stuck:
            peer.send(said)
        honest(attacked.tls_port, tls=tls)
        if said not in (TLS_HELLO, request()):  # those are refused at once
            assert all(peer.is_attached() for peer in stuck)

        for peer in stuck:
            peer.hear_to_the_end()


def test_a_request_that_comes_a_byte_at_a_time_is_cut_at_its_deadline(attacked: Attacked) -> None:
    with attacked.unharmed(), attached(lambda: Peer(attacked.port), MANY) as slow:
        for peer in slow:
            peer.send(request()[:3])
        honest(attacked.port)
        assert all(peer.is_attached() for peer in slow)

        trickled(slow, request()[3:])


P_DATA_HEADER = pdu(P_DATA, b"", claims=16_000)
MESSAGE = store_message("1.2.3.4.9", dataset("1.2.3.4.9", pixels=14_000))


@pytest.mark.parametrize(
    ("before", "slowly"),
    [
        pytest.param(b"", P_DATA_HEADER + bytes(16_000), id="a header"),
        pytest.param(P_DATA_HEADER, bytes(16_000), id="a body"),
        pytest.param(MESSAGE[:200], MESSAGE[200:], id="a data set"),
        pytest.param(pdu(ABORT, b"", claims=4), bytes(4), id="an abort"),
    ],
)
def test_a_pdu_that_comes_a_byte_at_a_time_is_cut_at_its_deadline(
    attacked: Attacked, before: bytes, slowly: bytes
) -> None:
    with (
        attacked.unharmed(growth_mb=12, associations=20),
        attached(lambda: associated(attacked.port), 20) as slow,
    ):
        for peer in slow:
            peer.send(before + slowly[:1])
        honest(attacked.port)

        trickled(slow, slowly[1:] + bytes(1000))
    assert "1.2.3.4.9" not in attacked.instances()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(P_DATA_HEADER[:3], id="half a header"),
        pytest.param(MESSAGE[:100], id="half a command"),
        pytest.param(MESSAGE[: len(MESSAGE) // 2], id="half a data set"),
        pytest.param(MESSAGE[:-1], id="all but a byte"),
    ],
)
def test_associations_that_fall_silent_hold_back_nobody_and_are_aborted(
    attacked: Attacked, said: bytes
) -> None:
    with (
        attacked.unharmed(growth_mb=12, associations=40),
        attached(lambda: associated(attacked.port), 40) as silent,
    ):
        for peer in silent:
            peer.send(said)
        honest(attacked.port)
        assert all(peer.is_attached() for peer in silent)

        for peer in silent:
            (abort,) = peer.hear_all()
            assert (abort.kind, abort.body) == (ABORT, b"\0\0\0\0")
    assert "1.2.3.4.9" not in attacked.instances()


def test_a_peer_that_never_reads_our_answers_is_cut(attacked: Attacked) -> None:
    def deaf() -> Peer:
        return associated(attacked.port, receive_bytes=1024)

    with attacked.unharmed(growth_mb=12), attached(deaf, 5) as peers:
        for peer in peers:
            peer.socket.settimeout(0.2)
            with suppress(TimeoutError):  # once the node waits for us to read
                while True:
                    peer.socket.sendall(echo_message() * 100)
        honest(attacked.port)

        for peer in peers:
            until(lambda: is_cut(peer))  # noqa: B023  used at once


def is_cut(peer: Peer) -> bool:
    """Return whether the node takes nothing any more; nothing is read to find out."""
    try:
        peer.socket.sendall(b"x")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(request(calling=b"STRANGER"), RJ, id="rejected"),
        pytest.param(request() + pdu(RELEASE_RQ), RELEASE_RP, id="released"),
        pytest.param(request() + pdu(9), ABORT, id="aborted"),
    ],
)
def test_a_peer_that_never_closes_is_closed_soon_after_our_last_word(
    attacked: Attacked, said: bytes, answer: int
) -> None:
    with (
        attacked.unharmed(growth_mb=12, associations=40),
        attached(lambda: Peer(attacked.port), 40) as peers,
    ):
        for peer in peers:
            peer.send(said)
        honest(attacked.port)
        for peer in peers:
            assert peer.hear_all()[-1].kind == answer


def test_a_peer_that_sends_on_for_ever_after_our_last_word_is_closed_too(
    attacked: Attacked,
) -> None:
    with attacked.unharmed(growth_mb=12), attached(lambda: Peer(attacked.port), 3) as peers:
        for peer in peers:
            peer.send(pdu(P_DATA, bytes(100)))  # where a request belongs
        until_s = time.monotonic() + 20
        noise = bytes(60_000)
        for peer in peers:
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                while time.monotonic() < until_s:
                    peer.socket.sendall(noise)
        honest(attacked.port)


def test_whole_instances_count_however_slowly_they_come(attacked: Attacked) -> None:
    uid = fresh_uid()
    data = dataset(uid, pixels=4_000)
    command = pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command(uid)))
    parts = [
        pdu(P_DATA, pdv(CT_CONTEXT, 0, data[at : at + 1_000])) for at in range(0, 4_000, 1_000)
    ]
    last = pdu(P_DATA, pdv(CT_CONTEXT, LAST, data[4_000:]))
    with associated(attacked.port) as peer:
        for part in (command, *parts, last):  # a slow line is no attack
            peer.send(part)
            time.sleep(DEADLINE_S / 4)
        answer = peer.hear()
        assert answer is not None
        assert answer.status == 0
        peer.send(pdu(RELEASE_RQ))
        peer.hear()


@contextmanager
def acceptor_with(limits: Limits) -> Iterator[int]:
    """Run the same acceptor within this process, for a limit that is no setting."""
    everything = frozenset({ECHO, STORE})
    running = start_scp(
        host="127.0.0.1",
        port=0,
        callbacks=Callbacks(
            admit=lambda _: Admission("anybody", everything), on_store=lambda _: (0, "")
        ),
        limits=limits,
    )
    try:
        yield running.port
    finally:
        running.stop()


@pytest.mark.parametrize("control", [COMMAND, 0], ids=["a command", "a data set"])
def test_a_message_in_whole_pdus_that_never_ends_is_cut_at_its_own_deadline(control: int) -> None:
    with acceptor_with(Limits(object_s=1.0)) as port, associated(port) as peer:
        if control != COMMAND:
            peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command("1.2.3"))))
        trickled([peer], pdu(P_DATA, pdv(CT_CONTEXT, control, bytes(2))) * 1_000, each=14)
        heard = peer.hear()

        assert heard is not None
        assert (heard.kind, heard.body) == (ABORT, b"\0\0\0\0")
