"""Forms as they arrive: bounded, URL-encoded, each name once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

LONGEST_BYTES: Final = 8192
"""Our forms have a few short fields; a longer body is refused before it is read."""

Form = Mapping[str, str]


async def read_form(request: Request) -> Form:
    """Return the fields of a posted form.

    Raises:
        HTTPException: 415 for another kind of body, 413 for a long one, 400 for a broken one.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "A form sends application/x-www-form-urlencoded.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BYTES:
            raise HTTPException(413, f"The form is longer than {LONGEST_BYTES} bytes.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise HTTPException(400, "The form could not be read.") from error
    return dict(pairs)
