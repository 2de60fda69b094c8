"""The table of states is the Standard's, cell by cell, and leaves no PDU without an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.fsm import ACTIONS as THEIR_ACTIONS
from pynetdicom.fsm import TRANSITION_TABLE as THEIR_TABLE

from node.dicom.wire import pdu
from node.dicom.wire.states import (
    ACTIONS,
    TABLE,
    Action,
    Event,
    ImpossibleEventError,
    Machine,
    State,
    event_of_pdu,
)

PDUS = {
    pdu.ASSOCIATE_RQ: Event.EVT6,
    pdu.ASSOCIATE_AC: Event.EVT3,
    pdu.ASSOCIATE_RJ: Event.EVT4,
    pdu.P_DATA: Event.EVT10,
    pdu.RELEASE_RQ: Event.EVT12,
    pdu.RELEASE_RP: Event.EVT13,
    pdu.ABORT: Event.EVT16,
}


@pytest.mark.parametrize("event", Event)
def test_each_cell_holds_the_action_that_pynetdicom_holds(event: Event) -> None:
    ours = {state: TABLE[event, state].action for state in State if (event, state) in TABLE}

    assert ours == {state: action for (its, state), action in THEIR_TABLE.items() if its == event}


@pytest.mark.parametrize("action", Action)
def test_each_action_leads_where_pynetdicom_lets_it_lead(action: Action) -> None:
    _, _, theirs = THEIR_ACTIONS[action]

    assert {one.value for one in ACTIONS[action].next} == (
        set(theirs) if isinstance(theirs, tuple) else {theirs}
    )


def test_every_action_is_described_and_used() -> None:
    assert {one.action for one in TABLE.values()} == set(Action) == set(ACTIONS)
    assert all(bool(one.choice) == (len(one.next) == 2) for one in ACTIONS.values())


def test_every_pdu_type_is_an_event() -> None:
    for pdu_type in range(256):
        assert event_of_pdu(pdu_type) == PDUS.get(pdu_type, Event.EVT19)


OPEN = [state for state in State if state not in (State.STA1, State.STA4)]


@pytest.mark.parametrize("event", [*PDUS.values(), Event.EVT17, Event.EVT19])
def test_nothing_that_a_peer_can_do_is_without_an_answer(event: Event) -> None:
    assert all((event, state) in TABLE for state in OPEN)


@pytest.mark.parametrize("state", OPEN)
def test_an_abort_or_a_closed_connection_ends_every_state(state: State) -> None:
    assert TABLE[Event.EVT16, state].next == (State.STA1,)
    assert TABLE[Event.EVT17, state].next == (State.STA1,)


@pytest.mark.parametrize("state", OPEN)
def test_data_is_taken_only_where_the_association_stands(state: State) -> None:
    taken = TABLE[Event.EVT10, state].action in (Action.DT2, Action.AR6)

    assert taken is (state in (State.STA6, State.STA7))


def walked(machine: Machine, *events: Event) -> list[Action]:
    return [machine.on(event) for event in events]


def test_an_acceptor_goes_through_an_association() -> None:
    machine = Machine(requestor=False)

    actions = walked(
        machine, Event.EVT5, Event.EVT6, Event.EVT7, Event.EVT10, Event.EVT12, Event.EVT14
    )

    assert actions == ["AE-5", "AE-6", "AE-7", "DT-2", "AR-2", "AR-4"]
    assert machine.state is State.STA13
    assert machine.on(Event.EVT17) is Action.AR5
    assert machine.state is State.STA1


def test_a_requestor_goes_through_an_association() -> None:
    machine = Machine(requestor=True)

    actions = walked(
        machine, Event.EVT1, Event.EVT2, Event.EVT3, Event.EVT9, Event.EVT11, Event.EVT13
    )

    assert actions == ["AE-1", "AE-2", "AE-3", "DT-1", "AR-1", "AR-3"]
    assert machine.state is State.STA1


def test_a_request_that_cannot_be_judged_is_rejected_at_once() -> None:
    machine = Machine(requestor=False)
    machine.on(Event.EVT5)

    assert machine.on(Event.EVT6, acceptable=False) is Action.AE6
    assert machine.state is State.STA13


def test_when_both_sides_release_the_requestor_answers_first() -> None:
    requestor, acceptor = Machine(requestor=True), Machine(requestor=False)
    walked(requestor, Event.EVT1, Event.EVT2, Event.EVT3)
    walked(acceptor, Event.EVT5, Event.EVT6, Event.EVT7)

    walked(requestor, Event.EVT11, Event.EVT12)
    walked(acceptor, Event.EVT11, Event.EVT12)
    assert (requestor.state, acceptor.state) == (State.STA9, State.STA10)

    assert requestor.on(Event.EVT14) is Action.AR9
    assert acceptor.on(Event.EVT13) is Action.AR10
    assert acceptor.on(Event.EVT14) is Action.AR4
    assert requestor.on(Event.EVT13) is Action.AR3
    assert (requestor.state, acceptor.state) == (State.STA1, State.STA13)


def test_an_impossible_event_changes_nothing() -> None:
    machine = Machine(requestor=False)
    machine.on(Event.EVT5)

    with pytest.raises(ImpossibleEventError, match="Evt9 cannot come in Sta2"):
        machine.on(Event.EVT9)
    assert machine.state is State.STA2


@given(st.lists(st.sampled_from(Event), max_size=40), st.booleans())
def test_whatever_happens_the_machine_stands_where_the_table_says(
    events: list[Event], requestor: object
) -> None:
    machine = Machine(requestor=bool(requestor))
    for event in events:
        before = machine.state
        if (event, before) not in TABLE:
            continue
        action = machine.on(event)
        assert action is TABLE[event, before].action
        assert machine.state in ACTIONS[action].next
