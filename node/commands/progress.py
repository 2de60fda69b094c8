"""Work on many things one after the other: a bar with the time that is left, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from node.training.trainer import Progress as Standing

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


class Training:
    """Shows how far a training is: a bar with the time that is left, or a line for each tenth."""

    def __enter__(self) -> Training:
        self._bar = Progress(
            TextColumn("{task.description:28}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task: Any = None
        self._stage, self._tenth = "", -1
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, standing: Standing) -> None:
        """Show where a training stands."""
        step = f" step {standing.step}, loss {standing.loss:.3f}" if standing.step else ""
        self._show(standing.stage, standing.share, step)

    def stage(self, name: str) -> Callable[[float], None]:
        """Return what shows how far a stage of that name is."""
        return lambda share: self._show(name, share, "")

    def _show(self, stage: str, share: float, step: str) -> None:
        if stage != self._stage:
            self._stage, self._tenth = stage, -1
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = None if self._bar.disable else self._bar.add_task(stage, total=1.0)
        if self._task is not None:
            self._bar.update(self._task, completed=share, description=f"{stage}{step}")
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            click.echo(f"{stage} {share:.0%}{step}", err=True)
