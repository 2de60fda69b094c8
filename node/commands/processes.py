"""`limner run` and the processes it keeps: listen, schedule, work, deliver, web."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path

import click
import structlog

from node.commands.context import OpenNode, config_option, open_node, start_logging
from node.models.card import find_cards
from node.settings import Settings, load_settings
from node.supervise import Supervisor
from node.worker.heartbeat import Heartbeat
from storage import audit, workers
from storage.database import check_schema, open_engine, reading, writing
from storage.database import migrate as migrate_database
from storage.errors import StorageAway, StorageError
from storage.migrations import schema_revisions

log = structlog.get_logger()


@click.command()
@config_option
def run(config: Path) -> None:
    """Run the whole node until SIGTERM or Ctrl-C.

    Five processes: listen, schedule, work, deliver, web. One that dies is started again. The
    first start makes the database; after an upgrade `limner migrate` must be run by a person.

    \b
    Example:
      limner run --config node1/limner.toml
    """
    start_logging("run")
    settings = load_settings(config)
    find_cards(settings.worker.models)  # a card with mistakes is told now, not job by job
    _ready_database(settings)
    names = ["listen", "schedule", "work", "deliver"] + ["web"] * settings.web.enabled
    if settings.web.enabled:
        log.info("pages", address=f"http://{settings.web.host}:{settings.web.port}/")
    engine = open_engine(settings.storage.database_url)

    def on_death(name: str, pid: int, ending: str) -> None:
        try:
            with writing(engine) as db:
                for row in workers.list_workers(db):
                    if row.kind == name and row.pid == pid:
                        workers.ended(db, row.name, ending)
                audit.record(db, "node", "process-died", name, f"process {pid} {ending}")
        except StorageError as error:
            log.warning("death not recorded", code=error.code)

    sys.exit(Supervisor(settings, names, on_death).run())


@click.command()
@config_option
def listen(config: Path) -> None:
    """Run the DICOM listener alone, for a systemd unit or a container of its own.

    If one runs in this node's data folder already, its port is taken over: no connection is
    refused, and the other one ends when its open associations have ended.

    \b
    Example:
      limner listen --config node1/limner.toml
    """
    from node.dicom.listener import run_listener

    node, beats, stop = _begin("listen", config, database=Wanted.LATER)
    run_listener(node.settings, node.engine, node.store, stop=stop, database_away=not node.checked)
    beats.stop()


@click.command()
@config_option
def schedule(config: Path) -> None:
    """Run the scheduler alone: settle, decide, queue, rescue.

    \b
    Example:
      limner schedule --config node1/limner.toml
    """
    from node.schedule.clock import run_scheduler

    node, beats, stop = _begin("schedule", config)
    cards = find_cards(node.settings.worker.models)
    run_scheduler(node.settings, node.engine, cards, name=beats.name, stop=stop)
    beats.stop()


@click.command()
@config_option
def work(config: Path) -> None:
    """Run a segment worker alone: claim, read, infer, write.

    \b
    Example:
      limner work --config node1/limner.toml
    """
    from node.models.memory import tune_allocator

    tune_allocator()  # before torch is imported
    from node.models.device import choose_device, device_name, what_is_missing
    from node.worker.segment_jobs import SegmentWorker

    start_logging("work")
    device = choose_device(load_settings(config).worker.device)
    node, beats, stop = _begin("work", config, device=device_name(device))
    for sentence in what_is_missing(device):
        log.info("not used", what=sentence)
    cards = find_cards(node.settings.worker.models)
    SegmentWorker(node.settings, node.engine, node.store, cards, beats).run(stop)
    beats.stop()


@click.command()
@config_option
def deliver(config: Path) -> None:
    """Run the network worker alone: deliver results and see them confirmed.

    \b
    Example:
      limner deliver --config node1/limner.toml
    """
    from node.worker.network_jobs import NetworkWorker

    node, beats, stop = _begin("deliver", config)
    rng = random.Random()  # noqa: S311  spreads retries
    NetworkWorker(node.settings, node.engine, node.store, beats, rng).run(stop)
    beats.stop()


@click.command()
@config_option
def web(config: Path) -> None:
    """Run the pages alone.

    \b
    Example:
      limner web --config node1/limner.toml
    """
    from node.web.serve import run_web

    node, beats, stop = _begin("web", config)
    run_web(node.settings, node.engine, node.store, stop)
    beats.stop()


class Wanted(StrEnum):
    """When a process needs the database."""

    NOW = "now"  # it does nothing without one
    LATER = "later"  # it may be away for a while, at the start too


def _begin(
    kind: str, config: Path, *, device: str = "", database: Wanted = Wanted.NOW
) -> tuple[OpenNode, Heartbeat, threading.Event]:
    """Open the node, begin the heartbeat, and set an event on SIGTERM and SIGINT."""
    start_logging(kind)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = open_node(config)
    except StorageAway as error:
        if database is Wanted.NOW:
            raise
        log.warning("started-without-database", code=error.code, what=error.what)
        node = open_node(config, checked=False)
    log.info("started", pid=os.getpid())
    return node, Heartbeat(node.engine, kind, device=device), stop


def _ready_database(settings: Settings) -> None:
    """Make the tables of an empty database; refuse one of another version, not one that is away."""
    engine = open_engine(settings.storage.database_url)
    try:
        if settings.storage.database_url.startswith("sqlite:///"):
            with reading(engine) as db:
                empty = schema_revisions(db).current is None
            if empty:
                migrate_database(engine)
        check_schema(engine)
    except StorageAway as error:  # the listener does without; the others are tried again
        log.warning("started-without-database", code=error.code, what=error.what)
