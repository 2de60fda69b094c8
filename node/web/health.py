"""For machines that watch the node: alive, ready, and numbers in Prometheus's text form.

None of these names a patient or a study. `/health/live` and `/health/ready` answer anyone who can
reach the port. `/metrics` answers this machine without a sign-in, others only with one: peers and
queue lengths are nobody else's business.
"""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from node.web.context import Web, web_of
from storage.database import check_schema
from storage.errors import StorageError

MEBI: Final = 1024 * 1024


def live(_request: Request) -> Response:
    """Answer that the process is up; nothing else is looked at."""
    return PlainTextResponse("The web process is up.\n")


def ready(request: Request) -> Response:
    """Answer 200 when the node can do its work, else 503 with a sentence for each reason."""
    faults = list(_faults(web_of(request)))
    if not faults:
        return PlainTextResponse("Ready.\n")
    return PlainTextResponse("".join(f"{fault}\n" for fault in faults), status_code=503)


def _faults(web: Web) -> Iterable[str]:
    try:
        check_schema(web.engine)
    except StorageError as error:
        # `where` is left out: it names hosts and folders, and anyone may ask this page.
        yield f"{error.what} {error.remedy}"
    try:
        free = shutil.disk_usage(web.store.folder).free
    except OSError:
        yield "The folder of the stored objects cannot be read. Check the disk."
    else:
        if free < web.settings.storage.reserve_mb * MEBI:
            yield "The disk is below its reserve: instances are refused. Free space or add a disk."


def is_loopback(request: Request) -> bool:
    """Say whether the caller is on this machine; behind a proxy it is the proxy's caller."""
    if request.client is None:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
