"""What the commands share: the configuration option, opening the node, printing."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import click
import structlog
from rich.console import Console
from rich.table import Table
from rich.text import Text
from structlog.typing import EventDict

from node.settings import Settings, load_settings
from storage.database import Engine, check_schema, open_engine
from storage.objects import ObjectStore

JSON_SCHEMA: Final = 1
CONFIG_VARIABLE: Final = "LIMNER_CONFIG"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node's configuration, database and bytes.

    Attributes:
        checked: Whether the database was there, with the tables of this version.
    """

    settings: Settings
    engine: Engine
    store: ObjectStore
    checked: bool = True

    def time(self, ms: int | None) -> str:
        """Return a stored time in the node's time zone, or a dash."""
        if ms is None:
            return "-"
        zone = ZoneInfo(self.settings.node.time_zone)
        return datetime.fromtimestamp(ms / 1000, tz=zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def config_option(command: Command) -> Command:
    """Add --config to a command."""
    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=lambda: Path(os.environ.get(CONFIG_VARIABLE, "limner.toml")),
        show_default="limner.toml here, or the variable LIMNER_CONFIG",
        help="The node's configuration.",
    )(command)


def json_option(command: Command) -> Command:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True
)


def open_node(config: Path, *, checked: bool = True) -> OpenNode:
    """Open a node's database and bytes.

    Raises:
        SetupError: The configuration has mistakes.
        StorageError: The database is away or has other tables.
    """
    settings = load_settings(config)
    engine = open_engine(settings.storage.database_url)
    if checked:
        check_schema(engine)
    store = ObjectStore(settings.storage.objects, settings.storage.reserve_mb)
    return OpenNode(settings, engine, store, checked)


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object with its schema number."""
    whole = {"schema": JSON_SCHEMA, **data}
    click.echo(json.dumps(whole, indent=2, default=plain, ensure_ascii=False))


def plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, or one sentence where there are none."""
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


def printable(text: str) -> str:
    """Return text that came from outside without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def start_logging(process: str) -> None:
    """Log events as one line each on standard error, with the process's name."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # It warns of each tick that found the last one still at work; the next tick does all of it.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)

    def named(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["process"] = process  # in every thread, unlike structlog's context variables
        return event

    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.KeyValueRenderer(key_order=["at", "level", "process", "event"])
    )
    structlog.configure(
        processors=[
            named,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
