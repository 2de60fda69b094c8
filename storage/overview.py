"""The numbers of the Now page: one reading transaction, so that they fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, text

from storage.database import now_ms
from storage.peers import PeerStateRow, list_peer_states
from storage.workers import WorkerRow, list_workers

# Each line is one number with the time since when its oldest has waited. `waiting` and
# `to_send` are what the node will take up by itself; what a held study stops counts in `held`.
NUMBERS: Final = text("""
SELECT 'arriving' AS what, count(*) AS number, min(first_received_ms) AS oldest_ms
  FROM studies
 WHERE state = 'arriving'
UNION ALL
SELECT 'held', count(*), min(changed_ms)
  FROM studies
 WHERE state = 'held'
UNION ALL
SELECT 'undecided', count(*), min(last_received_ms)
  FROM studies
 WHERE state = 'settled'
   AND EXISTS (SELECT 1
                 FROM revisions
                WHERE revisions.study_id = studies.id
                  AND revisions.number = studies.revision
                  AND revisions.decided_ms IS NULL)
UNION ALL
SELECT 'needs_person', count(*), min(changed_ms)
  FROM studies
 WHERE needs_person
UNION ALL
SELECT 'waiting', count(*), min(created_ms)
  FROM jobs
 WHERE state = 'queued'
UNION ALL
SELECT 'running', count(*), min(started_ms)
  FROM jobs
 WHERE state = 'running'
UNION ALL
SELECT 'failed', count(*), min(finished_ms)
  FROM jobs
 WHERE state = 'failed'
UNION ALL
SELECT 'to_send', count(*), min(created_ms)
  FROM deliveries
 WHERE state = 'owed'
UNION ALL
SELECT 'to_confirm', count(*), min(sent_ms)
  FROM deliveries
 WHERE state = 'sent'
UNION ALL
SELECT 'not_delivered', count(*), min(created_ms)
  FROM deliveries
 WHERE state IN ('refused', 'expired', 'held')
""")

# What happened last, of every kind, each with the study it happened to.
EVENTS: Final = text("""
SELECT at_ms, kind, study_uid, words
  FROM (SELECT revisions.created_ms AS at_ms, 'settled' AS kind, studies.uid AS study_uid,
               revisions.reason AS words
          FROM revisions
          JOIN studies ON studies.id = revisions.study_id
         UNION ALL
        SELECT jobs.finished_ms, 'job ' || jobs.state, studies.uid,
               CASE WHEN jobs.error_text <> '' THEN jobs.error_text ELSE jobs.outcome END
          FROM jobs
          JOIN studies ON studies.id = jobs.study_id
         WHERE jobs.finished_ms IS NOT NULL
         UNION ALL
        SELECT COALESCE(deliveries.confirmed_ms, deliveries.sent_ms), deliveries.state,
               studies.uid, deliveries.peer
          FROM deliveries
          JOIN studies ON studies.id = deliveries.study_id
         WHERE deliveries.sent_ms IS NOT NULL
            OR deliveries.confirmed_ms IS NOT NULL
         UNION ALL
        SELECT studies.changed_ms, 'held', studies.uid, studies.hold_reason
          FROM studies
         WHERE studies.state = 'held') AS events
 ORDER BY at_ms DESC
 LIMIT :limit
""")


class Number(StrEnum):
    """What is counted."""

    ARRIVING = "arriving"  # studies still within their quiet period
    HELD = "held"  # studies that a person must release
    UNDECIDED = "undecided"  # settled studies on which no decision is recorded yet
    NEEDS_PERSON = "needs_person"  # studies with a sentence that asks for a person
    WAITING = "waiting"  # queued jobs, those that retry later included
    RUNNING = "running"  # jobs that a worker holds
    FAILED = "failed"  # jobs that a person must look at
    TO_SEND = "to_send"  # deliveries that no peer has answered yet
    TO_CONFIRM = "to_confirm"  # deliveries answered but not proven
    NOT_DELIVERED = "not_delivered"  # deliveries refused, expired or held


@dataclass(frozen=True, slots=True)
class Count:
    """How many, and since when the oldest waits."""

    number: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `kind` is a state or step, `words` says what to whom."""

    at_ms: int
    kind: str
    study_uid: str
    words: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The Now page as of `at_ms`, the database's time."""

    at_ms: int
    numbers: dict[Number, Count]
    workers: tuple[WorkerRow, ...]
    peers: tuple[PeerStateRow, ...]
    events: tuple[Event, ...]


def overview(db: Connection, *, events: int = 20) -> Overview:
    """Return the numbers of the Now page.

    Args:
        db: A reading transaction.
        events: How many of the last events.
    """
    return Overview(
        at_ms=now_ms(db),
        numbers={Number(row.what): Count(row.number, row.oldest_ms) for row in db.execute(NUMBERS)},
        workers=tuple(list_workers(db)),
        peers=tuple(list_peer_states(db)),
        events=tuple(
            Event(row.at_ms, row.kind, row.study_uid, row.words)
            for row in db.execute(EVENTS, {"limit": events})
        ),
    )
