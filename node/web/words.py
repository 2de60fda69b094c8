"""Numbers, times and codes as people read them; the templates' filters.

Pure functions. Times are milliseconds since 1970 UTC and are shown in the node's time zone, whose
name stands on every page.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

NONE: Final = "\N{EN DASH}"
"""What stands where there is no time and no number."""

_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Zone:
    """The node's time zone, for showing times.

    Attributes:
        name: IANA name such as `Europe/Berlin`.
    """

    name: str

    def _at(self, ms: int) -> datetime:
        return datetime.fromtimestamp(ms / 1000, ZoneInfo(self.name))

    def moment(self, ms: int | None) -> str:
        """Return date and time, `2026-11-21 01:12:05`."""
        return NONE if ms is None else f"{self._at(ms):%Y-%m-%d %H:%M:%S}"

    def iso(self, ms: int | None) -> str:
        """Return the machine-readable form for a `datetime` attribute."""
        return "" if ms is None else self._at(ms).isoformat(timespec="milliseconds")

    def short(self, ms: int | None, now_ms: int) -> str:
        """Return the time of day for today, date and time for other days."""
        if ms is None:
            return NONE
        at = self._at(ms)
        if at.date() == self._at(now_ms).date():
            return f"{at:%H:%M:%S}"
        return f"{at:%Y-%m-%d %H:%M}"

    def brief(self, ms: int, now_ms: int) -> str:
        """Return `01:12`, `yesterday 21:13` or `2026-11-19 21:13`, as people say it in a line."""
        at, now = self._at(ms), self._at(now_ms)
        days = (now.date() - at.date()).days
        if days == 0:
            return f"{at:%H:%M}"
        return f"yesterday {at:%H:%M}" if days == 1 else f"{at:%Y-%m-%d %H:%M}"


def duration(ms: int | None) -> str:
    """Return a span as people say it: `0.4 s`, `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if ms is None:
        return NONE
    span = max(ms, 0)
    if span < 10_000:
        return f"{span / 1000:.1f} s"
    seconds = span // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    hours, minutes = divmod(seconds // 60, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def age(at_ms: int | None, now_ms: int) -> str:
    """Return how long ago something was, whole seconds at the least, or `never`."""
    if at_ms is None:
        return "never"
    span = max(now_ms - at_ms, 0)
    return f"{span // 1000} s" if span < 10_000 else duration(span)


def count(number: int, word: str, plural: str = "") -> str:
    """Return `1 study`, `2 studies`: the number with the word in its form."""
    if number == 1:
        return f"1 {word}"
    return f"{number:,} {plural or word + 's'}"


def size(number: int | None) -> str:
    """Return bytes as `734 bytes`, `1.2 MB`, `310 GB`."""
    if number is None:
        return NONE
    amount = float(number)
    for unit in _UNITS[:-1]:
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} {_UNITS[-1]}"


def person(name: str) -> str:
    """Return a PN value as `Family, Given Middle`, from its first group that says anything."""
    for group in name.split("="):
        parts = [part.strip() for part in group.split("^")][:3]
        family, given = parts[0], " ".join(part for part in parts[1:] if part)
        if family or given:
            return ", ".join(part for part in (family, given) if part)
    return "no name"


def dicom_date(value: str) -> str:
    """Return a DA value as `2026-11-21`; anything else as it is."""
    if len(value) == 8 and value.isdigit():
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


def tail(uid: str) -> str:
    """Return a UID short enough for a line: its last 12 characters behind an ellipsis."""
    return uid if len(uid) <= 14 else f"…{uid[-12:]}"
