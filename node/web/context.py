"""What every handler is given, and how a page is rendered from a template.

One value, made once in `make_app`, holds settings, database, object store and clock. Templates
escape everything: patient names come from outside and land in a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from node.settings import Settings
from node.web import words
from storage.database import Engine
from storage.objects import ObjectStore

if TYPE_CHECKING:
    from node.web.people import Person

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Link:
    """Somewhere to go next."""

    href: str
    label: str


@dataclass(frozen=True, slots=True)
class Web:
    """The parts that the handlers share.

    Attributes:
        settings: The configuration in force.
        engine: The database.
        store: Where result pictures lie.
        now_ms: The clock: milliseconds since 1970 UTC.
        zone: The time zone that pages show.
        templates: The page templates.
    """

    settings: Settings
    engine: Engine
    store: ObjectStore
    now_ms: Callable[[], int]
    zone: words.Zone
    templates: Environment


def make_templates() -> Environment:
    """Return the page templates with their filters; every value is escaped."""
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "age": words.age,
        "duration": words.duration,
        "size": words.size,
        "person": words.person,
        "dicom_date": words.dicom_date,
    }
    return templates


def web_of(request: Request) -> Web:
    """Return the shared parts of the application that `request` came to."""
    web: Web = request.app.state.web
    return web


def render(
    request: Request,
    template: str,
    values: Mapping[str, object],
    *,
    person: Person | None,
    here: str = "",
    status: int = 200,
) -> HTMLResponse:
    """Return a page.

    Args:
        request: Tells the application.
        template: File name in `templates/`.
        values: What the template shows.
        person: Who is signed in; decides what the bar on top offers.
        here: Which entry of the bar is the present page.
        status: HTTP status.
    """
    web = web_of(request)
    text = web.templates.get_template(template).render(
        {
            "node_name": web.settings.node.name,
            "zone": web.zone,
            "now_ms": web.now_ms(),
            "person": person,
            "csrf": person.csrf if person else "",
            "here": here,
            "title": "",
            **values,
        }
    )
    return HTMLResponse(text, status_code=status)


def message(
    request: Request,
    title: str,
    *lines: str,
    status: int,
    person: Person | None,
    links: tuple[Link, ...] = (Link("/", "Now"), Link("/studies", "Studies")),
) -> HTMLResponse:
    """Return a page that says one thing: what happened and where to go."""
    values = {"title": title, "lines": lines, "links": links}
    return render(request, "message.html", values, person=person, status=status)
