"""The audit, for administrators: who did what, newest first, and whether the chain is whole."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from node.web.context import render, web_of
from node.web.people import require
from node.web.verdict import Level, Tag
from storage.audit import ChainCheck, list_audit, verify_chain
from storage.database import reading
from storage.users import Role

PAGE: Final = 100
"""Rows on one page."""


def audit_page(request: Request) -> Response:
    """Show the audit."""
    person = require(request, Role.ADMIN)
    given = request.query_params.get("before", "")
    before = int(given) if given.isascii() and given.isdigit() and len(given) < 16 else None
    with reading(web_of(request).engine) as db:
        rows = list_audit(db, before_id=before, limit=PAGE + 1)
        chain = verify_chain(db)
    values = {
        "title": "Audit",
        "lines": rows[:PAGE],
        "older": f"/audit?before={rows[PAGE - 1].id}" if len(rows) > PAGE else "",
        "chain": Tag(Level.WELL, "whole") if chain.intact else Tag(Level.STOPPED, "broken"),
        "chain_sentence": _sentence(chain),
    }
    return render(request, "audit.html", values, person=person, here="audit")


def _sentence(chain: ChainCheck) -> str:
    if chain.intact:
        return f"Every digest fits the row before it, over {chain.rows} rows."
    return (
        f"Row {chain.broken_id} does not fit the row before it: a row was changed or taken out. "
        "Keep a copy of the database and find out who could write to it."
    )
