"""What a person may do to a study: release, requeue, cancel, resend.

Each act checks that job or delivery belongs to the study in its address, makes one move of
`storage`, and leaves an audit row in the same transaction. A move that the row's state no longer
allows changes nothing; the page then says that someone or something was faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from node.web.addresses import number_of, uid_of
from node.web.context import web_of
from node.web.forms import Form
from node.web.people import Person
from storage import audit, deliveries, queue, studies
from storage.database import Connection, writing
from storage.studies import StudyRow

SAID: Final = {
    "released": "The study is released. It settles again and goes on by itself.",
    "requeued": "The job is back in the queue.",
    "cancelled": "The job is cancelled.",
    "resent": "The result will be sent again.",
    "kept": "Decided. Both are still stored.",
    "kept-sent": "Decided. Peers have results that were made from what does not count any more: "
    "have them removed there. The audit names the deliveries.",
    "too-late": "Nothing was changed: the state had changed in the meantime. See below.",
}
"""What the study's page says after an act, by the code in its address."""


def release(request: Request, _form: Form, person: Person) -> Response:
    """Let a held study go on."""
    return _do(request, person, _release, act="release", said="released")


def requeue(request: Request, _form: Form, person: Person) -> Response:
    """Run a job again."""
    job_id = number_of(request, "job")
    return _do(
        request,
        person,
        _on_job(job_id, _requeue),
        act="requeue",
        said="requeued",
        part=f"job {job_id}",
    )


def cancel(request: Request, _form: Form, person: Person) -> Response:
    """Take a job out of the queue or off its worker."""
    job_id = number_of(request, "job")
    reason = f"Cancelled by {person.name}."
    move = _on_job(job_id, lambda db, job_id: queue.cancel(db, job_id, reason))
    return _do(request, person, move, act="cancel", said="cancelled", part=f"job {job_id}")


def resend(request: Request, _form: Form, person: Person) -> Response:
    """Send a result to its peer again."""
    delivery_id = number_of(request, "delivery")

    def move(db: Connection, study: StudyRow) -> bool:
        found = deliveries.find_delivery(db, delivery_id)
        if found is None or found.study_id != study.id:
            raise _absent("delivery", delivery_id)
        return deliveries.resend(db, delivery_id) is not None

    return _do(request, person, move, act="resend", said="resent", part=f"delivery {delivery_id}")


Move = Callable[[Connection, StudyRow], bool]


def _do(
    request: Request, person: Person, move: Move, *, act: str, said: str, part: str = ""
) -> Response:
    """Make one move on a study and write down who made it."""
    uid = uid_of(request)
    with writing(web_of(request).engine) as db:
        study = studies.find_study(db, uid)
        if study is None:
            raise HTTPException(404, "This node has no study with that UID.")
        moved = move(db, study)
        if moved:
            audit.record(db, person.name, act, f"study {uid}", part)
    code = said if moved else "too-late"
    return RedirectResponse(f"/studies/{uid}?said={code}", status_code=303)


def _release(db: Connection, study: StudyRow) -> bool:
    return studies.release(db, study.id) or deliveries.release_held(db, study.id)


def _requeue(db: Connection, job_id: int) -> bool:
    return queue.requeue(db, job_id) is not None


def _on_job(job_id: int, act: Callable[[Connection, int], bool]) -> Move:
    def move(db: Connection, study: StudyRow) -> bool:
        found = queue.find_job(db, job_id)
        if found is None or found.study_id != study.id:
            raise _absent("job", job_id)
        return act(db, job_id)

    return move


def _absent(what: str, number: int) -> HTTPException:
    return HTTPException(404, f"This study has no {what} {number}.")
