"""The associations: who called the listener, live and past, what they brought, how it ended.

"The scanner says it sent it, why do you not have it" has its answer here, or among the callers
that were refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from pydicom.uid import UID
from starlette.requests import Request
from starlette.responses import Response

from node.web.addresses import plain_text
from node.web.context import Web, render, web_of
from node.web.people import require
from node.web.verdict import Level, Tag
from node.web.words import count
from storage.associations import AssociationOutcome, AssociationRow, list_associations
from storage.database import reading
from storage.studies import find_study

PAGE: Final = 50
"""Associations on one page."""

TAGS: Final = {
    AssociationOutcome.OPEN: Tag(Level.BUSY, "receiving"),
    AssociationOutcome.RELEASED: Tag(Level.WELL, "released"),
    AssociationOutcome.ABORTED: Tag(Level.ATTENTION, "aborted"),
    AssociationOutcome.REJECTED: Tag(Level.STOPPED, "rejected"),
    AssociationOutcome.LOST: Tag(Level.ATTENTION, "connection lost"),
}

_ANSWERS: Final = {
    1: "rejected by us",
    2: "no reason",
    3: "the class is not taken",
    4: "no transfer syntax is taken",
}
"""Results of a presentation context other than acceptance (PS3.8 table 9-18)."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which associations are asked for."""

    peer: str = ""
    study_uid: str = ""
    only_open: bool = False
    before_id: int | None = None

    @property
    def is_filtered(self) -> bool:
        """Whether anything narrows the list."""
        return bool(self.peer or self.study_uid or self.only_open)

    def address(self, before_id: int | None) -> str:
        """Return the address of this list, from `before_id` on."""
        pairs = {
            "peer": self.peer,
            "study": self.study_uid,
            "open": "1" if self.only_open else "",
            "before": str(before_id) if before_id is not None else "",
        }
        given = urlencode({name: value for name, value in pairs.items() if value})
        return f"/associations?{given}" if given else "/associations"


@dataclass(frozen=True, slots=True)
class AssociationLine:
    """One row of the list.

    Attributes:
        took_ms: How long it lasted, or has lasted so far.
        contexts: What was asked for, a line for each class: name, transfer syntax or refusal.
        accepted: How many of the contexts were accepted.
    """

    id: int
    tag: Tag
    peer: str
    calling_ae: str
    address: str
    secure: bool
    software: str
    started_ms: int
    took_ms: int
    instances: int
    refused: int
    bytes: int
    reason: str
    contexts: tuple[str, ...]
    accepted: int


def query_of(request: Request) -> Query:
    """Read the filter from the address; what makes no sense there is as if it were absent."""
    given = request.query_params
    before = given.get("before", "")
    return Query(
        peer=plain_text(given.get("peer", ""), 64),
        study_uid=plain_text(given.get("study", ""), 64),
        only_open=given.get("open") == "1",
        before_id=int(before)
        if before.isascii() and before.isdigit() and len(before) < 16
        else None,
    )


def find_lines(web: Web, query: Query) -> tuple[tuple[AssociationLine, ...], int | None]:
    """Return one page of the list, and where the next one begins, if there is one."""
    with reading(web.engine) as db:
        study = find_study(db, query.study_uid) if query.study_uid else None
        if query.study_uid and study is None:
            return (), None
        rows = list_associations(
            db,
            peer=query.peer or None,
            study_id=study.id if study else None,
            only_open=query.only_open,
            before_id=query.before_id,
            limit=PAGE + 1,
        )
    shown = rows[:PAGE]
    older = shown[-1].id if len(rows) > PAGE else None
    return tuple(_line(row, web.now_ms()) for row in shown), older


def associations_page(request: Request) -> Response:
    """Show the list."""
    person = require(request)
    query = query_of(request)
    lines, older = find_lines(web_of(request), query)
    values = {
        "title": "Associations",
        "query": query,
        "lines": lines,
        "caption": _caption(len(lines), query, more=older is not None),
        "older": query.address(older) if older is not None else "",
        "newest": query.address(None) if query.before_id is not None else "",
    }
    return render(request, "associations.html", values, person=person, here="associations")


def _line(row: AssociationRow, now_ms: int) -> AssociationLine:
    end_ms = now_ms if row.ended_ms is None else row.ended_ms
    return AssociationLine(
        id=row.id,
        tag=TAGS[row.outcome],
        peer=row.peer,
        calling_ae=row.calling_ae,
        address=row.address,
        secure=row.secure,
        software=row.software,
        started_ms=row.started_ms,
        took_ms=end_ms - row.started_ms,
        instances=row.instances,
        refused=row.refused,
        bytes=row.bytes,
        reason=row.reason,
        contexts=tuple(_context(one) for one in row.contexts),
        accepted=sum(one.get("result") == 0 for one in row.contexts),
    )


def _context(context: dict[str, object]) -> str:
    name = UID(str(context.get("class", ""))).name
    result = context.get("result")
    if result == 0:
        return f"{name}: {UID(str(context.get('syntax', ''))).name}"
    why = _ANSWERS.get(result if isinstance(result, int) else -1, "not accepted")
    return f"{name}: not accepted, {why}"


def _caption(number: int, query: Query, *, more: bool) -> str:
    if number:
        text = f"the first {number} associations" if more else count(number, "association")
        return f"{text[0].upper()}{text[1:]}, newest first"
    if query.study_uid:
        return "No association brought instances of this study."
    if query.is_filtered:
        return "No association fits. The search wants a peer's name or AE title as a whole."
    return "Nobody has called yet."
