"""Work on many things one after the other: a bar with the time that is left, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

One = TypeVar("One")

_LINE_EVERY: Final = 500
"""Where there is no terminal, a line for so many."""


def counted(what: str, things: Sequence[One]) -> Iterator[One]:
    """Yield each of `things`, and show on standard error how many are done."""
    if not sys.stderr.isatty():
        for number, one in enumerate(things, start=1):
            yield one
            if number % _LINE_EVERY == 0:
                click.echo(f"{what}: {number} of {len(things)}", err=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(things, description=what)
