"""The one place where time makes things happen: APScheduler runs the steps of the line.

One scheduler acts at a time: it holds a lease in the database and renews it with each tick;
others wait to take over. A tick that is late is run once, not repeated: every step looks at all
that is due.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from node.models.card import Card
from node.schedule import steps
from node.settings import Settings
from storage.database import Engine, writing
from storage.errors import StorageError
from storage.workers import hold_lease, release_lease

TICK_S: Final = 0.5
RESCUE_S: Final = 1.0
LEASE: Final = "scheduler"
LEASE_MS: Final = 5_000
"""After the death of the acting scheduler another takes over within so long."""

log = structlog.get_logger()


def run_scheduler(
    settings: Settings, engine: Engine, cards: Mapping[str, Card], *, name: str,
    stop: threading.Event,
) -> None:  # fmt: skip
    """Run the steps until `stop` is set.

    Args:
        settings: The node's configuration.
        engine: The node's database.
        cards: Models by name.
        name: Who holds the scheduler's lease.
        stop: Set to end.
    """
    tokens: list[int] = []

    def acting(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                with writing(engine) as db:
                    token = hold_lease(db, LEASE, name, LEASE_MS)
                if token is not None:
                    tokens[:] = [token]
                    step()
            except StorageError as error:
                log.warning("step put off", step=step.__name__, code=error.code)

        return run

    def line() -> None:
        steps.settle(engine, settings)
        steps.decide_settled(engine, settings, cards)
        steps.finish_idle(engine)

    def rescue() -> None:
        steps.rescue(engine, settings)

    # One thread: the steps are short, and two writers in one process would only wait.
    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(1)})
    for step, every_s in ((line, TICK_S), (rescue, RESCUE_S)):
        scheduler.add_job(
            acting(step), "interval", seconds=every_s, id=step.__name__,
            max_instances=1, coalesce=True, misfire_grace_time=None,
        )  # fmt: skip
    scheduler.add_listener(_told, EVENT_JOB_ERROR | EVENT_JOB_MISSED)
    scheduler.start()
    try:
        stop.wait()
    finally:
        scheduler.shutdown(wait=True)
        for token in tokens:
            with suppress(StorageError), writing(engine) as db:
                release_lease(db, LEASE, name, token)


def _told(event: JobExecutionEvent) -> None:
    log.error("step failed", step=event.job_id, exc_info=event.exception)
