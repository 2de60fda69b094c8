"""An instance answered with success survives kills of any of the listener's processes.

A hundred kills, each at a random moment of a load that is known to run, each of a random process
of the listener's tree or of all at once. The senders retry what was not answered with the same
bytes, so that in the end everything they ever began is there exactly once.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from .listening import Listening, Nursery, made_listening, made_nursery
from .sending import SUCCESS, Association, Ledger, Senders, made
from .verifying import check_kept, check_nothing_left_over, tell

pytestmark = pytest.mark.flow

KILLS = {1: 70, 2: 30}
"""Kills of listeners with so many wires."""
KILLS_BETWEEN_CHECKS = 10
SEED = int(os.environ.get("LIMNER_TEST_SEED", "12"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with made_nursery() as nursery:
        yield nursery


@dataclass(slots=True)
class Killed:
    """What was killed, and how often while instances were on their way."""

    victims: list[str] = field(default_factory=list)
    under_load: int = 0


def kill_one_or_all(listening: Listening, rng: random.Random) -> str:
    """Kill one of the listener's processes, or all; return which."""
    while True:
        tree = listening.processes()
        victim = rng.randrange(len(tree) + 1)
        if victim == len(tree):
            listening.kill()
            return "all"
        with suppress(ProcessLookupError):  # a new one that ends because the port is still taken
            listening.kill_one(tree[victim])
            return "wire" if victim else "keeper"


def kill_under_load(
    listening: Listening, ledger: Ledger, rng: random.Random, killed: Killed
) -> None:
    """Let senders send, and kill and start again several times meanwhile."""

    def more(goal: int) -> bool | None:
        listening.start()
        return ledger.wait_for(goal, timeout_s=0.05) or None

    listening.wait_listening()
    senders = Senders(listening.port, ledger, seed=SEED)
    try:
        for _ in range(KILLS_BETWEEN_CHECKS):
            goal = len(ledger.now()) + rng.randint(1, 25)
            listening.wait(f"{goal} are acknowledged", partial(more, goal), timeout_s=60)
            time.sleep(rng.uniform(0, 0.03))  # the moment is what is random here
            killed.under_load += bool(ledger.in_flight)
            killed.victims.append(kill_one_or_all(listening, rng))
        listening.serve(senders)
        listening.wait_listening()
    finally:
        senders.abandon()


def kill_and_check(listening: Listening, kills: int) -> None:
    tell(f"seed {SEED}")
    rng = random.Random(SEED)
    ledger, killed = Ledger(), Killed()
    for _ in range(kills // KILLS_BETWEEN_CHECKS):
        kill_under_load(listening, ledger, rng, killed)
        check_kept(listening, ledger.now(), offered=ledger.offered)
        assert listening.orphans() == []
        check_nothing_left_over(listening, ledger.offered)

    assert ledger.acknowledged == ledger.offered
    assert killed.under_load > 0.8 * kills  # a kill of an idle listener proves nothing
    tell(
        f"kills: {dict(Counter(killed.victims))}, {killed.under_load} with instances in flight; "
        f"{len(ledger.acknowledged)} acknowledged in {ledger.tries} tries, none lost"
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", KILLS)
def test_what_was_acknowledged_survives_a_hundred_kills_at_random_moments(
    processes: int, nursery: Nursery, tmp_path: Path
) -> None:
    with made_listening(
        tmp_path / "node", tmp_path / "log.txt", nursery, processes=processes
    ) as listening:
        kill_and_check(listening, KILLS[processes])


def test_an_instance_that_ends_after_its_keeper_died_does_not_overwrite_those_of_the_next(
    nursery: Nursery, tmp_path: Path
) -> None:
    with made_listening(tmp_path / "node", tmp_path / "log.txt", nursery) as listening:
        end_late(listening)


def end_late(listening: Listening) -> None:
    """Let an instance end after its keeper was killed and others came to the next one."""
    listening.wait_listening()
    late, *prompt = [made(SEED, number) for number in range(6)]
    acknowledged = {}
    slow = Association(listening.port)
    assert slow.store(prompt[0]) == SUCCESS  # the slow one's segment is in use
    acknowledged[prompt[0].uid] = prompt[0]
    data = slow.encode(late)
    slow.send(data[: len(data) // 2])
    listening.kill_one(listening.keeper)

    listening.wait_listening()
    after = Association(listening.port)
    for one in prompt[1:]:
        assert after.store(one) == SUCCESS
        acknowledged[one.uid] = one
    try:
        slow.send(data[len(data) // 2 :])
        if slow.answer(late) == SUCCESS:
            acknowledged[late.uid] = late
    except OSError:
        pass  # it was not answered, so it is the sender's to send again
    after.release()
    slow.close()

    check_kept(listening, acknowledged, offered={one.uid: one for one in (late, *prompt)})
    listening.wait("the old wire is gone", lambda: not listening.orphans() or None)
