"""Every PDU in every state that an acceptor can be seen in gets what the table of states says.

The table is `node/dicom/wire/states.py`, which `test_states` compares with the Standard's; here a
peer sends each PDU to `limner listen` in each state and sees the action from outside.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from attacked_node import Attacked
from raw_peer import (
    ABORT,
    AC,
    COMMAND,
    CT_CONTEXT,
    ECHO_CONTEXT,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    Peer,
    Said,
    associated,
    dataset,
    echo_command,
    echo_message,
    honest,
    pdu,
    pdv,
    request,
    store_command,
)

from node.dicom.wire.states import TABLE, Action, State, event_of_pdu

pytestmark = pytest.mark.flow

PDUS = {
    RQ: request(),
    AC: pdu(AC, request()[6:]),
    RJ: pdu(RJ, b"\0\1\1\1"),
    P_DATA: echo_message(),
    RELEASE_RQ: pdu(RELEASE_RQ),
    RELEASE_RP: pdu(RELEASE_RP),
    ABORT: pdu(ABORT, bytes(4)),
    0x00: pdu(0x00),
    0x08: pdu(0x08),
    0xFF: pdu(0xFF, bytes(500)),
}

BY_USER = (ABORT, b"\0\0\0\0")
UNEXPECTED = (ABORT, b"\0\0\2\2")
UNKNOWN = (ABORT, b"\0\0\2\1")


def established(port: int) -> Peer:
    return associated(port)


def in_a_message(port: int) -> Peer:
    peer = associated(port)
    peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command("1.2.3.4.6"))))
    peer.send(pdu(P_DATA, pdv(CT_CONTEXT, 0, dataset("1.2.3.4.6"))))
    return peer


def released(port: int) -> Peer:
    peer = associated(port)
    peer.send(pdu(RELEASE_RQ))
    heard = peer.hear()
    assert heard is not None
    assert heard.kind == RELEASE_RP
    return peer


def rejected(port: int) -> Peer:
    peer = Peer(port)
    peer.send(request(calling=b"STRANGER"))
    heard = peer.hear()
    assert heard is not None
    assert heard.kind == RJ
    return peer


def aborted(port: int) -> Peer:
    peer = Peer(port)
    peer.send(echo_message())
    heard = peer.hear()
    assert heard is not None
    assert (heard.kind, heard.body) == BY_USER
    return peer


def heard_after(peer: Peer, said: bytes) -> list[tuple[int, bytes]]:
    """Say something and no more; return what the node says until it closes the connection."""
    peer.send(said)
    peer.socket.shutdown(socket.SHUT_WR)
    return [(one.kind, one.body) for one in peer.hear_all()]


def action_for(kind: int, state: State) -> Action:
    return TABLE[event_of_pdu(kind), state].action


@pytest.mark.parametrize("kind", PDUS)
def test_before_a_request(attacked: Attacked, kind: int) -> None:
    wanted = {Action.AA1: [BY_USER], Action.AA2: []}
    action = action_for(kind, State.STA2)
    with attacked.unharmed(), Peer(attacked.port) as peer:
        heard = heard_after(peer, PDUS[kind])

    if action is Action.AE6:
        assert [kind for kind, _ in heard] == [AC]
    else:
        assert heard == wanted[action]


@pytest.mark.parametrize("kind", PDUS)
def test_in_an_association(attacked: Attacked, kind: int) -> None:
    action = action_for(kind, State.STA6)
    with attacked.unharmed(), established(attacked.port) as peer:
        heard = heard_after(peer, PDUS[kind])

    if action is Action.DT2:
        ((answered, body),) = heard
        assert (answered, Said(answered, body).status) == (P_DATA, 0)
    else:
        wanted = {
            Action.AR2: [(RELEASE_RP, bytes(4))],
            Action.AA3: [],
            Action.AA8: [UNEXPECTED if 1 <= kind <= 7 else UNKNOWN],
        }
        assert heard == wanted[action]


@pytest.mark.parametrize("kind", PDUS)
def test_within_a_message(attacked: Attacked, kind: int) -> None:
    action = action_for(kind, State.STA6)
    with attacked.unharmed(), in_a_message(attacked.port) as peer:
        heard = heard_after(peer, PDUS[kind])

    wanted = {
        Action.DT2: [UNEXPECTED],  # handed over, and the message does not go on like this
        Action.AR2: [BY_USER],  # the local user does not agree to it (Evt15, AA-1)
        Action.AA3: [],
        Action.AA8: [UNEXPECTED if 1 <= kind <= 7 else UNKNOWN],
    }
    assert heard == wanted[action]
    assert "1.2.3.4.6" not in attacked.instances()
    assert attacked.files() == []


@pytest.mark.parametrize("kind", PDUS)
@pytest.mark.parametrize("state", [released, rejected])
def test_after_our_last_word(attacked: Attacked, state: Callable[[int], Peer], kind: int) -> None:
    action = action_for(kind, State.STA13)
    with attacked.unharmed(), state(attacked.port) as peer:
        heard = heard_after(peer, PDUS[kind])

    wanted = {Action.AA6: [], Action.AA7: [UNEXPECTED], Action.AA2: []}
    assert heard == wanted[action]


@pytest.mark.parametrize("kind", PDUS)
def test_after_our_abort_nothing_is_said(attacked: Attacked, kind: int) -> None:
    """What follows an abort may be the rest of a PDU: it cannot be told apart, and is dropped."""
    with attacked.unharmed(), aborted(attacked.port) as peer:
        assert heard_after(peer, PDUS[kind]) == []


def test_a_pdu_that_is_left_aside_does_not_end_the_connection(attacked: Attacked) -> None:
    with attacked.unharmed(), released(attacked.port) as peer:
        for kind in (P_DATA, RELEASE_RQ, AC, RJ):
            peer.send(PDUS[kind])
        assert heard_after(peer, PDUS[RQ]) == [UNEXPECTED]
    honest(attacked.port)


@pytest.mark.parametrize(
    "body", [pytest.param(b"", id="empty"), pytest.param(b"\0\0\2", id="short"),
             pytest.param(bytes(900), id="long")]
)  # fmt: skip
def test_an_abort_is_an_abort_however_it_is_written(attacked: Attacked, body: bytes) -> None:
    with attacked.unharmed(), established(attacked.port) as peer:
        assert heard_after(peer, pdu(ABORT, body)) == []


BEGUN = pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command("1.2.3.4.6")))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(pdu(P_DATA, pdv(CT_CONTEXT, LAST, bytes(10))), id="data before a command"),
        pytest.param(BEGUN + pdu(P_DATA, pdv(ECHO_CONTEXT, LAST, bytes(10))), id="another context"),
        pytest.param(BEGUN + BEGUN, id="a second command"),
        pytest.param(
            pdu(P_DATA, pdv(CT_CONTEXT, COMMAND, store_command("1.2.3.4.6")[:20]))
            + pdu(P_DATA, pdv(CT_CONTEXT, LAST, bytes(10))),
            id="data within a command",
        ),
        pytest.param(
            pdu(P_DATA, pdv(CT_CONTEXT, COMMAND, store_command("1.2.3.4.6")[:20]))
            + pdu(P_DATA, pdv(ECHO_CONTEXT, COMMAND | LAST, echo_command())),
            id="a command within a command",
        ),
        pytest.param(
            pdu(P_DATA, pdv(ECHO_CONTEXT, COMMAND | LAST, echo_command())
                + pdv(ECHO_CONTEXT, LAST, bytes(4))),
            id="data after a command that announced none",
        ),
    ],
)  # fmt: skip
def test_fragments_out_of_their_order_are_unexpected(attacked: Attacked, said: bytes) -> None:
    with attacked.unharmed(), established(attacked.port) as peer:
        assert heard_after(peer, said)[-1] == UNEXPECTED
    assert "1.2.3.4.6" not in attacked.instances()
