"""One study's page: who it is, what happened to it step by step, its results with pictures."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from node.web.acts import SAID
from node.web.addresses import uid_of
from node.web.conflicts import Conflicts, arrange_conflicts
from node.web.context import Web, render, web_of
from node.web.people import require
from node.web.pictures import slices_of
from node.web.stages import study_tag, verdict_tag
from node.web.timeline import Button, Step, findings_of, segments_of, study_buttons, tell
from node.web.verdict import Tag
from storage.database import reading
from storage.results import ResultRow
from storage.story import StudyStory, story
from storage.studies import SeriesRow, find_study
from storage.tables import JobState, StudyState


@dataclass(frozen=True, slots=True)
class SegmentLine:
    """One segment of a result and its volume in words; or a finding and its probability."""

    label: str
    volume: str


@dataclass(frozen=True, slots=True)
class ResultView:
    """A result and its pictures.

    Attributes:
        pictures: Address of the pictures, without the number.
        slices: How many there are.
        shown: The one that is shown first, from 1.
    """

    id: int
    title: str
    tag: Tag
    reasons: tuple[str, ...]
    segments: tuple[SegmentLine, ...]
    pictures: str
    slices: int
    shown: int
    provenance: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One series as received."""

    modality: str
    description: str
    uid: str
    instances: int


@dataclass(frozen=True, slots=True)
class StudyView:
    """Everything on the page."""

    uid: str
    patient_name: str
    patient_id: str
    issuer: str
    accession: str
    description: str
    study_date: str
    revision: int
    tag: Tag
    sentence: str
    acts: tuple[Button, ...]
    steps: tuple[Step, ...]
    results: tuple[ResultView, ...]
    no_results: str
    series: tuple[SeriesLine, ...]
    associations: int
    conflicts: Conflicts


def study_page(request: Request) -> Response:
    """Show one study."""
    person = require(request)
    given = request.query_params.get("slice", "")
    shown = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else None
    view = find_view(web_of(request), uid_of(request), shown=shown)
    values = {
        "title": "Study",
        "view": view,
        "said": SAID.get(request.query_params.get("said", ""), ""),
    }
    return render(request, "study.html", values, person=person, here="studies")


def find_view(web: Web, uid: str, *, shown: int | None = None) -> StudyView:
    """Read a study and arrange it.

    Args:
        web: The shared parts.
        uid: Study Instance UID.
        shown: The slice to show first; None for the middle one.

    Raises:
        HTTPException: 404 when there is no such study.
    """
    with reading(web.engine) as db:
        study = find_study(db, uid)
        found = story(db, study.id) if study else None
    if found is None:
        raise HTTPException(
            404,
            f"This node has no study with the UID {uid}. If the scanner says it sent it, look at "
            "the Now page whether the listener is alive and when the scanner was last heard; "
            "otherwise look for the study by patient or accession number.",
        )
    return arrange(found, now_ms=web.now_ms(), shown=shown)


def arrange(found: StudyStory, *, now_ms: int, shown: int | None) -> StudyView:
    """Make the page from a study's story; pure."""
    study = found.study
    results = [made.result for work in found.jobs for made in work.results]
    return StudyView(
        uid=study.uid,
        patient_name=study.patient_name,
        patient_id=study.patient_id,
        issuer=study.issuer,
        accession=study.accession,
        description=study.description,
        study_date=study.study_date,
        revision=study.revision,
        tag=study_tag(study),
        sentence=study.sentence or _sentence(found),
        acts=study_buttons(study),
        steps=tell(found, now_ms=now_ms),
        results=tuple(_result(result, study.uid, shown) for result in reversed(results)),
        no_results=_no_results(found),
        series=tuple(_series(series) for series in found.series),
        associations=len(found.associations),
        conflicts=arrange_conflicts(found.conflicts, study.uid, found.other_patients),
    )


def _sentence(found: StudyStory) -> str:
    """Return what goes on where the rows have no sentence of their own yet."""
    states = {work.job.state for work in found.jobs}
    if found.study.state is StudyState.ARRIVING:
        return "Images are arriving; the study settles when none have come for the quiet period."
    if JobState.RUNNING in states:
        return "A model is running."
    if JobState.QUEUED in states:
        return "A job waits for a worker."
    if found.study.state is StudyState.SETTLED:
        return "The study has settled; the steps below say what happens."
    return ""


def _no_results(found: StudyStory) -> str:
    if not found.jobs:
        return "None. No job was queued for this study; the steps say why."
    if all(work.job.state is JobState.DONE for work in found.jobs):
        return "None. The jobs ended without a result; the steps say why."
    return "None yet."


def _result(result: ResultRow, uid: str, shown: int | None) -> ResultView:
    slices = slices_of(result.pictures)
    wanted = shown if shown is not None else (slices + 1) // 2
    replaced = ", replaced by a newer one" if result.superseded_by is not None else ""
    encoding = f" {result.encoding}" if result.encoding else ""
    return ResultView(
        id=result.id,
        title=f"{result.kind} by {result.model}{replaced}",
        tag=verdict_tag(str(result.summary.get("verdict", ""))),
        reasons=tuple(str(reason) for reason in result.summary.get("reasons", ())),
        segments=tuple(SegmentLine(*line) for line in (*segments_of(result), *findings_of(result))),
        pictures=f"/studies/{uid}/results/{result.id}/pictures",
        slices=slices,
        shown=min(max(wanted, 1), max(slices, 1)),
        provenance=f"{result.kind}{encoding}, model {result.model} {result.model_version}, "
        f"weights {result.model_digest[:12]}",
        sop_uid=result.sop_uid,
    )


def _series(series: SeriesRow) -> SeriesLine:
    return SeriesLine(
        modality=series.modality,
        description=str(series.header.get("SeriesDescription", "")),
        uid=series.uid,
        instances=series.instance_count,
    )
