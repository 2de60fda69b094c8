"""A study's conflicts on its page: both byte strings side by side, and who decides between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from node.web.addresses import number_of, uid_of
from node.web.context import web_of
from node.web.forms import Form
from node.web.people import Person
from node.web.timeline import Button
from node.web.verdict import Level, Tag
from node.web.words import count
from storage import audit
from storage.choosing import Choice, Chosen, choose, choose_for_study
from storage.conflict_rows import ConflictRow, find_conflict
from storage.database import writing
from storage.studies import find_study

SHOWN: Final = 10
"""Conflicts that a page shows one by one; the command line lists all of them."""


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One of the two byte strings."""

    which: str
    counts: bool
    at_ms: int
    sender: str
    bytes: int
    patient: str
    accession: str
    study_uid: str


@dataclass(frozen=True, slots=True)
class ConflictView:
    """One conflict, with what a person may do about it."""

    id: int
    tag: Tag
    title: str
    sop_uid: str
    decided_by: str
    versions: tuple[VersionLine, ...]
    acts: tuple[Button, ...]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """All conflicts of a study.

    Attributes:
        others: What is said of instances of another patient; empty where there are none.
        rest: How many are not shown one by one.
        acts: What a person may do about all of them together.
    """

    shown: tuple[ConflictView, ...]
    others: str
    rest: int
    acts: tuple[Button, ...]


def arrange_conflicts(rows: Sequence[ConflictRow], uid: str, other_patients: int) -> Conflicts:
    """Make the page's part about conflicts; pure. Those that wait for a person come first."""
    waiting_first = sorted(rows, key=lambda row: (not row.open, row.id))
    waiting = sum(row.open for row in rows)
    shown = waiting_first[:SHOWN]
    return Conflicts(
        shown=tuple(_view(row, uid) for row in shown),
        others=_others(other_patients),
        rest=len(rows) - len(shown),
        acts=tuple(_for_all(uid, waiting, other_patients)),
    )


def keep(request: Request, _form: Form, person: Person) -> Response:
    """Decide one conflict of a study."""
    uid, number = uid_of(request), number_of(request, "conflict")
    choice = _choice(request)
    with writing(web_of(request).engine) as db:
        row = find_conflict(db, number)
        if row is None or uid not in {row.study_uid, row.of_study_uid}:
            raise HTTPException(404, f"This study has no conflict {number}.")
        chosen = choose(db, number, choice, who=person.name)
        if chosen is not None:
            said = chosen.words()
            audit.record(db, person.name, f"keep {choice}", f"conflict {number}", said)
    return _back(uid, chosen)


def keep_all(request: Request, _form: Form, person: Person) -> Response:
    """Decide all conflicts of a study that wait for a person, and whose study it is."""
    uid, choice = uid_of(request), _choice(request)
    with writing(web_of(request).engine) as db:
        if find_study(db, uid) is None:
            raise HTTPException(404, "This node has no study with that UID.")
        chosen = choose_for_study(db, uid, choice, who=person.name)
        audit.record(db, person.name, f"keep {choice}", f"study {uid}", chosen.words())
    return _back(uid, chosen)


def _choice(request: Request) -> Choice:
    given = str(request.path_params["choice"])
    if given not in set(Choice):
        raise HTTPException(404, "Either the first counts, or the last.")
    return Choice(given)


def _back(uid: str, chosen: Chosen | None) -> Response:
    code = "too-late" if chosen is None else "kept-sent" if chosen.sent else "kept"
    return RedirectResponse(f"/studies/{uid}?said={code}", status_code=303)


def _view(row: ConflictRow, uid: str) -> ConflictView:
    other = VersionLine(
        which="",
        counts=False,
        at_ms=row.received_ms,
        sender=row.sender,
        bytes=row.length,
        patient=_patient(row.patient_id, row.issuer),
        accession=row.accession,
        study_uid=row.study_uid,
    )
    counting = VersionLine(
        which="",
        counts=True,
        at_ms=row.of_received_ms,
        sender=row.of_sender,
        bytes=row.of_length,
        patient=_patient(row.of_patient_id, row.of_issuer),
        accession=row.of_accession,
        study_uid=row.of_study_uid,
    )
    came_last = row.version > row.of_version
    pair = (counting, other) if came_last else (other, counting)
    return ConflictView(
        id=row.id,
        tag=Tag(Level.ATTENTION, "open") if row.open else Tag(Level.QUIET, "decided"),
        title=_title(row),
        sop_uid=row.sop_uid,
        decided_by=row.decided_by,
        versions=tuple(_named(version, which) for version, which in zip(pair, Choice, strict=True)),
        acts=tuple(_acts(row, uid, pair)),
    )


def _title(row: ConflictRow) -> str:
    said = f"{row.detail} differs" if row.detail else f"other {row.kind}"
    return said[0].upper() + said[1:]


def _named(version: VersionLine, which: Choice) -> VersionLine:
    return VersionLine(
        which=which,
        counts=version.counts,
        at_ms=version.at_ms,
        sender=version.sender,
        bytes=version.bytes,
        patient=version.patient,
        accession=version.accession,
        study_uid=version.study_uid,
    )


def _patient(patient_id: str, issuer: str) -> str:
    return f"{patient_id or 'none'} ({issuer})" if issuer else patient_id or "none"


def _acts(row: ConflictRow, uid: str, pair: Sequence[VersionLine]) -> Iterable[Button]:
    for version, which in zip(pair, Choice, strict=True):
        if version.counts and not row.open:
            continue
        then = (
            "Nothing else changes."
            if version.counts
            else "Jobs and unsent results made from the other one are void, and the study is "
            "decided again once it is not held."
        )
        yield Button(
            f"keep-{row.id}-{which}",
            f"The {which} counts",
            f"/studies/{uid}/conflicts/{row.id}/keep/{which}",
            f"Both stay stored; the one that came {which} counts from now on. {then}",
            f"Yes, the {which} counts",
        )


def _for_all(uid: str, waiting: int, other_patients: int) -> Iterable[Button]:
    if waiting < 2 and not other_patients:
        return
    for which in Choice:
        if which is Choice.FIRST and waiting < 2:
            continue
        whose = (
            f" The study is from then on that of the patient whose instance came {which}."
            if other_patients and which is Choice.LAST
            else ""
        )
        yield Button(
            f"keep-all-{which}",
            f"The {which} of all count",
            f"/studies/{uid}/conflicts/keep/{which}",
            f"{count(waiting, 'conflict')} without a decision: what came {which} counts.{whose} "
            "A study that is held stays held until it is released.",
            f"Yes, the {which} of all",
        )


def _others(number: int) -> str:
    if not number:
        return ""
    are = "instance is" if number == 1 else "instances are"
    return (
        f"{number} {are} of another patient, though with this study's UID: kept, but nothing is "
        "made of them."
    )
