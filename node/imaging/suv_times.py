"""Dates and times that SUV needs: when the dose was given, and to when an image is corrected.

Times of one series are compared, never with a clock. DA and TM stand in the zone of
TimezoneOffsetFromUTC (0008,0201) or in an unnamed local one; a DT may carry a zone of its own
(PS3.5 6.2). Two times are compared only if both zones are known or both are unnamed.

A decay reference (DecayCorrection START) is, in this order: DecayCorrectionDateTime; GE's private
scan date-time; the series time, if no acquisition of the whole series began before it, because
post-processing writes a new one; else what acquisition time, frame duration and
FrameReferenceTime say, on which all slices must agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import number, text
from node.imaging.suv_private import GE, SCAN_DATETIME, private_text
from node.imaging.suv_refusal import NoSuvError
from node.reasons import Reason

MOST_HALF_LIVES: Final = 10.0
"""A longer delay is a wrong date: a thousandth of the dose would be left."""

DATELESS_S: Final = 6 * 3600.0
"""Longest delay that a time without a date may mean; nine half-lives, if those are shorter."""

LONG_LIVED_S: Final = 8 * 3600.0
"""Nuclides that live longer are imaged on later days, so their time needs its date."""

FURTHEST_S: Final = 1e9
YEARS: Final = range(1950, 2200)
"""Beyond these a date or a time is damage, and would only overflow the arithmetic."""

SAME_TIME_S: Final = 1.0
AGREE: Final = 0.005
"""Share of SUV by which the slices may disagree on the decay reference."""
LATE_S: Final = 60.0
LATE: Final = 0.01
"""A computed reference that lies behind the first acquisition is refused beyond both of these."""

_DT: Final = re.compile(r"(\d{8})(\d{2})(\d{2})(\d{2})?(?:\.(\d{1,6}))?([+-]\d{4})?")
_DA: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_TM: Final = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})?(?:\.(\d{1,6}))?")
_ZONE: Final = re.compile(r"([+-])(\d{2})(\d{2})")


@dataclass(frozen=True, slots=True)
class Instant:
    """A point in time.

    Attributes:
        wall: What a clock on the wall showed.
        zone: Its offset from UTC, or None for the unnamed zone of the series.
    """

    wall: datetime
    zone: timedelta | None

    def seconds_since(self, earlier: Instant) -> float:
        """Return the seconds between two times; refuse where their zones do not compare."""
        difference = self.wall - earlier.wall
        if self.zone is not None and earlier.zone is not None:
            difference += earlier.zone - self.zone
        elif self.zone is not earlier.zone:
            raise NoSuvError(
                Reason.SUV_TIMES,
                "One time names its zone and another does not, and TimezoneOffsetFromUTC is "
                "absent, so they cannot be compared.",
            )
        return difference.total_seconds()

    def plus(self, seconds: float) -> Instant:
        """Return a later time; refuse a distance that no scan has."""
        if not abs(seconds) < FURTHEST_S:
            raise NoSuvError(Reason.SUV_TIMES, f"A time of {seconds:g} s is part of no scan.")
        return Instant(self.wall + timedelta(seconds=seconds), self.zone)


@dataclass(frozen=True, slots=True)
class Reference:
    """To when a series is decay corrected, and where that was read."""

    at: Instant
    source: str


def mean_decay_s(duration_s: float, half_life_s: float) -> float:
    """Return when, in a frame, the activity equals its mean over the frame; from its start."""
    decays = math.log(2) * duration_s / half_life_s
    if decays < 1e-6:
        return duration_s / 2  # the limit; the formula would lose all digits
    return math.log(decays / -math.expm1(-decays)) * half_life_s / math.log(2)


def parse_datetime(value: str, zone: timedelta | None) -> Instant | None:
    """Return a DT, at least to the minute, or None; without a zone it is in that of the series."""
    found = _DT.fullmatch(value)
    if found is None:
        return None
    date, hour, minute, second, fraction, offset = found.groups()
    wall = _wall(date, hour, minute, second, fraction)
    if wall is None:
        return None
    own = parse_zone(offset or "")
    return Instant(wall, zone if own is None else own)


def parse_date_time(date: str, time: str, zone: timedelta | None) -> Instant | None:
    """Return a DA and TM as one time, or None."""
    day, clock = _DA.fullmatch(date), _TM.fullmatch(time)
    if day is None or clock is None:
        return None
    wall = _wall("".join(day.groups()), *clock.groups())
    return None if wall is None else Instant(wall, zone)


def parse_zone(value: str) -> timedelta | None:
    """Return an offset from UTC such as +0100, or None."""
    found = _ZONE.fullmatch(value)
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return -offset if found[1] == "-" else offset


def _wall(
    date: str, hour: str, minute: str, second: str | None, fraction: str | None
) -> datetime | None:
    seconds = min(int(second or 0), 59)  # 60 is a leap second
    micro = int((fraction or "0").ljust(6, "0"))
    try:
        day = datetime.strptime(date, "%Y%m%d")  # noqa: DTZ007  zones are kept beside it
        if day.year not in YEARS:
            return None
        return day.replace(hour=int(hour), minute=int(minute), second=seconds, microsecond=micro)
    except ValueError:
        return None


def zone_of(header: Dataset) -> timedelta | None:
    """Return TimezoneOffsetFromUTC, or None."""
    return parse_zone(text(header, "TimezoneOffsetFromUTC"))


def acquired(header: Dataset) -> Instant:
    """Return when the acquisition of a slice began."""
    zone = zone_of(header)
    found = parse_date_time(text(header, "AcquisitionDate"), text(header, "AcquisitionTime"), zone)
    if found is None:
        found = parse_datetime(text(header, "AcquisitionDateTime"), zone)
    if found is None:
        raise NoSuvError(
            Reason.SUV_TIMES, "Acquisition date or time is absent or malformed in an instance."
        )
    return found


def mean_time(header: Dataset, half_life_s: float) -> Instant:
    """Return when the activity equalled its mean over the frame of a slice."""
    duration_ms = number(header, "ActualFrameDuration")
    if duration_ms is None or duration_ms <= 0:
        raise NoSuvError(Reason.SUV_TIMES, "ActualFrameDuration is absent or not above 0.")
    return acquired(header).plus(mean_decay_s(duration_ms / 1000, half_life_s))


def decay_reference(series: Sequence[Dataset], header: Dataset, half_life_s: float) -> Reference:
    """Return to when a series with DecayCorrection START is corrected.

    Args:
        series: The header of every image of the series, used or not.
        header: A slice of the volume, for what holds for the whole series.
        half_life_s: Of the nuclide.

    Raises:
        NoSuvError: `suv-times`: what is needed is absent or contradicts itself.
    """
    zone = zone_of(header)
    explicit = parse_datetime(text(header, "DecayCorrectionDateTime"), zone)
    if explicit is not None:
        return Reference(explicit, "DecayCorrectionDateTime")
    begun = _earliest([acquired(one) for one in series])
    scanned = private_text(header, GE, SCAN_DATETIME)
    if scanned is not None:
        return _ge_reference(scanned.value, begun, zone, by_creator=scanned.by_creator)
    opened = parse_date_time(text(header, "SeriesDate"), text(header, "SeriesTime"), zone)
    if opened is not None and begun.seconds_since(opened) >= 0:
        return Reference(opened, "series time")
    return _from_frames(series, begun, half_life_s)


def _earliest(times: Sequence[Instant]) -> Instant:
    first = times[0]
    for at in times:
        if at.seconds_since(first) < 0:
            first = at
    return first


def _ge_reference(
    value: str, begun: Instant, zone: timedelta | None, *, by_creator: bool
) -> Reference:
    scanned = parse_datetime(value, zone)
    if scanned is None:
        raise NoSuvError(Reason.SUV_TIMES, "GE's private scan date-time is malformed.")
    early_s = begun.seconds_since(scanned)
    if early_s < -SAME_TIME_S:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"GE's private scan date-time lies {-early_s:g} s behind the first acquisition.",
        )
    how = "" if by_creator else ", found without its private creator"
    return Reference(scanned, f"GE private scan date-time{how}")


def _from_frames(series: Sequence[Dataset], begun: Instant, half_life_s: float) -> Reference:
    """Return the reference that each slice's own times give, if they agree."""
    found: list[Instant] = []
    for header in series:
        offset_ms = number(header, "FrameReferenceTime")
        if offset_ms is None:
            raise NoSuvError(
                Reason.SUV_TIMES,
                "The series time lies behind an acquisition, as after post-processing, and "
                "FrameReferenceTime is absent.",
            )
        found.append(mean_time(header, half_life_s).plus(-offset_ms / 1000))
    first = _earliest(found)
    spread_s = max(at.seconds_since(first) for at in found)
    if math.log(2) * spread_s / half_life_s > AGREE:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"Acquisition and frame reference times of the slices give decay references that "
            f"are up to {spread_s:.0f} s apart.",
        )
    middle = first.plus(spread_s / 2)
    late_s = middle.seconds_since(begun)
    if late_s <= 0:
        return Reference(middle, "frame reference times")
    if late_s > LATE_S and math.log(2) * late_s / half_life_s > LATE:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"Frame reference times put the decay reference {late_s:.0f} s behind the first "
            f"acquisition.",
        )
    return Reference(begun, "first acquisition")


def administered(item: Dataset, header: Dataset, scanned: Instant, half_life_s: float) -> Instant:
    """Return when the dose was given.

    Args:
        item: Of RadiopharmaceuticalInformationSequence.
        header: The slice, for its zone.
        scanned: A time of the scan, from which a time without a date gets it.
        half_life_s: Of the nuclide.

    Raises:
        NoSuvError: `suv-times`.
    """
    zone = zone_of(header)
    full, clock = (
        text(item, keyword)
        for keyword in ("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime")
    )
    if not full:
        return _dateless(clock, scanned, half_life_s)
    given = parse_datetime(full, zone)
    if given is None:
        raise NoSuvError(Reason.SUV_TIMES, "RadiopharmaceuticalStartDateTime is malformed.")
    if clock:
        given = _agreeing(given, clock, zone)
    delay_s = scanned.seconds_since(given)
    if not 0 <= delay_s <= MOST_HALF_LIVES * half_life_s:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"The scan lies {delay_s:g} s behind the administration; 0 to "
            f"{MOST_HALF_LIVES:g} half-lives are believed.",
        )
    return given


def _agreeing(given: Instant, clock: str, zone: timedelta | None) -> Instant:
    """Return a start date-time that agrees with the start time beside it.

    If the series names no zone, a date-time with a zone of its own whose clock shows the start
    time is in the zone of the series.
    """
    if zone is not None and given.zone is not None:
        given = Instant(given.wall + (zone - given.zone), zone)
    beside = parse_date_time(given.wall.strftime("%Y%m%d"), clock, zone)
    apart_s = abs((given.wall - beside.wall).total_seconds()) if beside else math.inf
    if min(apart_s, abs(86_400 - apart_s)) > SAME_TIME_S:
        raise NoSuvError(
            Reason.SUV_TIMES,
            "RadiopharmaceuticalStartDateTime and RadiopharmaceuticalStartTime show different "
            "times of day.",
        )
    return Instant(given.wall, zone)


def _dateless(clock: str, scanned: Instant, half_life_s: float) -> Instant:
    """Return a time without a date as the last such time before the scan, if that is near."""
    if not clock:
        raise NoSuvError(Reason.SUV_TIMES, "No time of administration is given.")
    if half_life_s > LONG_LIVED_S:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"A nuclide with a half-life of {half_life_s / 3600:.0f} h needs "
            f"RadiopharmaceuticalStartDateTime; a time without its date is not enough.",
        )
    given = parse_date_time(scanned.wall.strftime("%Y%m%d"), clock, scanned.zone)
    if given is None:
        raise NoSuvError(Reason.SUV_TIMES, "RadiopharmaceuticalStartTime is malformed.")
    if scanned.seconds_since(given) < 0:
        given = given.plus(-86_400)
    delay_s, most_s = scanned.seconds_since(given), min(DATELESS_S, 9 * half_life_s)
    if delay_s > most_s:
        raise NoSuvError(
            Reason.SUV_TIMES,
            f"RadiopharmaceuticalStartTime without a date would lie {delay_s:g} s before the "
            f"scan; up to {most_s:g} s are believed.",
        )
    return given
