"""Decisions: what each route said of each series, under which configuration, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import Configuration, Decision, Revision


class DecisionOutcome(StrEnum):
    """What a route said of a series."""

    RUN = "run"  # a job is queued
    NO_MATCH = "no-match"  # no route, or not this one, wants the series
    NOT_ACCEPTED = "not-accepted"  # the route wants it, the model's card does not take it
    DONE_BEFORE = "done-before"  # the same instances went to the same model already


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDecision:
    """A decision to be recorded.

    Attributes:
        route: Empty when no route applies at all.
        reasons: Sentences, in the order in which they were found.
        configuration: Digest of the configuration in force, recorded before.
    """

    revision_id: int
    series_id: int
    outcome: DecisionOutcome
    configuration: str
    route: str = ""
    model: str = ""
    reasons: Sequence[Any] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A row of `decisions`."""

    id: int
    revision_id: int
    series_id: int
    route: str
    model: str
    outcome: DecisionOutcome
    reasons: tuple[Any, ...]
    configuration: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRow:
    """A row of `configurations`."""

    digest: str
    text: str
    first_ms: int


_COLUMNS = columns(Decision, DecisionRow)


def record_decision(db: Connection, new: NewDecision) -> DecisionRow:
    """Record what a route said; the first record for a revision, series and route stays."""
    statement = (
        insert_into(db, Decision)
        .values(
            revision_id=new.revision_id,
            series_id=new.series_id,
            route=new.route,
            model=new.model,
            outcome=new.outcome,
            reasons=list(new.reasons),
            configuration=new.configuration,
            created_ms=now_ms(db),
        )
        .on_conflict_do_nothing(index_elements=["revision_id", "series_id", "route"])
        .returning(*_COLUMNS)
    )
    made = read_one(db, statement, DecisionRow)
    if made is not None:
        return made
    found = (
        select(*_COLUMNS)
        .where(Decision.revision_id == new.revision_id)
        .where(Decision.series_id == new.series_id)
        .where(Decision.route == new.route)
    )
    decision = read_one(db, found, DecisionRow)
    if decision is None:
        raise RuntimeError(f"decision on series {new.series_id} is neither new nor known")
    return decision


def list_decisions(
    db: Connection, *, revision_id: int | None = None, study_id: int | None = None
) -> list[DecisionRow]:
    """Return decisions of one revision, or of all revisions of a study, oldest first."""
    statement = select(*_COLUMNS).order_by(Decision.id)
    if revision_id is not None:
        statement = statement.where(Decision.revision_id == revision_id)
    if study_id is not None:
        statement = statement.join(Revision, Revision.id == Decision.revision_id).where(
            Revision.study_id == study_id
        )
    return read_all(db, statement, DecisionRow)


def record_configuration(db: Connection, digest: str, text: str) -> None:
    """Keep a configuration that is in force, once; `text` carries no secrets."""
    statement = (
        insert_into(db, Configuration)
        .values(digest=digest, text=text, first_ms=now_ms(db))
        .on_conflict_do_nothing(index_elements=["digest"])
    )
    db.execute(statement)


def find_configuration(db: Connection, digest: str) -> ConfigurationRow | None:
    """Return a configuration by its digest."""
    statement = select(*columns(Configuration, ConfigurationRow)).where(
        Configuration.digest == digest
    )
    return read_one(db, statement, ConfigurationRow)
