"""The list of studies: searched, filtered, newest first, a page at a time.

The filter lives in the address, so that a link or a reload shows the same list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from node.web.addresses import plain_text
from node.web.context import Web, render, web_of
from node.web.people import require
from node.web.stages import study_tag
from node.web.verdict import Level, Tag
from node.web.words import count
from storage.conflict_rows import ConflictCount, conflict_counts
from storage.database import reading
from storage.studies import StudyRow, list_studies
from storage.tables import StudyState

PAGE: Final = 50
"""Studies on one page."""


@dataclass(frozen=True, slots=True)
class Query:
    """What the list is asked for."""

    search: str = ""
    state: StudyState | None = None
    needs: bool = False
    before_ms: int | None = None

    @property
    def is_filtered(self) -> bool:
        """Whether anything narrows the list."""
        return bool(self.search or self.state or self.needs)

    def address(self, before_ms: int | None) -> str:
        """Return the address of this list, from `before_ms` on."""
        pairs = {
            "search": self.search,
            "state": self.state or "",
            "needs": "1" if self.needs else "",
            "before": str(before_ms) if before_ms is not None else "",
        }
        given = urlencode({name: value for name, value in pairs.items() if value})
        return f"/studies?{given}" if given else "/studies"


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One row of the list."""

    uid: str
    tag: Tag
    patient_name: str
    patient_id: str
    accession: str
    description: str
    study_date: str
    sentence: str
    received_ms: int
    conflicts: Tag | None


def query_of(request: Request) -> Query:
    """Read the filter from the address; what makes no sense there is as if it were absent."""
    given = request.query_params
    state = given.get("state", "")
    before = given.get("before", "")
    return Query(
        search=plain_text(given.get("search", ""), 128),
        state=StudyState(state) if state in set(StudyState) else None,
        needs=given.get("needs") == "1",
        before_ms=int(before)
        if before.isascii() and before.isdigit() and len(before) < 16
        else None,
    )


def find_lines(web: Web, query: Query) -> tuple[tuple[StudyLine, ...], int | None]:
    """Return one page of the list, and where the next one begins, if there is one."""
    with reading(web.engine) as db:
        rows = list_studies(
            db,
            query.search,
            state=query.state,
            needs_person=True if query.needs else None,
            limit=PAGE + 1,
            before_ms=query.before_ms,
        )
        doubts = conflict_counts(db, [row.id for row in rows])
    shown = rows[:PAGE]
    older = shown[-1].last_received_ms if len(rows) > PAGE else None
    return tuple(_line(row, doubts.get(row.id)) for row in shown), older


def studies_page(request: Request) -> Response:
    """Show the list."""
    person = require(request)
    query = query_of(request)
    lines, older = find_lines(web_of(request), query)
    values = {
        "title": "Studies",
        "query": query,
        "states": list(StudyState),
        "lines": lines,
        "caption": _caption(lines, query, more=older is not None),
        "older": query.address(older) if older is not None else "",
        "newest": query.address(None) if query.before_ms is not None else "",
    }
    return render(request, "studies.html", values, person=person, here="studies")


def _line(row: StudyRow, doubts: ConflictCount | None) -> StudyLine:
    return StudyLine(
        uid=row.uid,
        tag=study_tag(row),
        patient_name=row.patient_name,
        patient_id=row.patient_id,
        accession=row.accession,
        description=row.description,
        study_date=row.study_date,
        sentence=row.sentence,
        received_ms=row.last_received_ms,
        conflicts=_conflicts(doubts),
    )


def _conflicts(doubts: ConflictCount | None) -> Tag | None:
    if doubts is None:
        return None
    level = Level.ATTENTION if doubts.open else Level.QUIET
    return Tag(level, count(doubts.open or doubts.number, "conflict"))


def _caption(lines: Sequence[StudyLine], query: Query, *, more: bool) -> str:
    if lines:
        number = (
            f"the first {len(lines)} studies" if more else count(len(lines), "study", "studies")
        )
        return f"{number[0].upper()}{number[1:]}, newest first"
    if query.is_filtered:
        return (
            "No study fits. The search looks at the start of patient ID, accession number and "
            "study UID, and anywhere in the patient's name."
        )
    return "No study has arrived yet."
