"""What receiving leaves beside instances: segments, associations, refused callers, notices."""

from __future__ import annotations

import pytest
from associating import closed, opened
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from stored_examples import instance

from storage import associations, callers, instances, notices, segment_index
from storage.associations import Opening
from storage.database import reading, set_clock_offset, writing
from storage.notices import NoticeKind

ONE = "t1"


def test_a_segments_position_only_moves_forward(engine: Engine) -> None:
    with writing(engine) as db:
        segment_index.note_segment(db, "segments/a.seg", 8192)
        segment_index.note_segment(db, "segments/a.seg", 4096)
        assert segment_index.set_indexed(db, "segments/a.seg", 4096, sealed=True)
        assert segment_index.set_indexed(db, "segments/a.seg", 8192, sealed=False)
        assert segment_index.set_indexed(db, "segments/a.seg", 4096, sealed=False)
        assert not segment_index.set_indexed(db, "segments/b.seg", 4096, sealed=False)
        segment_index.note_segment(db, "segments/b.seg", 4096)
    with reading(engine) as db:
        assert segment_index.segment_positions(db) == {"segments/a.seg": 8192, "segments/b.seg": 0}


def test_a_position_beyond_its_segment_is_refused_by_the_database(engine: Engine) -> None:
    with writing(engine) as db:
        segment_index.note_segment(db, "segments/a.seg", 4096)
    with pytest.raises(IntegrityError), writing(engine) as db:
        segment_index.set_indexed(db, "segments/a.seg", 4097, sealed=False)


def test_an_association_keeps_what_explains_it(engine: Engine) -> None:
    context = {"id": 1, "class": "1.2.840.10008.1.1", "syntax": "1.2.840.10008.1.2", "result": 0}
    with writing(engine) as db:
        made = opened(
            db,
            calling_ae="SCANNER",
            called_ae="LIMNER",
            address="10.0.0.1",
            peer="ct",
            token=ONE,
            software="PYNETDICOM_304",
            secure=True,
            contexts=[context],
        )
        closed(db, made, instances=2, refused=1, bytes=1000)
    with reading(engine) as db:
        [row] = associations.list_associations(db)
    assert (row.token, row.software, row.secure) == (ONE, "PYNETDICOM_304", True)
    assert row.contexts == (context,)
    assert (row.instances, row.refused, row.bytes) == (2, 1, 1000)


def test_a_token_means_one_association_however_often_the_wire_says_it(engine: Engine) -> None:
    said = {"calling_ae": "SCANNER", "called_ae": "LIMNER", "address": "10.0.0.1"}
    with writing(engine) as db:
        first = opened(db, token=ONE, **said)
        both = [Opening(token=token, **said) for token in (ONE, "other", ONE)]
        found = associations.open_associations(db, both)
        assert (found[ONE], associations.association_of(db, ONE)) == (first, first)
        assert associations.association_of(db, "another") is None
        assert len(associations.list_associations(db)) == 2


def test_what_a_node_lost_is_closed_and_what_another_one_serves_goes_on(engine: Engine) -> None:
    with writing(engine) as db:
        for node, token in (("left", "1"), ("left", "2"), ("right", "3"), ("", "4")):
            opened(db, calling_ae="S", called_ae="L", address="10.0.0.1", node=node, token=token)
        assert associations.close_lost(db, "It died.", node="left", living=["2"]) == 2
    with reading(engine) as db:
        still_open = associations.list_associations(db, only_open=True)
    assert [(row.node, row.token) for row in still_open] == [("right", "3"), ("left", "2")]


def refuse(engine: Engine, calling_ae: str, **changes: object) -> None:
    said = {"called_ae": "LIMNER", "address": "10.0.0.1", "reason": "Nobody has that title."}
    with writing(engine) as db:
        callers.refused(db, calling_ae=calling_ae, **(said | changes))  # type: ignore[arg-type]


def test_a_refused_caller_is_listed_once_with_what_it_wanted_and_how_often(engine: Engine) -> None:
    refuse(engine, "SCANNER", wanted=["1.2", "1.1", "1.2"])
    refuse(engine, "OTHER")
    set_clock_offset(engine, 1000)
    refuse(engine, "SCANNER", wanted=["1.3"], reason="Not from there.")
    with writing(engine) as db:
        [first, second] = callers.list_callers(db)
        assert callers.find_caller(db, first.id) == first
        assert [callers.forget_caller(db, second.id) for _ in range(2)] == [True, False]
    assert (first.calling_ae, first.count, first.wanted) == ("SCANNER", 2, ("1.3",))
    assert first.reason == "Not from there." and first.last_ms - first.first_ms >= 1000


def test_strangers_cannot_fill_the_disk_by_calling_under_many_titles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "MAX_CALLERS", 3)
    for number in range(5):
        refuse(engine, f"S{number}" + 100 * "x", address="a" * 100, wanted=["1.2"] * 1000)
    with reading(engine) as db:
        found = callers.list_callers(db)
    assert [one.calling_ae[:2] for one in found] == ["S4", "S3", "S2"]
    assert {len(one.calling_ae) for one in found} == {64}


def test_a_procedure_step_is_made_once_and_then_set(engine: Engine) -> None:
    with writing(engine) as db:
        assert notices.record_notice(
            db, NoticeKind.MPPS, "1.9", study_uid="1.2", status="IN PROGRESS", sender="CT"
        )
        assert not notices.record_notice(db, NoticeKind.MPPS, "1.9", study_uid="1.3")
        assert notices.record_notice(
            db, NoticeKind.IAN, "1.9", study_uid="1.2", status="ONLINE", detail={"1.2.7": 2}
        )
        done = {"1.2.7": ["1.2.7.1"]}
        assert notices.update_notice(db, NoticeKind.MPPS, "1.9", status="COMPLETED", detail=done)
        assert notices.update_notice(db, NoticeKind.IAN, "1.9", status="NEARLINE")
        assert not notices.update_notice(db, NoticeKind.MPPS, "1.8", status="COMPLETED")
    with reading(engine) as db:
        found = notices.notices_of_study(db, "1.2")
        assert notices.notices_of_study(db, "1.3") == []
    assert [(one.kind, one.status, one.detail) for one in found] == [
        (NoticeKind.MPPS, "COMPLETED", done),
        (NoticeKind.IAN, "NEARLINE", {"1.2.7": 2}),
    ]


def test_an_instance_keeps_the_wires_checksum_and_time_and_asks_for_its_header_once(
    engine: Engine,
) -> None:
    asked: list[int] = []

    def header() -> dict[str, object]:
        asked.append(1)
        return {"Modality": "CT"}

    new = instance(1, digest="", checksum="c" * 32, received_ms=5, header=header)
    with writing(engine) as db:
        instances.record_instance(db, new)
        instances.record_instance(db, instance(2, digest="", header=header))
        row = instances.find_instance(db, new.sop_uid)
    assert row is not None
    assert (row.digest, row.checksum, row.received_ms, asked) == ("", "c" * 32, 5, [1])
    assert (row.patient_id, row.issuer, row.accession, row.version) == ("P1", "HOSPITAL", "A1", 1)
