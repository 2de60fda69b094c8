"""Overlay pictures: bytes that the worker stored beside a result, served as they are.

`results.pictures` is `{"object": name, "index": [[offset, length], ...]}`, one entry per slice.
Nothing is decoded here. Only numbers come from the address; the object's name comes from the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from node.web.addresses import number_of, uid_of
from node.web.context import web_of
from node.web.people import require
from storage import results, studies
from storage.database import reading
from storage.objects import Place


def picture(request: Request) -> Response:
    """Send slice `number` (from 1) of a result's pictures."""
    require(request)
    web = web_of(request)
    result_id = number_of(request, "result")
    with reading(web.engine) as db:
        study = studies.find_study(db, uid_of(request))
        found = results.find_result(db, result_id) if study else None
    if study is None or found is None or found.study_id != study.id:
        raise HTTPException(404, "This study has no such result.")
    place = place_of(found.pictures, number_of(request, "number"))
    if place is None:
        raise HTTPException(404, "This result has no picture with that number.")
    return Response(web.store.read(place), media_type="image/jpeg")


def slices_of(pictures: Mapping[str, Any]) -> int:
    """Return how many pictures a result has."""
    index = pictures.get("index", [])
    return len(index) if isinstance(index, list) else 0


def place_of(pictures: Mapping[str, Any], number: int) -> Place | None:
    """Return where picture `number` (from 1) lies, or None if there is none."""
    if not 1 <= number <= slices_of(pictures):
        return None
    offset, length = pictures["index"][number - 1]
    return Place(name=str(pictures["object"]), offset=int(offset), length=int(length))
