"""What comes in a page's address: numbers and UIDs, bounded before a database sees them."""

from __future__ import annotations

import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

_UID: Final = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
"""Row numbers beyond this do not exist; a database driver would stumble over 2**63."""


def uid_of(request: Request) -> str:
    """Return the study UID of the address.

    Raises:
        HTTPException: 404 when it is none.
    """
    uid = str(request.path_params["uid"])
    if not _UID.fullmatch(uid):
        raise HTTPException(
            404, "That is not a study UID. Look for the study by patient or accession number."
        )
    return uid


def number_of(request: Request, name: str) -> int:
    """Return a row number of the address.

    Raises:
        HTTPException: 404 when it cannot exist.
    """
    given = str(request.path_params[name])
    if not _NUMBER.fullmatch(given):
        raise HTTPException(404, "There is nothing with that number.")
    return int(given)


def plain_text(text: str, longest: int) -> str:
    """Return what a person typed, without control characters, cut to `longest`."""
    return "".join(sign for sign in text if sign.isprintable()).strip()[:longest]
