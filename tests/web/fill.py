"""A node's database filled through the functions that the node itself uses, step by step."""

from __future__ import annotations

import hashlib
import io
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from associating import closed, opened
from PIL import Image, ImageDraw

from node.settings import Settings, load_settings
from node.web.passwords import hash_password
from node.web.people import digest_of
from storage import (
    decisions,
    deliveries,
    instances,
    queue,
    results,
    studies,
    users,
    workers,
)
from storage.database import Engine, migrate, open_engine, reading, writing
from storage.objects import ObjectStore, Place
from storage.queue import JobRow
from storage.users import Role

CONFIGURATION = "c" * 64
PASSWORD = "correct horse battery"  # noqa: S105  of people who exist in tests only
WORKER = "work@node:7"
SENDER = "deliver@node:8"
HOUR_MS = 3_600_000

TOML = """
[node]
name = "limner-test"
time_zone = "Europe/Berlin"

[storage]
reserve_mb = 1

[web]
port = {port}

[[peers]]
name = "ct1"
ae_title = "CT1"
may = ["echo", "store"]

[[peers]]
name = "pacs"
ae_title = "MAIN_PACS"
host = "127.0.0.1"
port = 11113
may = ["echo", "commit"]
takes = ["SEG"]
proof = "commitment"

[[routes]]
name = "lungs"
model = "lung-ct"
send_to = ["pacs"]
[routes.when]
Modality = "CT"
"""


@cache
def _hash() -> str:
    """Hash `PASSWORD` once: it costs a tenth of a second each time, as it should."""
    return hash_password(PASSWORD)


def slice_picture(number: int) -> bytes:
    """Return a small JPEG that tells its number."""
    image = Image.new("RGB", (128, 128), (20, 20, 20))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 30, 60, 100), outline=(90, 200, 255), width=2)
    draw.ellipse((68, 30, 108, 100), outline=(255, 170, 60), width=2)
    draw.text((4, 4), f"slice {number}", fill=(255, 255, 255))
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


@dataclass
class Node:
    """A node's settings, database and bytes, with people who may sign in."""

    settings: Settings
    engine: Engine
    store: ObjectStore

    def add_user(self, name: str, role: Role = Role.OPERATOR) -> None:
        """Add a person with `PASSWORD`."""
        with writing(self.engine) as db:
            users.add_user(db, name, password_hash=_hash(), role=role)

    def open_session(self, name: str) -> dict[str, str]:
        """Sign a person in without the form; return the browser's cookie."""
        token = f"token-of-{name}"
        with writing(self.engine) as db:
            user = users.find_user(db, name)
            assert user is not None
            users.open_session(
                db, user.id, token_digest=digest_of(token), csrf=f"csrf-{name}", ttl_ms=12 * HOUR_MS
            )
        return {f"limner_{self.settings.web.port}": token}

    def beat_all(self) -> None:
        """Let every process of a node give a sign of life."""
        with writing(self.engine) as db:
            for pid, kind in enumerate(("listen", "schedule", "work", "deliver", "web"), start=5):
                device = "cpu" if kind == "work" else ""
                name = f"{kind}@node:{pid}"
                workers.beat(
                    db,
                    workers.WorkerBeat(name=name, kind=kind, host="node", pid=pid, device=device),
                )


def make_node(folder: Path, port: int, empty: Path | None = None) -> Node:
    """Return a node with an empty database, a copy of `empty` if that is given."""
    path = folder / "limner.toml"
    path.write_text(TOML.format(port=port), encoding="utf-8")
    settings = load_settings(path)
    if empty is not None:
        settings.node.data.mkdir()
        shutil.copy(empty, settings.node.data / "limner.sqlite")
    engine = open_engine(settings.storage.database_url)
    if empty is None:
        migrate(engine)
    store = ObjectStore(settings.storage.objects, settings.storage.reserve_mb)
    with writing(engine) as db:
        decisions.record_configuration(db, CONFIGURATION, settings.text)
    return Node(settings, engine, store)


@dataclass
class Line:
    """One study on its way; each method is one step of the line."""

    node: Node
    number: int = 7
    patient_name: str = ""
    images: int = 12
    model: str = "lung-ct"
    study_id: int = 0
    series_id: int = 0
    job: JobRow | None = None
    pictures: tuple[bytes, ...] = ()
    volumes_ml: tuple[float, float] = (2514.3, 2203.9)
    result_id: int = 0
    association_id: int = field(default=0)

    @property
    def uid(self) -> str:
        """Study Instance UID."""
        return f"1.2.826.0.1.3680043.8.498.{self.number}"

    def arrive(self) -> Line:
        """Receive the images from ct1 in one association."""
        with writing(self.node.engine) as db:
            self.association_id = opened(
                db, calling_ae="CT1", called_ae="LIMNER", address="192.0.2.10", peer="ct1"
            )
            for image in range(1, self.images + 1):
                self._instance(db, image)
            closed(db, self.association_id, instances=self.images)
        return self

    def _instance(self, db: instances.Connection, image: int) -> None:
        sop_uid = f"{self.uid}.1.{image}"
        made = instances.record_instance(
            db,
            instances.NewInstance(
                study_uid=self.uid,
                series_uid=f"{self.uid}.1",
                sop_uid=sop_uid,
                sop_class="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax="1.2.840.10008.1.2.1",
                digest=hashlib.sha256(sop_uid.encode()).hexdigest(),
                place=Place("instances/ab/x.obj", 0, 1),
                patient_id=f"PHANTOM-{self.number:04}",
                patient_name=self.patient_name or f"PHANTOM^{self.number}",
                accession=f"A{self.number:06}",
                study_date="20261121",
                description="Thorax native",
                modality="CT",
                header={"Modality": "CT", "SeriesDescription": "Lung 2.0 mm"},
                sender="ct1",
                association_id=self.association_id,
            ),
        )
        self.study_id, self.series_id = made.study_id, made.series_id

    def settle(self) -> Line:
        """Make a revision, decide, and queue a job."""
        with writing(self.node.engine) as db:
            study = studies.get_study(db, self.study_id)
            assert study is not None
            revision = studies.make_revision(
                db,
                self.study_id,
                "No image came for 60 s.",
                last_received_ms=study.last_received_ms,
            )
            assert revision is not None
            decision = decisions.record_decision(
                db,
                decisions.NewDecision(
                    revision_id=revision.id,
                    series_id=self.series_id,
                    outcome=decisions.DecisionOutcome.RUN,
                    configuration=CONFIGURATION,
                    route="lungs",
                    model=self.model,
                    reasons=["Modality is CT."],
                ),
            )
            self.job = queue.enqueue_segment(
                db,
                queue.NewJob(
                    study_id=self.study_id,
                    series_id=self.series_id,
                    revision_id=revision.id,
                    decision_id=decision.id,
                    route="lungs",
                    model=self.model,
                    dedup_key=f"{self.number:064}",
                    send_to=["pacs"],
                ),
            )
            studies.mark_decided(db, revision.id)
        return self

    def claim(self) -> Line:
        """Let a worker take the job."""
        with writing(self.node.engine) as db:
            self.job = queue.claim(db, WORKER, 60_000)
            assert self.job is not None
            assert self.job.study_id == self.study_id
            queue.report_stage(db, self.job.id, self.job.attempt, WORKER, "infer", progress=0.62)
        return self

    def fail(self, text: str = "The weights do not match their digest. Copy them again.") -> Line:
        """Let the job fail for good."""
        assert self.job is not None
        with writing(self.node.engine) as db:
            queue.fail(
                db,
                self.job.id,
                self.job.attempt,
                WORKER,
                error_code="weights-digest",
                error_text=text,
                retry_after_ms=None,
            )
            studies.set_sentence(
                db, self.study_id, f"{self.model} failed: {text}", needs_person=True
            )
        return self

    def finish(self) -> Line:
        """Let the job end with a SEG, its pictures and an owed delivery."""
        assert self.job is not None
        pictures = self.pictures or tuple(map(slice_picture, range(1, self.images + 1)))
        offset, index = 0, []
        for picture in pictures:
            index.append([offset, len(picture)])
            offset += len(picture)
        packed = self.node.store.put(b"".join(pictures), kind="pictures")
        place = self.node.store.put(b"SEG", kind="results")
        with writing(self.node.engine) as db:
            assert queue.finish(
                db,
                self.job.id,
                self.job.attempt,
                WORKER,
                "findings",
                seconds={"read": 1.4, "infer": 9.8, "write": 0.9},
            )
            made = results.record_result(
                db,
                results.NewResult(
                    key=f"{self.number:064}",
                    kind="SEG",
                    encoding="BINARY",
                    job_id=self.job.id,
                    study_id=self.study_id,
                    series_id=self.series_id,
                    sop_uid=f"2.25.99{self.number}",
                    sop_class="1.2.840.10008.5.1.4.1.1.66.4",
                    result_series_uid=f"2.25.98{self.number}",
                    transfer_syntax="1.2.840.10008.1.2.1",
                    digest="d" * 64,
                    place=place,
                    model=self.model,
                    model_version="1.0",
                    model_digest=hashlib.sha256(self.model.encode()).hexdigest(),
                    summary={
                        "segments": [
                            {"number": number, "label": label, "voxels": 9, "volume_ml": volume_ml}
                            for number, label, volume_ml in zip(
                                (1, 2), ("Right lung", "Left lung"), self.volumes_ml, strict=True
                            )
                        ],
                        "verdict": "accept",
                        "reasons": [],
                    },
                    pictures={"object": packed.name, "index": index},
                ),
            )
            self.result_id = made.id
            deliveries.owe(db, made.id, self.study_id, "pacs")
        return self

    def deliver(self, *, refused: str = "") -> Line:
        """Send the result and have it committed, or refused with a sentence."""
        with writing(self.node.engine) as db:
            owed = deliveries.claim(db, SENDER, 60_000)
            assert owed is not None
            fence = (owed.id, owed.attempt, SENDER)
            now = owed.created_ms
            deliveries.record_attempt(
                db,
                owed.id,
                number=owed.attempt,
                action="store",
                worker=SENDER,
                started_ms=now,
                ended_ms=now + 380,
                status="0xA900" if refused else "0x0000",
                sentence=refused,
            )
            if refused:
                assert deliveries.mark_refused(db, *fence, status="0xA900", sentence=refused)
                return self
            assert deliveries.mark_sent(db, *fence, status="0x0000")
            asked = f"2.25.77{self.number}"
            deliveries.ask_commitment(db, asked, owed.id, f"2.25.99{self.number}")
            deliveries.answer_commitment(db, asked, {f"2.25.99{self.number}"}, {})
        return self

    def end(self) -> Line:
        """Declare the study done."""
        with writing(self.node.engine) as db:
            assert studies.finish(
                db,
                self.study_id,
                revision=1,
                sentence="1 result made by lung-ct; pacs committed itself to keep it.",
                needs_person=False,
            )
        return self

    def hold(self, reason: str) -> Line:
        """Stop the study."""
        with writing(self.node.engine) as db:
            assert studies.hold(db, self.study_id, reason)
        return self

    def state_of_job(self) -> queue.JobState:
        """Return the state of the study's newest job."""
        with reading(self.node.engine) as db:
            return queue.list_jobs(db, study_id=self.study_id)[0].state
