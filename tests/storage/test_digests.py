"""A study settles only when each of its instances has the digest that results rest on."""

from __future__ import annotations

from sqlalchemy import Engine, text
from stored_examples import instance

from storage import studies
from storage.database import reading, writing
from storage.digests import set_digests, without_digest
from storage.instances import find_instance, record_instance


def test_a_study_does_not_settle_while_an_instance_lacks_its_digest(engine: Engine) -> None:
    with writing(engine) as db:
        study_id = record_instance(db, instance(1)).study_id
        record_instance(db, instance(2, digest=""))
        study = studies.get_study(db, study_id)
        assert study is not None
        later = study.last_received_ms + 1
        settled = {"reason": "quiet", "last_received_ms": study.last_received_ms}
        assert studies.settle_due(db, later, 0) == []
        assert studies.make_revision(db, study_id, **settled) is None  # type: ignore[arg-type]
        [row] = without_digest(db, 10)
        assert (row.sop_uid, row.place) == (instance(2).sop_uid, instance(2).place)
        assert set_digests(db, {row: "d" * 64}) == 1
        assert studies.settle_due(db, later, 0) == [study]
        assert studies.make_revision(db, study_id, **settled) is not None  # type: ignore[arg-type]


def test_another_studys_missing_digest_is_nobody_elses_matter(engine: Engine) -> None:
    with writing(engine) as db:
        record_instance(db, instance(1, "1.3", digest=""))
        study = studies.get_study(db, record_instance(db, instance(1)).study_id)
        assert study is not None
        assert studies.settle_due(db, study.last_received_ms + 1, 0) == [study]


def test_a_digest_is_not_taken_for_bytes_that_do_not_count_any_more(engine: Engine) -> None:
    with writing(engine) as db:
        record_instance(db, instance(1, digest=""))
        [row] = without_digest(db, 10)
        db.execute(text("UPDATE instances SET version = 2"))
        assert set_digests(db, {row: "d" * 64}) == 0
        db.execute(text("UPDATE instances SET version = 1"))
        assert set_digests(db, {row: "d" * 64}) == 1
        assert set_digests(db, {row: "e" * 64}) == 0  # a digest never changes
        assert set_digests(db, {}) == 0
        stored = find_instance(db, row.sop_uid)
    assert stored is not None and stored.digest == "d" * 64


def test_instances_of_held_studies_are_digested_after_all_others(engine: Engine) -> None:
    with writing(engine) as db:
        held = record_instance(db, instance(1, digest="")).study_id
        record_instance(db, instance(1, "1.3", digest=""))
        record_instance(db, instance(2, "1.3", digest=""))
        assert studies.hold(db, held, "Its bytes cannot be read.")
    with reading(engine) as db:
        order = [row.sop_uid for row in without_digest(db, 10)]
        assert [row.sop_uid for row in without_digest(db, 1)] == order[:1]
    assert order == ["1.3.7.1", "1.3.7.2", "1.2.7.1"]


def test_instances_of_another_patient_under_the_studys_uid_do_not_count(engine: Engine) -> None:
    with writing(engine) as db:
        study_id = record_instance(db, instance(1)).study_id
        record_instance(db, instance(2, patient_id="P2"))
        record_instance(db, instance(3, issuer="OTHER"))
        studies.release(db, study_id)
        study = studies.get_study(db, study_id)
        assert study is not None
        revision = studies.make_revision(
            db, study_id, "quiet", last_received_ms=study.last_received_ms
        )
        assert revision is not None
        told = studies.story(db, study_id)
    assert told is not None and told.instance_count == 3
    assert [one.instance_count for one in told.revisions] == [1]
