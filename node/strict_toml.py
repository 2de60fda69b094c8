"""Read TOML strictly: every mistake is noted with its line, and all are told in one answer.

A misspelt key that is ignored becomes an outage at night, so a key that nobody asked for is a
mistake, and the nearest right word is named beside it. `Document` parses the text and knows on
which line each key stands; `Table` hands out typed values and notes what is wrong instead of
stopping at it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.errors import Fault, SetupError

_HEADER: Final = re.compile(r"^\s*\[(\[?)\s*([^\[\]]+?)\s*\]?\]\s*(#.*)?$")
_HUGE: Final = 1e300
"""Numbers of lists are below this: TOML knows infinity, and whole numbers of any length."""
_KEY: Final = re.compile(r"""^\s*["']?([A-Za-z0-9_-]+)["']?\s*[=.]""")


@dataclass(slots=True)
class Mistakes:
    """The mistakes found in one file, in the order of discovery."""

    where: str
    found: list[tuple[int, str]] = field(default_factory=list)
    unread: bool = False

    def note(self, line: int, text: str) -> None:
        """Add one mistake; `line` is 0 where none is known. What was not read has no others."""
        if not self.unread:
            self.found.append((line, text))

    def raise_if_any(self, code: str, remedy: str) -> None:
        """Raise one SetupError that tells all mistakes, by line.

        Raises:
            SetupError: At least one mistake was noted.
        """
        if not self.found:
            return
        lines = [f"line {line}: {text}" if line else text for line, text in sorted(set(self.found))]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        what = f"{count} in {self.where}:\n  " + "\n  ".join(lines) + "\n"
        raise SetupError(Fault(code=code, what=what, where=self.where, remedy=remedy))


class Document:
    """A parsed TOML text together with the line of each key."""

    def __init__(self, text: str, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self._lines = _lines_of_keys(text)
        self._values: dict[str, Any] = {}
        try:
            self._values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            mistakes.note(0, f"not TOML: {error}")
            mistakes.unread = True

    def table(self, name: str) -> Table:
        """Return the table `[name]`, empty if it is not there."""
        return self._made(name, self._values.pop(name, {}), 0)

    def tables(self, name: str) -> list[Table]:
        """Return the tables `[[name]]`, in their order."""
        values = self._values.pop(name, [])
        if not isinstance(values, list):
            line = self.line(name, 0, "")
            self.mistakes.note(line, f"write [[{name}]] with two brackets: there may be several")
            return []
        return [self._made(name, each, number) for number, each in enumerate(values)]

    def top(self) -> Table:
        """Return the keys that stand outside every table."""
        plain = {k: v for k, v in self._values.items() if not isinstance(v, dict | list)}
        for key in plain:
            del self._values[key]
        return Table(self, "", 0, plain)

    def finish(self, known: Sequence[str]) -> None:
        """Note every table that nobody asked for."""
        for name in self._values:
            self.mistakes.note(
                self.line(name, 0, ""), f"[{name}]: unknown table{_nearest(name, known)}"
            )

    def line(self, table: str, number: int, key: str) -> int:
        """Return the line of a key, or of its table's header, or 0."""
        return self._lines.get((table, number, key)) or self._lines.get((table, number, ""), 0)

    def _made(self, name: str, values: object, number: int) -> Table:
        if not isinstance(values, dict):
            self.mistakes.note(self.line("", 0, name), f"{name} must be a table, [{name}]")
            values = {}
        return Table(self, name, number, dict(values))


class Table:
    """Takes keys out of one table; what is left at `finish` was not known."""

    def __init__(self, document: Document, name: str, number: int, values: dict[str, Any]) -> None:
        self._document = document
        self._name = name
        self._number = number
        self._values = values
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        """Return whether the key is there and not yet taken."""
        return key in self._values

    def peek(self, key: str) -> object:
        """Return a value that is not yet taken without taking it, None if there is none."""
        return self._values.get(key)

    def note(self, key: str, text: str) -> None:
        """Note a mistake of this table's key."""
        line = self._document.line(self._name, self._number, key)
        self._document.mistakes.note(line, f"{self._path(key)}: {text}")

    def string(self, key: str, default: str | None = None, *, longest: int = 0) -> str:
        """Return a text; without a default an absent or empty one is a mistake."""
        value = self._take(key, default)
        if isinstance(value, str) and (value or default is not None):
            if longest and len(value) > longest:
                self.note(key, f"must have at most {longest} characters, has {len(value)}")
            return value
        self.note(key, _wanted("a text", value))
        return ""

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return one of `choices`."""
        value = self._take(key, default)
        if isinstance(value, str) and value in choices:
            return value
        near = _nearest(str(value), choices) if isinstance(value, str) else ""
        self.note(key, _wanted("one of " + ", ".join(choices), value) + near)
        return choices[0]

    def strings(
        self, key: str, default: Sequence[str] | None = None, *, choices: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Return a list of texts, each from `choices` if those are given."""
        value = self._take(key, list(default) if default is not None else None)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.note(key, _wanted("a list of texts", value))
            return ()
        for each in value:
            if choices and each not in choices:
                words = ", ".join(choices)
                self.note(key, f"knows {words}, not '{each}'{_nearest(each, choices)}")
        return tuple(value)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from `low` to `high`."""
        value = self._take(key, default)
        # bool is an int in Python; `port = true` must not become port 1.
        if type(value) is int and low <= value <= high:
            return value
        self.note(key, _wanted(f"a whole number from {low} to {high}", value))
        return low

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from `low` to `high`."""
        value = self._take(key, default)
        if type(value) in (int, float) and low <= value <= high:
            return float(value)
        self.note(key, _wanted(f"a number from {low:g} to {high:g}", value))
        return low

    def numbers(
        self, key: str, count: int, default: Sequence[float] | None = None
    ) -> tuple[float, ...]:
        """Return a list of `count` numbers; any count if `count` is 0."""
        value = self._take(key, list(default) if default is not None else None)
        fits = isinstance(value, list) and all(
            type(each) in (int, float) and abs(each) < _HUGE  # neither does "nan" fit
            for each in value
        )
        if fits and (count == 0 or len(value) == count):
            return tuple(float(each) for each in value)
        self.note(key, _wanted(f"a list of {count or 'some'} numbers", value))
        return tuple([0.0] * count)

    def flag(self, key: str, default: bool | None = None) -> bool:  # noqa: FBT001  a value, not a switch
        """Return true or false."""
        value = self._take(key, default)
        if isinstance(value, bool):
            return value
        self.note(key, _wanted("true or false", value))
        return False

    def table(self, key: str) -> Table:
        """Return a table inside this one, empty if it is not there."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            self.note(key, _wanted("a table", value))
            value = {}
        return Table(self._document, self._inner(key), self._number, dict(value))

    def tables(self, key: str) -> list[Table]:
        """Return a list of tables inside this one."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.note(key, _wanted("a list of tables", value))
            return []
        name = self._inner(key)
        return [Table(self._document, name, n, dict(each)) for n, each in enumerate(value)]

    def rest(self) -> dict[str, Any]:
        """Return what is left, for tables whose keys are free."""
        left, self._values = self._values, {}
        return left

    def finish(self) -> None:
        """Note every key that nobody asked for, with the nearest one that exists."""
        for key in self._values:
            self.note(key, f"unknown key{_nearest(key, self._asked)}")

    def _take(self, key: str, default: object) -> Any:
        self._asked.append(key)
        return self._values.pop(key, default)

    def _inner(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _path(self, key: str) -> str:
        if not self._name:
            return key
        number = f"[{self._number + 1}]" if self._document.line(self._name, 1, "") else ""
        return f"{self._name}{number}.{key}"


def _wanted(what: str, value: object) -> str:
    if value is None or value in ("", []):
        return f"must be {what}, is {'missing' if value is None else 'empty'}"
    return f"must be {what}, is {value!r}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _lines_of_keys(text: str) -> dict[tuple[str, int, str], int]:
    lines: dict[tuple[str, int, str], int] = {}
    counts: dict[str, int] = {}
    table, number = "", 0
    for line, content in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(content):
            table = header[2].replace('"', "").replace(" ", "")
            parent = table.rpartition(".")[0]
            if header[1]:
                counts[table] = counts.get(table, -1) + 1
                number = counts[table]
            else:
                # [routes.when] belongs to the last [[routes]] above it.
                number = counts.get(parent, 0)
            lines.setdefault((table, number, ""), line)
        elif key := _KEY.match(content):
            lines.setdefault((table, number, key[1]), line)
    return lines
