"""Who called and was not let in, and the one click that makes a peer of a caller.

What is accepted here is what `limner peers accept` does: a file of its own beside limner.toml.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from node.accepting import NewPeer, accept_caller, wanted_words
from node.errors import SetupError
from node.settings import load_settings
from node.web.addresses import number_of, plain_text
from node.web.context import Link, message, render, web_of
from node.web.forms import Form
from node.web.people import Person, require
from node.web.words import count
from storage import audit
from storage.callers import CallerRow, find_caller, forget_caller, list_callers
from storage.database import reading, writing

MAY: Final = {"store": "send instances (C-STORE)", "echo": "ask whether we are there (C-ECHO)"}
"""What a page offers to allow; the rest is written into limner.toml by hand."""

SAID: Final = {
    "accepted": "Accepted. The running listener takes it up within seconds.",
    "forgotten": "Taken off the list.",
    "too-late": "Nothing was changed: it is not on the list any more.",
}

_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class CallerLine:
    """One row of the list; `name` is what the peer might be called."""

    id: int
    calling_ae: str
    called_ae: str
    address: str
    reason: str
    wanted: str
    count: int
    last_ms: int
    name: str


def callers_page(request: Request) -> Response:
    """Show the list."""
    person = require(request)
    with reading(web_of(request).engine) as db:
        rows = list_callers(db, limit=_SHOWN)
    values = {
        "title": "Refused callers",
        "lines": [_line(row) for row in rows],
        "caption": _caption(rows),
        "may": MAY,
        "said": SAID.get(request.query_params.get("said", ""), ""),
    }
    return render(request, "callers.html", values, person=person, here="associations")


def accept(request: Request, form: Form, person: Person) -> Response:
    """Make a peer of a caller."""
    web = web_of(request)
    caller = _caller(request)
    if caller is None:
        return _back("too-late")
    address = [caller.address] if form.get("from") != "any" else []
    new = NewPeer(
        name=plain_text(form.get("name", ""), 64),
        ae_title=caller.calling_ae,
        may=[word for word in MAY if form.get(f"may-{word}") == "1"],
        addresses=address,
    )
    try:
        # Read again: others may have changed the configuration since this process began.
        settings = load_settings(web.settings.path)
        accept_caller(settings, web.engine, new, [caller], who=person.name)
    except SetupError as error:
        fault = error.fault
        links = (Link("/callers", "Refused callers"), Link("/", "Now"))
        lines = (fault.what, fault.remedy)
        title = "That caller was not accepted"
        return message(request, title, *lines, status=400, person=person, links=links)
    return _back("accepted")


def forget(request: Request, _form: Form, person: Person) -> Response:
    """Take a caller off the list."""
    caller_id = number_of(request, "caller")
    with writing(web_of(request).engine) as db:
        gone = forget_caller(db, caller_id)
        if gone:
            audit.record(db, person.name, "forget", f"caller {caller_id}")
    return _back("forgotten" if gone else "too-late")


def _caller(request: Request) -> CallerRow | None:
    with reading(web_of(request).engine) as db:
        return find_caller(db, number_of(request, "caller"))


def _back(code: str) -> Response:
    if code not in SAID:
        raise HTTPException(500, f"There is no sentence for '{code}'.")
    return RedirectResponse(f"/callers?said={code}", status_code=303)


def _line(row: CallerRow) -> CallerLine:
    return CallerLine(
        id=row.id,
        calling_ae=row.calling_ae,
        called_ae=row.called_ae,
        address=row.address,
        reason=row.reason,
        wanted=wanted_words(row.wanted),
        count=row.count,
        last_ms=row.last_ms,
        name=re.sub(r"[^a-z0-9]+", "-", row.calling_ae.lower()).strip("-"),
    )


def _caption(rows: Sequence[CallerRow]) -> str:
    if not rows:
        return "Nobody was refused."
    more = f"The last {len(rows)} callers" if len(rows) == _SHOWN else count(len(rows), "caller")
    return f"{more}, the most recent first"
