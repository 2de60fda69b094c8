"""Who asks: sessions, roles, and the checks that every act passes.

The browser holds a random token in a cookie (HttpOnly, SameSite=Strict); the database holds its
SHA-256 alone. Each session has a second random token that every form must bring back, so that a
page of another site cannot act in a signed-in person's name. `acting` is the only way to a
handler that changes something: a handler cannot forget a check.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from node.web.context import Web, web_of
from node.web.forms import Form, read_form
from storage import users
from storage.database import reading
from storage.users import Role

_RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
"""Each role may do what those before it may."""


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in person.

    Attributes:
        name: As it is written into the audit.
        role: What they may do.
        csrf: The token that their forms bring back.
        token_digest: Which session this is.
    """

    name: str
    role: Role
    csrf: str
    token_digest: str

    def may(self, role: Role) -> bool:
        """Say whether this person may do what `role` may."""
        return _RANK[self.role] >= _RANK[role]

    @property
    def may_act(self) -> bool:
        """May release, requeue, resend and cancel."""
        return self.may(Role.OPERATOR)

    @property
    def may_administer(self) -> bool:
        """May see the audit."""
        return self.may(Role.ADMIN)


class SignedOut(Exception):  # noqa: N818 - named for what is so
    """The request came without a valid session; the application sends people to sign in."""


def cookie_name(web: Web) -> str:
    """Return the session cookie's name; the port is in it because cookies ignore ports."""
    return f"limner_{web.settings.web.port}"


def digest_of(token: str) -> str:
    """Return what the database keeps of a session's token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def find_person(request: Request) -> Person | None:
    """Return who is signed in, or None."""
    web = web_of(request)
    token = request.cookies.get(cookie_name(web), "")
    if not token:
        return None
    digest = digest_of(token)
    with reading(web.engine) as db:
        found = users.find_session(db, digest)
    if found is None:
        return None
    return Person(found.user.name, found.user.role, found.session.csrf, digest)


def require(request: Request, role: Role = Role.VIEWER) -> Person:
    """Return who is signed in.

    Raises:
        SignedOut: Nobody is.
        HTTPException: 403 when they may not.
    """
    person = find_person(request)
    if person is None:
        raise SignedOut
    if not person.may(role):
        raise HTTPException(
            403,
            f"This needs the role {role}; {person.name} is {person.role}. Ask an administrator.",
        )
    return person


def same_token(given: str, wanted: str) -> bool:
    """Compare two tokens in constant time; an empty one never fits."""
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())


Act = Callable[[Request, Form, Person], Response]


def acting(role: Role, act: Act) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that runs `act` for a signed-in person of `role` with a genuine form."""

    async def endpoint(request: Request) -> Response:
        form = await read_form(request)
        person = await run_in_threadpool(require, request, role)
        if not same_token(form.get("csrf", ""), person.csrf):
            raise HTTPException(
                403,
                "The form is from an older page, or not from a page of this node. Go back, reload "
                "the page and try again.",
            )
        return await run_in_threadpool(act, request, form, person)

    return endpoint
