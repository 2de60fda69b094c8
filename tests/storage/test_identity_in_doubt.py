"""Never the wrong patient: edits, merges and splits arrive in any order, between all acts.

A study is merged into another when its images come again under the other's UID, split when some
of them do, edited when patient, issuer, accession, header or pixels are changed and it is sent
again. Hypothesis makes the order. The world (`identity_world`) says what must be so after each act.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity_world import Content, World
from sqlalchemy import Engine

from storage.choosing import Choice
from storage.database import writing
from storage.instances import NewInstance, OnConflict, Recorded

ORIGINALS = [
    *(Content(f"1.{n}", "S1", f"S1.{n % 2}", "P1") for n in range(3)),
    *(Content(f"2.{n}", "S2", "S2.0", "P2") for n in range(2)),
]
LATE = [Content("1.8", "S1", "S1.0", "P1"), Content("2.8", "S2", "S2.0", "P2")]
EDITS: dict[str, list[Any]] = {
    "patient": ["P1", "P2", "P3"],
    "issuer": ["H", "G"],
    "accession": ["A1", "A2"],
    "study": ["S1", "S2", "S3"],
    "series": ["S1.0", "S2.0"],
    "header": [1, 2],
    "pixels": [1, 2],
    "syntax": ["1.2.840.10008.1.2.4.70"],
}


@st.composite
def arrivals(draw: st.DrawFn) -> Content:
    """An instance as it was made, or with one or two edits."""
    content = draw(st.sampled_from(ORIGINALS + LATE))
    for name in draw(st.lists(st.sampled_from(sorted(EDITS)), max_size=2)):
        content = replace(content, **{name: draw(st.sampled_from(EDITS[name]))})
    return content


TOUCHED = [
    *(replace(one, header=1) for one in ORIGINALS),
    *(replace(one, pixels=1) for one in ORIGINALS),
]
NUMBERS = st.integers(0, 6)
CHOICES = st.sampled_from(list(Choice))
STEPS = ["digest", "settle", "claim", "finish", "deliver", "work", "go on", "release", "requeue"]
ACTS = st.one_of(
    st.tuples(st.just("receive"), st.lists(arrivals(), min_size=1, max_size=6)),
    st.tuples(st.just("receive"), st.lists(st.sampled_from(TOUCHED), min_size=1, max_size=2)),
    st.tuples(st.sampled_from(STEPS)),
    st.tuples(st.sampled_from(["finish", "work", "go on"])),
    st.tuples(st.just("choose"), NUMBERS, CHOICES),
    st.tuples(st.just("choose_for_study"), NUMBERS, CHOICES),
)
SENT = ("receive", ORIGINALS)
QUEUED = [SENT, ("digest",), ("settle",)]
RUNNING = [*QUEUED, ("claim",)]
OWED = [*RUNNING, ("finish",)]
BEGINNINGS = st.sampled_from([[], QUEUED, RUNNING, RUNNING, OWED, [*OWED, ("deliver",)]])
SCRIPTS = st.builds(list.__add__, BEGINNINGS, st.lists(ACTS, min_size=1, max_size=8))
POLICIES = st.sampled_from(list(OnConflict))
Received = list[tuple[NewInstance, Recorded]]


def act(world: World, name: str, *values: Any) -> None:
    if name in {"work", "go on"}:  # from arrival, or from a hold, to the peer
        for step in ("release", "digest", "settle", "claim", "finish", "deliver")[name == "work" :]:
            getattr(world, step)()
    else:
        getattr(world, name)(*values)


def by_the_single_path(world: World, script: list[tuple[Any, ...]]) -> list[Received]:
    """Play a script; return of each `receive` what arrived and what the answers were."""
    received: list[Received] = []
    for name, *values in script:
        if name == "receive":
            received.append([world.receive(content) for content in values[0]])
        else:
            act(world, name, *values)
        world.check()
    return received


def by_batches(world: World, script: list[tuple[Any, ...]], received: list[Received]) -> None:
    """Play the same script, but let what arrived arrive in batches; answers must be the same."""
    said = iter(received)
    for name, *values in script:
        if name == "receive":
            arrived = next(said)
            answers = world.receive_batch([new for new, _ in arrived])
            assert [told(one) for one in answers] == [told(one) for _, one in arrived]
        else:
            act(world, name, *values)
        world.check()


def told(one: Recorded) -> tuple[object, ...]:
    return one.outcome, one.kept, one.doubt


def play(engine: Engine, script: list[tuple[Any, ...]], policy: OnConflict) -> None:
    with writing(engine) as db:
        example = db.begin_nested()
        single = World(db, policy)
        received = by_the_single_path(single, script)
        state = single.state()
        example.rollback()
        again = db.begin_nested()
        batches = World(db, policy, bytes_at=single.bytes_at)
        by_batches(batches, script, received)
        assert batches.state() == state
        again.rollback()


QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(script=SCRIPTS, policy=POLICIES)
def test_no_result_is_made_or_sent_under_a_patient_who_is_not_its_sources(
    sqlite_engine: Engine, script: list[tuple[Any, ...]], policy: OnConflict
) -> None:
    play(sqlite_engine, script, policy)


@pytest.mark.accept
@pytest.mark.timeout(3600)
@settings(QUICK, max_examples=2000)
@given(script=SCRIPTS, policy=POLICIES)
def test_no_result_is_made_or_sent_under_another_patient_in_thousands_of_orders(
    sqlite_engine: Engine, script: list[tuple[Any, ...]], policy: OnConflict
) -> None:
    play(sqlite_engine, script, policy)
