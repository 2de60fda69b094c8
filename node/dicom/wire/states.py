"""The states of an association as one table: what an event does in each of them.

States, events and actions carry the names of PS3.8 section 9.2, so that this file and the Standard
can be laid side by side. Pure: an action is a name; what it does is said in `ACTIONS` and done by
whoever holds the socket. A cell is empty where the event cannot come; every PDU has one in every
state with an open connection, so that nothing a peer sends is without an answer.

Source: DICOM PS3.8 section 9.2, tables 9-1 to 9-10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from node.dicom.wire import pdu


class State(StrEnum):
    """Where an association is (PS3.8 tables 9-1 to 9-5)."""

    STA1 = "Sta1"  # idle: no connection
    STA2 = "Sta2"  # acceptor: connection open, the association request is awaited
    STA3 = "Sta3"  # acceptor: request received, the local decision is awaited
    STA4 = "Sta4"  # requestor: the connection is being opened
    STA5 = "Sta5"  # requestor: request sent, the answer is awaited
    STA6 = "Sta6"  # established: data may flow
    STA7 = "Sta7"  # release asked by us, the answer is awaited
    STA8 = "Sta8"  # release asked by the peer, the local answer is awaited
    STA9 = "Sta9"  # collision, requestor: both asked for release, the local answer is awaited
    STA10 = "Sta10"  # collision, acceptor: the peer's answer is awaited
    STA11 = "Sta11"  # collision, requestor: answered, the peer's answer is awaited
    STA12 = "Sta12"  # collision, acceptor: peer has answered, the local answer is awaited
    STA13 = "Sta13"  # over: the connection is to be closed, by the peer or when ARTIM ends


class Event(StrEnum):
    """What happens to an association (PS3.8 table 9-10)."""

    EVT1 = "Evt1"  # we want an association
    EVT2 = "Evt2"  # the connection that we opened stands
    EVT3 = "Evt3"  # A-ASSOCIATE-AC received
    EVT4 = "Evt4"  # A-ASSOCIATE-RJ received
    EVT5 = "Evt5"  # a peer has connected
    EVT6 = "Evt6"  # A-ASSOCIATE-RQ received
    EVT7 = "Evt7"  # we accept
    EVT8 = "Evt8"  # we reject
    EVT9 = "Evt9"  # we want to send data
    EVT10 = "Evt10"  # P-DATA-TF received
    EVT11 = "Evt11"  # we want to release
    EVT12 = "Evt12"  # A-RELEASE-RQ received
    EVT13 = "Evt13"  # A-RELEASE-RP received
    EVT14 = "Evt14"  # we agree to the release
    EVT15 = "Evt15"  # we want to abort
    EVT16 = "Evt16"  # A-ABORT received
    EVT17 = "Evt17"  # the connection is closed
    EVT18 = "Evt18"  # the ARTIM timer has ended
    EVT19 = "Evt19"  # a PDU that is none of the seven, or that cannot be read


class Action(StrEnum):
    """What to do about it; see `ACTIONS`."""

    AE1 = "AE-1"
    AE2 = "AE-2"
    AE3 = "AE-3"
    AE4 = "AE-4"
    AE5 = "AE-5"
    AE6 = "AE-6"
    AE7 = "AE-7"
    AE8 = "AE-8"
    DT1 = "DT-1"
    DT2 = "DT-2"
    AR1 = "AR-1"
    AR2 = "AR-2"
    AR3 = "AR-3"
    AR4 = "AR-4"
    AR5 = "AR-5"
    AR6 = "AR-6"
    AR7 = "AR-7"
    AR8 = "AR-8"
    AR9 = "AR-9"
    AR10 = "AR-10"
    AA1 = "AA-1"
    AA2 = "AA-2"
    AA3 = "AA-3"
    AA4 = "AA-4"
    AA5 = "AA-5"
    AA6 = "AA-6"
    AA7 = "AA-7"
    AA8 = "AA-8"


@dataclass(frozen=True, slots=True)
class Effect:
    """What an action does, and the states in which it may leave the association.

    Attributes:
        does: In words.
        next: The state afterwards; where there are two, `choice` says which one it is.
        choice: Empty, or on what the choice between the two states hangs: the first holds if so.
    """

    does: str
    next: tuple[State, ...]
    choice: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """One cell of the table: an action and the states in which it may leave the association."""

    action: Action
    next: tuple[State, ...]


ACTIONS: Final[Mapping[Action, Effect]] = MappingProxyType(
    {
        # Establishment (PS3.8 table 9-6)
        Action.AE1: Effect("open a connection", (State.STA4,)),
        Action.AE2: Effect("send A-ASSOCIATE-RQ", (State.STA5,)),
        Action.AE3: Effect("tell that the association is accepted", (State.STA6,)),
        Action.AE4: Effect(
            "tell that the association is rejected, close the connection", (State.STA1,)
        ),
        Action.AE5: Effect("take the connection, start ARTIM", (State.STA2,)),
        Action.AE6: Effect(
            "stop ARTIM; tell of the request, or send A-ASSOCIATE-RJ and start ARTIM",
            (State.STA3, State.STA13),
            choice="the protocol version and the form of the request are acceptable",
        ),
        Action.AE7: Effect("send A-ASSOCIATE-AC", (State.STA6,)),
        Action.AE8: Effect("send A-ASSOCIATE-RJ, start ARTIM", (State.STA13,)),
        # Data transfer (table 9-7)
        Action.DT1: Effect("send P-DATA-TF", (State.STA6,)),
        Action.DT2: Effect("hand over the data", (State.STA6,)),
        # Release (table 9-8)
        Action.AR1: Effect("send A-RELEASE-RQ", (State.STA7,)),
        Action.AR2: Effect("tell that the peer wants to release", (State.STA8,)),
        Action.AR3: Effect("tell of the release, close the connection", (State.STA1,)),
        Action.AR4: Effect("send A-RELEASE-RP, start ARTIM", (State.STA13,)),
        Action.AR5: Effect("stop ARTIM", (State.STA1,)),
        Action.AR6: Effect("hand over the data", (State.STA7,)),
        Action.AR7: Effect("send P-DATA-TF", (State.STA8,)),
        Action.AR8: Effect(
            "tell that the peer wants to release too",
            (State.STA9, State.STA10),
            choice="we asked for the association",
        ),
        Action.AR9: Effect("send A-RELEASE-RP", (State.STA11,)),
        Action.AR10: Effect("tell of the release", (State.STA12,)),
        # Abort (table 9-9)
        Action.AA1: Effect("send A-ABORT as service user, start ARTIM anew", (State.STA13,)),
        Action.AA2: Effect("stop ARTIM, close the connection", (State.STA1,)),
        Action.AA3: Effect("tell of the peer's abort, close the connection", (State.STA1,)),
        Action.AA4: Effect("tell that the connection broke", (State.STA1,)),
        Action.AA5: Effect("stop ARTIM", (State.STA1,)),
        Action.AA6: Effect("leave the PDU aside", (State.STA13,)),
        Action.AA7: Effect("send A-ABORT", (State.STA13,)),
        Action.AA8: Effect(
            "send A-ABORT as service provider, tell of the abort, start ARTIM", (State.STA13,)
        ),
    }
)

_AE1, _AE2, _AE3, _AE4 = Action.AE1, Action.AE2, Action.AE3, Action.AE4
_AE5, _AE6, _AE7, _AE8 = Action.AE5, Action.AE6, Action.AE7, Action.AE8
_DT1, _DT2 = Action.DT1, Action.DT2
_AR1, _AR2, _AR3, _AR4, _AR5 = Action.AR1, Action.AR2, Action.AR3, Action.AR4, Action.AR5
_AR6, _AR7, _AR8, _AR9, _AR0 = Action.AR6, Action.AR7, Action.AR8, Action.AR9, Action.AR10
_AA1, _AA2, _AA3, _AA4 = Action.AA1, Action.AA2, Action.AA3, Action.AA4
_AA5, _AA6, _AA7, _AA8 = Action.AA5, Action.AA6, Action.AA7, Action.AA8
____ = None

# Table 9-10; the columns are Sta1 to Sta13, _AR0 is AR-10.
# fmt: off
_CELLS: Final[Mapping[Event, tuple[Action | None, ...]]] = {
    #               1     2     3     4     5     6     7     8     9    10    11    12    13
    Event.EVT1:  (_AE1, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT2:  (____, ____, ____, _AE2, ____, ____, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT3:  (____, _AA1, _AA8, ____, _AE3, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA6),
    Event.EVT4:  (____, _AA1, _AA8, ____, _AE4, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA6),
    Event.EVT5:  (_AE5, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT6:  (____, _AE6, _AA8, ____, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA7),
    Event.EVT7:  (____, ____, _AE7, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT8:  (____, ____, _AE8, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT9:  (____, ____, ____, ____, ____, _DT1, ____, _AR7, ____, ____, ____, ____, ____),
    Event.EVT10: (____, _AA1, _AA8, ____, _AA8, _DT2, _AR6, _AA8, _AA8, _AA8, _AA8, _AA8, _AA6),
    Event.EVT11: (____, ____, ____, ____, ____, _AR1, ____, ____, ____, ____, ____, ____, ____),
    Event.EVT12: (____, _AA1, _AA8, ____, _AA8, _AR2, _AR8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA6),
    Event.EVT13: (____, _AA1, _AA8, ____, _AA8, _AA8, _AR3, _AA8, _AA8, _AR0, _AR3, _AA8, _AA6),
    Event.EVT14: (____, ____, ____, ____, ____, ____, ____, _AR4, _AR9, ____, ____, _AR4, ____),
    Event.EVT15: (____, ____, _AA1, _AA2, _AA1, _AA1, _AA1, _AA1, _AA1, _AA1, _AA1, _AA1, ____),
    Event.EVT16: (____, _AA2, _AA3, ____, _AA3, _AA3, _AA3, _AA3, _AA3, _AA3, _AA3, _AA3, _AA2),
    Event.EVT17: (____, _AA5, _AA4, _AA4, _AA4, _AA4, _AA4, _AA4, _AA4, _AA4, _AA4, _AA4, _AR5),
    Event.EVT18: (____, _AA2, ____, ____, ____, ____, ____, ____, ____, ____, ____, ____, _AA2),
    Event.EVT19: (____, _AA1, _AA8, ____, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA8, _AA7),
}
# fmt: on

TABLE: Final[Mapping[tuple[Event, State], Transition]] = MappingProxyType(
    {
        (event, state): Transition(action, ACTIONS[action].next)
        for event, row in _CELLS.items()
        for state, action in zip(State, row, strict=True)
        if action is not None
    }
)
"""What an event does in a state; a pair that is not here cannot happen."""

_EVENT_OF_PDU: Final = {
    pdu.ASSOCIATE_RQ: Event.EVT6,
    pdu.ASSOCIATE_AC: Event.EVT3,
    pdu.ASSOCIATE_RJ: Event.EVT4,
    pdu.P_DATA: Event.EVT10,
    pdu.RELEASE_RQ: Event.EVT12,
    pdu.RELEASE_RP: Event.EVT13,
    pdu.ABORT: Event.EVT16,
}


def event_of_pdu(pdu_type: int) -> Event:
    """Return the event that the arrival of a PDU of this type is."""
    return _EVENT_OF_PDU.get(pdu_type, Event.EVT19)


class ImpossibleEventError(Exception):
    """An event came in a state in which it cannot come: a fault of ours, never of a peer."""


class Machine:
    """The state of one association, which only events change.

    Attributes:
        state: Where it is.
    """

    def __init__(self, *, requestor: bool) -> None:
        """Start in `Sta1`, as the side that asks for the association or as the one that answers."""
        self.state = State.STA1
        self._requestor = requestor

    def on(self, event: Event, *, acceptable: bool = True) -> Action:
        """Take an event, move to the next state, and return what to do.

        Args:
            event: What happened.
            acceptable: Of an association request (Evt6): whether its version and form are such
                that it can be judged at all.

        Raises:
            ImpossibleEventError: The table has no such cell; the state stays.
        """
        transition = TABLE.get((event, self.state))
        if transition is None:
            raise ImpossibleEventError(f"{event} cannot come in {self.state}.")
        first = acceptable if transition.action is Action.AE6 else self._requestor
        self.state = transition.next[0 if first else -1]
        return transition.action
