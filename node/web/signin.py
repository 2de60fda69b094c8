"""Sign-in and sign-out.

Every failure says the same, whether the name is unknown, the password wrong or the account
locked, and costs the same work, so that an answer does not tell which names exist. The sign-in
form has a token too (in a cookie of its own): otherwise another site could sign a reader in under
its own account and watch what they do there.
"""

from __future__ import annotations

import secrets
import threading
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from node.web.addresses import plain_text
from node.web.context import Web, render, web_of
from node.web.forms import Form, read_form
from node.web.passwords import LONGEST, verify_password
from node.web.people import Person, cookie_name, digest_of, find_person, same_token
from storage import audit, users
from storage.database import reading, writing

REFUSAL: Final = (
    "Name or password is wrong, or the account is locked: five wrong passwords lock it for 15 "
    "minutes. Ask an administrator if it lasts."
)

_HASHING: Final = threading.BoundedSemaphore(2)
"""One verification takes 64 MiB and a tenth of a second of a core; strangers may not start more
than two at a time."""


def signin_page(request: Request) -> Response:
    """Show the form, or the way to the first account."""
    if find_person(request) is not None:
        return RedirectResponse("/", status_code=303)
    return _form(request)


async def sign_in(request: Request) -> Response:
    """Check name and password and open a session."""
    form = await read_form(request)
    if not same_token(form.get("csrf", ""), request.cookies.get(_form_cookie(request), "")):
        raise HTTPException(
            403,
            "The sign-in form is too old, or cookies are off. Go back, reload the page and try "
            "again.",
        )
    return await run_in_threadpool(_sign_in, request, form)


def sign_out(request: Request, _form: Form, person: Person) -> Response:
    """Close the session that the request came with."""
    web = web_of(request)
    with writing(web.engine) as db:
        users.close_session(db, person.token_digest)
        audit.record(db, person.name, "sign-out", person.name)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(cookie_name(web), httponly=True, samesite="strict")
    return answer


def _sign_in(request: Request, form: Form) -> Response:
    web = web_of(request)
    name, password = plain_text(form.get("name", ""), 64), form.get("password", "")[: LONGEST + 1]
    with reading(web.engine) as db:
        user = users.find_user(db, name)
    with _HASHING:
        fits = verify_password(password, user.password_hash if user else None)
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    if not _open(web, user, token=token, csrf=csrf, fits=fits, address=_address(request)):
        return _form_again(request, form, name)
    answer = RedirectResponse(_inside(form.get("to", "")), status_code=303)
    answer.set_cookie(
        cookie_name(web),
        token,
        max_age=int(web.settings.web.session_h * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    answer.delete_cookie(_form_cookie(request), httponly=True, samesite="strict")
    return answer


def _open(
    web: Web, user: users.UserRow | None, *, token: str, csrf: str, fits: bool, address: str
) -> bool:
    """Write down the outcome of a sign-in; return whether a session was opened."""
    with writing(web.engine) as db:
        if user is None:
            # The name is not written down: people type passwords into the wrong field.
            audit.record(db, "unknown", "sign-in failed", "", f"from {address}")
            return False
        open_ = fits and not user.disabled and not users.is_locked(db, user)
        if not open_:
            users.record_failure(db, user.id)
            audit.record(db, user.name, "sign-in failed", user.name, f"from {address}")
            return False
        users.record_success(db, user.id)
        users.open_session(
            db,
            user.id,
            token_digest=digest_of(token),
            csrf=csrf,
            ttl_ms=int(web.settings.web.session_h * 3_600_000),
        )
        audit.record(db, user.name, "sign-in", user.name, f"from {address}")
    return True


def _form_again(request: Request, form: Form, name: str) -> Response:
    return _form(request, mistake=REFUSAL, name=name, to=form.get("to", ""), status=401)


def _form(
    request: Request, *, mistake: str = "", name: str = "", to: str = "", status: int = 200
) -> Response:
    web = web_of(request)
    with reading(web.engine) as db:
        no_users = users.count_users(db) == 0
    token = secrets.token_urlsafe(32)
    values = {
        "title": "Sign in",
        "mistake": mistake,
        "name": name,
        "no_users": no_users,
        "to": _inside(to or request.query_params.get("to", "")),
        "csrf": token,
    }
    answer = render(request, "signin.html", values, person=None, status=status)
    answer.set_cookie(
        _form_cookie(request),
        token,
        max_age=3600,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def _form_cookie(request: Request) -> str:
    return f"{cookie_name(web_of(request))}_form"


def _inside(path: str) -> str:
    """Return `path` if it leads to a page of this node, else the start page."""
    inside = path.startswith("/") and not path.startswith("//") and path.isprintable()
    return path if inside and "\\" not in path and " " not in path else "/"


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
