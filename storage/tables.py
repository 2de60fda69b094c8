"""Everything that is stored, as typed tables: the one place that says what rows look like.

Times are milliseconds since 1970 UTC (`*_ms`). JSON columns hold data whose keys are not known
beforehand (headers, summaries). What must never be true is a constraint here. Statements live in
the module of each concern; the tables are never used as ORM sessions in the line.

Deleting is for administrators only; foreign keys therefore restrict.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

BigKey = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives row ids only to INTEGER PRIMARY KEY; PostgreSQL wants 64 bits."""


class StudyState(StrEnum):
    """Where a study is."""

    ARRIVING = "arriving"  # instances came within the quiet period
    SETTLED = "settled"  # a revision exists; decided, jobs or deliveries under way
    DONE = "done"  # nothing is left that the node can do by itself
    HELD = "held"  # a person must release it; the sentence says why


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"  # a worker may take it once run_after_ms has passed
    RUNNING = "running"  # a worker holds a lease on it
    DONE = "done"  # results, or a refusal, are in the rows
    FAILED = "failed"  # a person must look
    CANCELLED = "cancelled"  # a person, or a newer revision, took it out


class DeliveryState(StrEnum):
    """Where one result owed to one peer is."""

    OWED = "owed"  # not answered by the peer yet
    SENT = "sent"  # the peer answered success; proof is still to come
    STORED = "stored"  # looked up at the peer, or the peer's end without commitment
    COMMITTED = "committed"  # the peer committed itself to keep it
    REFUSED = "refused"  # the peer said no for good; a person must look
    EXPIRED = "expired"  # tried, or waited for proof, for too long; a person must look
    HELD = "held"  # stopped by a hold on the study or by the gate
    WITHDRAWN = "withdrawn"  # taken out by a person or superseded before it was sent


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {int: BigInteger, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Study(Base):
    """One study as received: identity, state and the sentence a person reads."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint("state IN ('arriving', 'settled', 'done', 'held')", name="state"),
        CheckConstraint("(state = 'held') = (hold_reason IS NOT NULL)", name="held_has_reason"),
        Index("ix_studies_patient_id", "patient_id"),
        Index("ix_studies_accession", "accession"),
        Index("ix_studies_state", "state", "last_received_ms"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    uid: Mapped[str] = mapped_column(String(64), unique=True)
    patient_id: Mapped[str] = mapped_column(Text, default="")
    issuer: Mapped[str] = mapped_column(Text, default="")
    patient_name: Mapped[str] = mapped_column(Text, default="")
    accession: Mapped[str] = mapped_column(Text, default="")
    study_date: Mapped[str] = mapped_column(Text, default="")
    description: Mapped[str] = mapped_column(Text, default="")
    state: Mapped[str] = mapped_column(String(16), default=StudyState.ARRIVING)
    revision: Mapped[int] = mapped_column(Integer, default=0)
    hold_reason: Mapped[str | None] = mapped_column(Text)
    sentence: Mapped[str] = mapped_column(Text, default="")
    needs_person: Mapped[bool] = mapped_column(default=False)
    first_received_ms: Mapped[int]
    last_received_ms: Mapped[int]
    changed_ms: Mapped[int]


class Series(Base):
    """One series: what routing needs of its header."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "uid"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(Text, default="")
    header: Mapped[dict[str, Any]] = mapped_column(default=dict)
    instance_count: Mapped[int] = mapped_column(Integer, default=0)
    first_received_ms: Mapped[int]
    last_received_ms: Mapped[int]


class Segment(Base):
    """A file of the segment journal, and how far its records have become rows.

    What is durable in the file is the truth; rows below `indexed_to` need not be looked for again.
    """

    __tablename__ = "segments"
    __table_args__ = (
        CheckConstraint("indexed_to >= 0 AND indexed_to <= size", name="indexed_within"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    size: Mapped[int]
    # Every record that begins below this offset, in bytes, has its rows.
    indexed_to: Mapped[int] = mapped_column(default=0)
    # Nothing more is appended to it.
    sealed: Mapped[bool] = mapped_column(default=False)
    created_ms: Mapped[int]


class Instance(Base):
    """One instance exactly as received. A SOP Instance UID never means two byte strings."""

    __tablename__ = "instances"
    __table_args__ = (
        # Instances that still lack the digest of their bytes; few at any time.
        Index(
            "ix_instances_undigested",
            "id",
            sqlite_where=text("digest = ''"),
            postgresql_where=text("digest = ''"),
        ),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class: Mapped[str] = mapped_column(String(64))
    transfer_syntax: Mapped[str] = mapped_column(String(64))
    # SHA-256 of the dataset as received, hex; empty until it has been computed.
    digest: Mapped[str] = mapped_column(String(64), default="", server_default="")
    # xxh3_128 of the dataset as received, hex: what the wire computed before it answered.
    checksum: Mapped[str] = mapped_column(String(32), default="", server_default="")
    # Whose it is by its own header. Only instances of the study's own patient count.
    patient_id: Mapped[str] = mapped_column(Text, default="", server_default="")
    issuer: Mapped[str] = mapped_column(Text, default="", server_default="")
    accession: Mapped[str] = mapped_column(Text, default="", server_default="")
    # Which of the byte strings that came under this UID counts, in the order of their arrival.
    version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    object_name: Mapped[str] = mapped_column(Text)
    offset: Mapped[int] = mapped_column(default=0)
    length: Mapped[int]
    sender: Mapped[str] = mapped_column(Text, default="")
    association_id: Mapped[int | None] = mapped_column(ForeignKey("associations.id"), index=True)
    received_ms: Mapped[int]


class Conflict(Base):
    """The same SOP Instance UID with other bytes: kept, classified, not counted.

    It holds all that is needed to let these bytes count instead, without reading them again.
    """

    __tablename__ = "conflicts"
    __table_args__ = (
        CheckConstraint("kind IN ('identity', 'header', 'pixels')", name="kind"),
        CheckConstraint("chosen IN ('', 'first', 'last')", name="chosen"),
        CheckConstraint("(chosen = '') = (decided_ms IS NULL)", name="chosen_has_time"),
        # The same other bytes again are nothing new.
        UniqueConstraint("instance_id", "checksum"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    # The study that the other bytes claim to belong to; it may not exist (yet).
    study_uid: Mapped[str] = mapped_column(String(64), default="", index=True)
    series_uid: Mapped[str] = mapped_column(String(64), default="")
    patient_id: Mapped[str] = mapped_column(Text, default="")
    issuer: Mapped[str] = mapped_column(Text, default="")
    accession: Mapped[str] = mapped_column(Text, default="")
    # What else a study or series row would need: patient name, date, description, header.
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    detail: Mapped[str] = mapped_column(Text, default="")
    sop_class: Mapped[str] = mapped_column(String(64), default="")
    transfer_syntax: Mapped[str] = mapped_column(String(64), default="")
    digest: Mapped[str] = mapped_column(String(64), default="")
    checksum: Mapped[str] = mapped_column(String(32))
    version: Mapped[int] = mapped_column(Integer, default=2)
    object_name: Mapped[str] = mapped_column(Text)
    offset: Mapped[int] = mapped_column(default=0)
    length: Mapped[int]
    sender: Mapped[str] = mapped_column(Text, default="")
    association_id: Mapped[int | None] = mapped_column(ForeignKey("associations.id"), index=True)
    received_ms: Mapped[int]
    # Which of the two counts, once that has been decided: by a person, or by the setting.
    chosen: Mapped[str] = mapped_column(String(8), default="")
    decided_by: Mapped[str] = mapped_column(Text, default="")
    decided_ms: Mapped[int | None]


class Association(Base):
    """One association that a peer opened or tried to open."""

    __tablename__ = "associations"
    __table_args__ = (
        CheckConstraint(
            "outcome IN ('open', 'released', 'aborted', 'rejected', 'lost')", name="outcome"
        ),
        Index("ix_associations_started_ms", "started_ms"),
        # An index, not a constraint: SQLite can add it without copying the table.
        Index("ix_associations_token", "token", unique=True),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    # What the wire calls it, in the records of its segment too.
    token: Mapped[str | None] = mapped_column(String(32))
    # The node whose listener serves it: several nodes may share a database.
    node: Mapped[str] = mapped_column(Text, default="", server_default="")
    peer: Mapped[str] = mapped_column(Text, default="")
    calling_ae: Mapped[str] = mapped_column(Text, default="")
    called_ae: Mapped[str] = mapped_column(Text, default="")
    address: Mapped[str] = mapped_column(Text, default="")
    # The peer's Implementation Version Name, or its class UID.
    software: Mapped[str] = mapped_column(Text, default="", server_default="")
    secure: Mapped[bool] = mapped_column(default=False, server_default=false())
    # One object for each presentation context: id, class, syntax, result.
    contexts: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    started_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    instances: Mapped[int] = mapped_column(Integer, default=0)
    refused: Mapped[int] = mapped_column(Integer, default=0)
    bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    outcome: Mapped[str] = mapped_column(String(16), default="open")
    reason: Mapped[str] = mapped_column(Text, default="")


class Caller(Base):
    """Somebody who called and was refused, so that an administrator can accept it."""

    __tablename__ = "callers"
    __table_args__ = (
        UniqueConstraint("calling_ae", "called_ae", "address"),
        Index("ix_callers_last_ms", "last_ms"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(64))
    called_ae: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    # Abstract syntaxes that it asked for.
    wanted: Mapped[list[Any]] = mapped_column(default=list)
    first_ms: Mapped[int]
    last_ms: Mapped[int]
    count: Mapped[int] = mapped_column(Integer, default=1)


class Notice(Base):
    """What a peer said about a study beside its instances: MPPS, or Instance Availability."""

    __tablename__ = "notices"
    __table_args__ = (
        CheckConstraint("kind IN ('mpps', 'ian')", name="kind"),
        UniqueConstraint("kind", "sop_uid"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    sop_uid: Mapped[str] = mapped_column(String(64))
    study_uid: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(Text, default="")
    # Of each series UID: its instances' UIDs, or how many they are.
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    sender: Mapped[str] = mapped_column(Text, default="")
    received_ms: Mapped[int]
    changed_ms: Mapped[int]


class Revision(Base):
    """The set of instances of a study that counted at a decision."""

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("study_id", "number"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    number: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(Text)
    decided_ms: Mapped[int | None]
    created_ms: Mapped[int]


class RevisionInstance(Base):
    """One instance of a revision."""

    __tablename__ = "revision_instances"
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), primary_key=True)
    instance_id: Mapped[int] = mapped_column(
        ForeignKey("instances.id"), primary_key=True, index=True
    )


class Configuration(Base):
    """A configuration that was in force, without secrets, by its digest."""

    __tablename__ = "configurations"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    first_ms: Mapped[int]


class Decision(Base):
    """What one route said of one series in one revision, with its reasons."""

    __tablename__ = "decisions"
    __table_args__ = (
        CheckConstraint(
            "outcome IN ('run', 'no-match', 'not-accepted', 'done-before')", name="out"
        ),
        UniqueConstraint("revision_id", "series_id", "route"),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"), index=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    route: Mapped[str] = mapped_column(Text, default="")
    model: Mapped[str] = mapped_column(Text, default="")
    outcome: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    configuration: Mapped[str] = mapped_column(ForeignKey("configurations.digest"))
    created_ms: Mapped[int]


class Job(Base):
    """A unit of work with a lease. `attempt` is the fence: every move names it."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"
        ),
        # A lease exists exactly while a worker runs the job.
        CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name="running_has_worker"),
        CheckConstraint("(state = 'running') = (lease_until_ms IS NOT NULL)", name="has_lease"),
        # The same input, route and model is queued once; a person's re-run takes the next run.
        UniqueConstraint("dedup_key", "run"),
        Index(
            "ix_jobs_ready",
            "priority",
            "run_after_ms",
            "id",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_jobs_running",
            "id",
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        {"postgresql_with": {"fillfactor": 70}},
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default="segment")
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"))
    decision_id: Mapped[int] = mapped_column(ForeignKey("decisions.id"))
    route: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    send_to: Mapped[list[Any]] = mapped_column(default=list)
    dedup_key: Mapped[str] = mapped_column(String(64))
    run: Mapped[int] = mapped_column(Integer, default=1)
    state: Mapped[str] = mapped_column(String(16), default=JobState.QUEUED)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    run_after_ms: Mapped[int]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(Text)
    lease_until_ms: Mapped[int | None]
    stage: Mapped[str] = mapped_column(String(16), default="")
    progress: Mapped[float] = mapped_column(default=0.0)
    outcome: Mapped[str] = mapped_column(Text, default="")
    error_code: Mapped[str] = mapped_column(Text, default="")
    error_text: Mapped[str] = mapped_column(Text, default="")
    created_ms: Mapped[int]
    started_ms: Mapped[int | None]
    finished_ms: Mapped[int | None]


class Attempt(Base):
    """One try at a job."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    number: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str] = mapped_column(Text)
    started_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(Text, default="running")
    error_code: Mapped[str] = mapped_column(Text, default="")
    error_text: Mapped[str] = mapped_column(Text, default="")
    seconds: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Result(Base):
    """A stored object that we made. Its bytes are made once and re-sent unchanged."""

    __tablename__ = "results"
    __table_args__ = (UniqueConstraint("key", "kind", "encoding"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    encoding: Mapped[str] = mapped_column(String(16), default="")
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    sop_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class: Mapped[str] = mapped_column(String(64))
    result_series_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    object_name: Mapped[str] = mapped_column(Text)
    offset: Mapped[int] = mapped_column(default=0)
    length: Mapped[int]
    model: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    model_digest: Mapped[str] = mapped_column(String(64))
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    pictures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    superseded_by: Mapped[int | None] = mapped_column(ForeignKey("results.id"))
    created_ms: Mapped[int]


class Delivery(Base):
    """One result owed to one peer."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint(
            "state IN ('owed', 'sent', 'stored', 'committed', 'refused', 'expired', 'held', "
            "'withdrawn')",
            name="state",
        ),
        CheckConstraint("(worker IS NULL) = (lease_until_ms IS NULL)", name="worker_has_lease"),
        UniqueConstraint("result_id", "peer"),
        Index(
            "ix_deliveries_open",
            "run_after_ms",
            "id",
            sqlite_where=text("state IN ('owed', 'sent')"),
            postgresql_where=text("state IN ('owed', 'sent')"),
        ),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"), index=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    peer: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default=DeliveryState.OWED)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    run_after_ms: Mapped[int]
    worker: Mapped[str | None] = mapped_column(Text)
    lease_until_ms: Mapped[int | None]
    last_status: Mapped[str] = mapped_column(Text, default="")
    sentence: Mapped[str] = mapped_column(Text, default="")
    created_ms: Mapped[int]
    sent_ms: Mapped[int | None]
    confirmed_ms: Mapped[int | None]


class DeliveryAttempt(Base):
    """One contact with a peer about a delivery: `store`, `commit` or `lookup`."""

    __tablename__ = "delivery_attempts"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    number: Mapped[int] = mapped_column(Integer)
    action: Mapped[str] = mapped_column(String(16))
    worker: Mapped[str] = mapped_column(Text, default="")
    started_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    status: Mapped[str] = mapped_column(Text, default="")
    sentence: Mapped[str] = mapped_column(Text, default="")


class Commitment(Base):
    """One storage commitment transaction for one delivery."""

    __tablename__ = "commitments"
    transaction_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    sop_uid: Mapped[str] = mapped_column(String(64))
    asked_ms: Mapped[int]
    answered_ms: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(Text, default="")


class Worker(Base):
    """A process of the node: what it is, whether it lives, what it does."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(Text, default="")
    doing: Mapped[str] = mapped_column(Text, default="")
    version: Mapped[str] = mapped_column(Text, default="")
    started_ms: Mapped[int]
    heartbeat_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    ending: Mapped[str] = mapped_column(Text, default="")


class PeerState(Base):
    """What is known of a configured peer from talking to it."""

    __tablename__ = "peer_states"
    peer: Mapped[str] = mapped_column(Text, primary_key=True)
    last_heard_ms: Mapped[int | None]
    last_sent_ms: Mapped[int | None]
    last_echo_ms: Mapped[int | None]
    failures: Mapped[int] = mapped_column(Integer, default=0)
    next_try_ms: Mapped[int | None]
    last_error: Mapped[str] = mapped_column(Text, default="")
    paused: Mapped[bool] = mapped_column(default=False)


class Lease(Base):
    """A role that one process at a time may hold, such as the acting scheduler."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(Text)
    token: Mapped[int]
    until_ms: Mapped[int]


class User(Base):
    """A person who may sign in."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(16))
    disabled: Mapped[bool] = mapped_column(default=False)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    locked_until_ms: Mapped[int | None]
    created_ms: Mapped[int]


class Session(Base):
    """A signed-in browser. Only the SHA-256 of its token is stored."""

    __tablename__ = "sessions"
    token_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created_ms: Mapped[int]
    seen_ms: Mapped[int]
    expires_ms: Mapped[int]


class Audit(Base):
    """Every act of a person or of the node on its own account, chained by digests."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    at_ms: Mapped[int]
    who: Mapped[str] = mapped_column(Text)
    act: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text, default="")
    detail: Mapped[str] = mapped_column(Text, default="")
    chain: Mapped[str] = mapped_column(String(64))
