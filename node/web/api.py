"""The same data as the pages, as JSON, for scripts with a signed-in session."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node.web.addresses import uid_of
from node.web.context import web_of
from node.web.now import look
from node.web.people import require
from node.web.studies import find_lines, query_of
from node.web.study import find_view

SCHEMA: Final = 1
"""Grows when a field changes its meaning or goes; new fields do not count."""


def now_json(request: Request) -> Response:
    """Give what the Now page shows."""
    require(request)
    return JSONResponse({"schema": SCHEMA, **asdict(look(web_of(request)))})


def studies_json(request: Request) -> Response:
    """Give one page of the list; `older` is where the next one begins."""
    require(request)
    query = query_of(request)
    lines, older = find_lines(web_of(request), query)
    next_page = query.address(older).replace("/studies", "/api/studies", 1) if older else None
    studies = [asdict(line) for line in lines]
    return JSONResponse({"schema": SCHEMA, "studies": studies, "older": next_page})


def study_json(request: Request) -> Response:
    """Give one study with its steps and results."""
    require(request)
    view = find_view(web_of(request), uid_of(request))
    return JSONResponse({"schema": SCHEMA, **asdict(view)})
