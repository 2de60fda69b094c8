"""The web application: which address leads where, and what is said when something goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from node.settings import Settings
from node.web import (
    acts,
    api,
    associations,
    auditing,
    callers,
    conflicts,
    health,
    metrics,
    now,
    pictures,
    signin,
    studies,
    study,
)
from node.web.context import HERE, Web, make_templates, message
from node.web.guard import HEADERS, Guard, known_names
from node.web.people import SignedOut, acting, find_person
from node.web.words import Zone
from storage.database import Engine
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.users import Role


def make_app(
    settings: Settings, engine: Engine, store: ObjectStore, *, now_ms: Callable[[], int]
) -> Starlette:
    """Return the application.

    Args:
        settings: The configuration in force.
        engine: The database.
        store: Where result pictures lie.
        now_ms: The clock: milliseconds since 1970 UTC.
    """
    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Guard, names=known_names(settings.web.host))],
        exception_handlers={
            SignedOut: _signed_out,
            HTTPException: _refused,
            StorageError: _storage_fault,
            Exception: _bug,
        },
    )
    app.state.web = Web(
        settings=settings,
        engine=engine,
        store=store,
        now_ms=now_ms,
        zone=Zone(settings.node.time_zone),
        templates=make_templates(),
    )
    return app


def _routes() -> list[Route | Mount]:
    one = "/studies/{uid}"
    return [
        Route("/", now.now_page),
        Route("/studies", studies.studies_page),
        Route(one, study.study_page),
        Route(one + "/results/{result}/pictures/{number}", pictures.picture),
        Route(one + "/release", acting(Role.OPERATOR, acts.release), methods=["POST"]),
        Route(one + "/jobs/{job}/requeue", acting(Role.OPERATOR, acts.requeue), methods=["POST"]),
        Route(one + "/jobs/{job}/cancel", acting(Role.OPERATOR, acts.cancel), methods=["POST"]),
        Route(
            one + "/deliveries/{delivery}/resend",
            acting(Role.OPERATOR, acts.resend),
            methods=["POST"],
        ),
        Route(
            one + "/conflicts/keep/{choice}",
            acting(Role.OPERATOR, conflicts.keep_all),
            methods=["POST"],
        ),
        Route(
            one + "/conflicts/{conflict}/keep/{choice}",
            acting(Role.OPERATOR, conflicts.keep),
            methods=["POST"],
        ),
        Route("/associations", associations.associations_page),
        Route("/callers", callers.callers_page),
        Route("/callers/{caller}/accept", acting(Role.ADMIN, callers.accept), methods=["POST"]),
        Route("/callers/{caller}/forget", acting(Role.ADMIN, callers.forget), methods=["POST"]),
        Route("/audit", auditing.audit_page),
        Route("/sign-in", signin.signin_page, methods=["GET"]),
        Route("/sign-in", signin.sign_in, methods=["POST"]),
        Route("/sign-out", acting(Role.VIEWER, signin.sign_out), methods=["POST"]),
        Route("/api/now", api.now_json),
        Route("/api/studies", api.studies_json),
        Route("/api/studies/{uid}", api.study_json),
        Route("/health/live", health.live),
        Route("/health/ready", health.ready),
        Route("/metrics", metrics.metrics),
        Route("/favicon.ico", _favicon),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]


def _favicon(_request: Request) -> Response:
    return RedirectResponse("/static/favicon.svg", status_code=301)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith(("/api/", "/metrics"))


async def _signed_out(request: Request, _error: Exception) -> Response:
    if _is_api(request):
        return JSONResponse({"error": "Sign in first."}, status_code=401)
    back = request.url.path if request.method == "GET" else "/"
    if request.url.query and request.method == "GET":
        back = f"{back}?{request.url.query}"
    to = "" if back == "/" else f"?to={quote(back, safe='')}"
    return RedirectResponse(f"/sign-in{to}", status_code=303)


_TITLES = {
    400: "That request could not be read",
    403: "That is not allowed",
    404: "There is no such page",
    405: "That address takes another kind of request",
    413: "That is too long",
    415: "That is not a form",
}


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else ""
    if _is_api(request):
        return JSONResponse({"error": detail}, status_code=status)
    if detail in {"Not Found", "Method Not Allowed"}:  # Starlette's own words say no more
        detail = "Check the address, or start from one of these pages."
    person = await run_in_threadpool(find_person, request)
    title = _TITLES.get(status, "That did not work")
    return message(request, title, detail, status=status, person=person)


async def _storage_fault(request: Request, error: Exception) -> Response:
    what = f"{error.what} {error.remedy}" if isinstance(error, StorageError) else ""
    if _is_api(request):
        return JSONResponse({"error": what}, status_code=503)
    title = "The node's storage does not answer"
    return message(request, title, what, status=503, person=None)


async def _bug(_request: Request, _error: Exception) -> Response:
    # Runs outside of `Guard`, so the headers are set here; the server logs the traceback.
    return PlainTextResponse(
        "Something went wrong in this page; the log of the web process says what. The rest of "
        "the node is not touched.\n",
        status_code=500,
        headers={**HEADERS, "cache-control": "no-store"},
    )
