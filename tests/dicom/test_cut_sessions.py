"""A session that is cut anywhere leaves what was whole, nothing of the rest, and no trace."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from attacked_node import Attacked
from raw_peer import (
    P_DATA,
    RELEASE_RQ,
    Peer,
    dataset,
    echo_message,
    fresh_uid,
    honest,
    pdu,
    request,
    store_message,
)
from receiving_node import until

from node.dicom.values import SOP_UID, unpack

pytestmark = pytest.mark.flow

STEP = 13
LARGE = 1_300_000
"""Bytes of pixels that do not fit the receive buffer, so that a file of its own is begun."""


def session(first: str, second: str, pixels: int) -> tuple[bytes, int, int]:
    """Return a session that stores two instances, and where the message of each ends."""
    begun = request() + echo_message() + store_message(first, message_id=2)
    both = begun + store_message(second, dataset(second, pixels=pixels), message_id=3)
    return both + pdu(RELEASE_RQ), len(begun), len(both)


def closed(peer: Peer) -> list[int] | None:
    """Send no more, as a peer that gives up does; return the statuses that were answered."""
    peer.socket.shutdown(socket.SHUT_WR)
    return [said.status for said in peer.hear_all() if said.kind == P_DATA]


def reset(peer: Peer) -> list[int] | None:
    """End as a process that dies does: what is on its way is lost."""
    peer.reset()
    return None


Ended = Callable[[Peer], "list[int] | None"]


def cut(attacked: Attacked, at: int, pixels: int, ended: Ended) -> None:
    """Send a session up to one of its bytes, and check what it left."""
    first, second = fresh_uid(), fresh_uid()
    whole, first_end, second_end = session(first, second, pixels)
    with Peer(attacked.port) as peer:
        peer.send(whole[:at])
        statuses = ended(peer)
    wanted = {uid for uid, end in ((first, first_end), (second, second_end)) if end <= at}
    if statuses is not None:  # everything that was sent has arrived
        echoed = at >= len(request() + echo_message())
        assert statuses == [0] * (echoed + len(wanted)), f"cut at byte {at}"
        assert wanted <= recorded(attacked)
    assert recorded(attacked) & {first, second} <= wanted, f"cut at byte {at}"


def recorded(attacked: Attacked) -> set[str]:
    """Return what the journal has durably."""
    return {unpack(record.values).uid(SOP_UID) for record in attacked.records()}


@pytest.mark.parametrize("ended", [closed, reset])
def test_a_session_cut_at_any_byte_keeps_whole_instances_alone(
    attacked: Attacked, ended: Ended
) -> None:
    length = len(session("1.2.3.4.1.99999", "1.2.3.4.1.99999", 512)[0])
    with attacked.unharmed():
        for at in range(1, length, STEP):
            cut(attacked, at, 512, ended)
        honest(attacked.port)
    until(lambda: recorded(attacked) == set(attacked.instances()))


@pytest.mark.parametrize("ended", [closed, reset])
def test_a_large_instance_cut_at_any_byte_leaves_no_part_of_a_file(
    attacked: Attacked, ended: Ended
) -> None:
    whole, first_end, _ = session("1.2.3.4.1.99999", "1.2.3.4.1.99999", LARGE)
    with attacked.unharmed(growth_mb=6):
        before = set(attacked.files())
        for at in range(first_end + 100, len(whole) - 12, 97_001):
            cut(attacked, at, LARGE, ended)
        honest(attacked.port)
        until(lambda: set(attacked.files()) == before)


def test_an_answer_is_never_given_to_an_instance_that_did_not_come_whole(
    attacked: Attacked,
) -> None:
    first, second = fresh_uid(), fresh_uid()
    whole, first_end, second_end = session(first, second, 512)
    for at in (first_end, second_end - 1):
        with Peer(attacked.port) as peer:
            peer.send(whole[:at])
            heard = [peer.hear() for _ in range(3)]  # the acceptance, the echo, the first instance
            assert [one is not None and one.kind for one in heard] == [2, P_DATA, P_DATA]
            assert peer.is_attached()  # and nothing else
    assert second not in attacked.instances()
