"""An instance answered with success survives power cuts, with the database on the same disk.

Each test mounts a disk of its own, cuts its power five times at random moments under load, and
after each cut finds every acknowledged instance, byte for byte. The senders go on over all cuts:
what was not answered is sent again.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from .listening import Listening, made_listening, made_nursery
from .power_cut import CANNOT_CUT, SmallDisk, can_cut_power, small_disk
from .recording import CANNOT_RECORD, build_recorder, can_record, lose_syncs
from .sending import Ledger, Senders
from .verifying import check_kept, tell

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(not can_cut_power(), reason=CANNOT_CUT),
]

CUTS_PER_DISK = 5
DISK_MB = 400
SEED = int(os.environ.get("LIMNER_TEST_SEED", "12"))


def cut_under_load(
    disk: SmallDisk, listening: Listening, ledger: Ledger, rng: random.Random
) -> bool:
    """Cut the power at a random moment; return whether instances were in flight."""
    goal = len(ledger.now()) + rng.randint(5, 60)
    assert ledger.wait_for(goal, timeout_s=60), "the load does not run"
    time.sleep(rng.uniform(0, 0.03))  # the moment is what is random here
    in_flight = bool(ledger.in_flight)
    answered = ledger.now()
    disk.cut_power()
    listening.kill()
    # A machine without power answers nothing. Here a sync that was under way when the file system
    # stopped may still report success, on this kernel for blocks that were allocated and not yet
    # written (3 of 455 syncs in a program of 20 lines), so such answers are not counted.
    ledger.retract(answered)
    disk.come_back()
    return in_flight


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_what_was_acknowledged_survives_power_cuts_at_random_moments(
    seed: int, tmp_path: Path
) -> None:
    tell(f"seed {seed}")
    rng = random.Random(seed)
    ledger = Ledger()
    under_load = 0
    with (
        small_disk(tmp_path, size_mb=DISK_MB) as disk,
        made_nursery() as nursery,
        made_listening(
            disk.folder / "node", tmp_path / "log.txt", nursery, journal_mb=(4, 64)[seed % 2]
        ) as node,
    ):
        disk.sync()  # the node was set up long before
        node.wait_listening()
        senders = Senders(node.port, ledger, seed=seed)
        try:
            for _ in range(CUTS_PER_DISK):
                under_load += cut_under_load(disk, node, ledger, rng)
                acknowledged = ledger.now()
                node.wait_listening()
                check_kept(node, acknowledged, offered=ledger.offered)
            node.serve(senders)
            check_kept(node, ledger.now(), offered=ledger.offered)
        finally:
            senders.abandon()

    assert ledger.acknowledged.keys() | ledger.in_doubt == ledger.offered.keys()
    assert under_load == CUTS_PER_DISK
    tell(
        f"{CUTS_PER_DISK} cuts; {len(ledger.acknowledged)} acknowledged in {ledger.tries} tries, "
        "none lost"
    )


@pytest.mark.skipif(not can_record(), reason=CANNOT_RECORD)
def test_a_listener_whose_syncs_are_left_out_is_seen_to_lose_instances(tmp_path: Path) -> None:
    ledger = Ledger()
    recorder = build_recorder(tmp_path)
    with (
        small_disk(tmp_path, size_mb=DISK_MB) as disk,
        made_nursery() as honest,
        made_nursery(lose_syncs(recorder)) as lying,
        made_listening(disk.folder / "node", tmp_path / "log.txt", lying) as node,
    ):
        disk.sync()
        node.wait_listening()
        senders = Senders(node.port, ledger, seed=SEED)
        try:
            cut_under_load(disk, node, ledger, random.Random(SEED))
        finally:
            senders.abandon()
        node.nursery = honest
        node.wait_listening()
        kept = {row.sop_uid for row in node.rows()}

    assert ledger.acknowledged.keys() - kept
