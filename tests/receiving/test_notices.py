"""What peers tell beside instances: commitment reports, performed steps, availability notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE, N_SET
from pynetdicom.presentation import PresentationContext

from node.dicom.library import application_entity
from storage.notices import NoticeKind, NoticeRow

from .calling import CT
from .listening import Listening, made_listening

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("notices")]

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = COMMITMENT + ".1"
STEP = "1.2.840.10008.3.1.2.3.3"
NOTICE = "1.2.840.10008.5.1.4.33"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with made_listening(tmp_path_factory.mktemp("notices") / "node") as made:
        made.start()
        yield made


def call(
    listening: Listening,
    *contexts: PresentationContext,
    calling: str = "SCANNER",
    **options: object,
) -> Association:
    entity = application_entity(calling)
    entity.acse_timeout = entity.network_timeout = 20
    entity.dimse_timeout = 60
    association = entity.associate(
        "127.0.0.1", listening.port, list(contexts), ae_title="LIMNER", **options
    )
    assert association.is_established
    return association


def accepted(association: Association) -> list[str]:
    return [str(context.abstract_syntax) for context in association.accepted_contexts]


def report(uids: list[str], *, failed: dict[str, int] | None = None) -> Dataset:
    """Return the information of a commitment report (PS3.4 J.3.3)."""
    information = Dataset()
    information.TransactionUID = generate_uid()
    information.ReferencedSOPSequence = Sequence([reference(uid) for uid in uids])
    if failed:
        items = []
        for uid, reason in failed.items():
            item = reference(uid)
            item.FailureReason = reason
            items.append(item)
        information.FailedSOPSequence = Sequence(items)
    return information


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = CT
    item.ReferencedSOPInstanceUID = uid
    return item


def step(status: str = "IN PROGRESS", study_uid: str = "1.2.3.4") -> Dataset:
    """Return some attributes of a performed procedure step (PS3.4 table F.7.2-1)."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study_uid
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3.4.1"
    series.ReferencedImageSequence = Sequence([reference("1.2.3.4.1.1"), reference("1.2.3.4.1.2")])
    dataset = Dataset()
    dataset.ScheduledStepAttributesSequence = Sequence([scheduled])
    dataset.PerformedProcedureStepStatus = status
    dataset.PerformedSeriesSequence = Sequence([series])
    return dataset


def noticed(listening: Listening, study_uid: str, sop_uid: str) -> NoticeRow:
    (row,) = [row for row in listening.notices(study_uid) if row.sop_uid == sop_uid]
    return row


@pytest.mark.parametrize("role", [True, False], ids=["as SCP by role", "without a role"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_commitment_report_comes_on_a_new_association(
    listening: Listening, role: bool, syntax: str
) -> None:
    association = call(
        listening,
        build_context(COMMITMENT, syntax),
        calling="PACS",
        ext_neg=[build_role(COMMITMENT, scp_role=True)] if role else [],
    )
    assert accepted(association) == [COMMITMENT]
    if not role:
        # pynetdicom would not send as SCP what it was not granted; archives do.
        association.accepted_contexts[0]._as_scp = True

    answer, _ = association.send_n_event_report(
        report(["1.2.3"], failed={"1.2.4": 0x0112}), 2, COMMITMENT, COMMITMENT_INSTANCE
    )
    association.release()

    assert answer.Status == 0
    assert "commitment-answered" in listening.now.said()


def test_a_report_of_20_000_instances_is_taken(listening: Listening) -> None:
    association = call(
        listening,
        build_context(COMMITMENT, EXPLICIT),
        calling="PACS",
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
    )
    information = report([f"1.2.826.0.1.3680043.10.999.12345678.{n}" for n in range(20_000)])
    said = listening.now.said().count("commitment-answered")

    began_s = time.monotonic()
    answer, _ = association.send_n_event_report(information, 1, COMMITMENT, COMMITMENT_INSTANCE)
    association.release()

    assert answer.Status == 0
    assert time.monotonic() - began_s < 25
    assert listening.now.said().count("commitment-answered") == said + 1


def test_nobody_can_ask_us_to_commit(listening: Listening) -> None:
    as_user = call(
        listening,
        build_context(VERIFICATION),
        build_context(COMMITMENT, EXPLICIT),
        calling="PACS",
        ext_neg=[build_role(COMMITMENT, scu_role=True)],
    )
    assert accepted(as_user) == [VERIFICATION]
    as_user.release()

    association = call(listening, build_context(COMMITMENT, EXPLICIT), calling="PACS")
    answer, _ = association.send_n_action(report(["1.2.3"]), 1, COMMITMENT, COMMITMENT_INSTANCE)
    association.release()
    assert answer.Status == 0x0211


@pytest.mark.parametrize(
    ("calling", "uid"), [("SCANNER", COMMITMENT), ("PACS", STEP), ("PACS", NOTICE)]
)
@pytest.mark.parametrize("roles", [True, False])
def test_a_peer_gets_no_context_for_what_it_may_not_tell(
    listening: Listening, calling: str, uid: str, roles: bool
) -> None:
    role = build_role(uid, scu_role=True, scp_role=True)
    association = call(
        listening,
        build_context(VERIFICATION),
        build_context(uid, EXPLICIT),
        calling=calling,
        ext_neg=[role] if roles else [],
    )
    assert accepted(association) == [VERIFICATION]
    association.release()


def test_a_performed_step_is_noted_and_changed_until_it_has_ended(listening: Listening) -> None:
    uid = generate_uid()
    association = call(listening, build_context(STEP, EXPLICIT))

    begun, _ = association.send_n_create(step(), STEP, uid)
    row = noticed(listening, "1.2.3.4", uid)
    assert begun.Status == 0
    assert (row.kind, row.status, row.sender) == (NoticeKind.MPPS, "IN PROGRESS", "scanner")
    assert row.detail == {"1.2.3.4.1": ["1.2.3.4.1.1", "1.2.3.4.1.2"]}

    again, _ = association.send_n_create(step("COMPLETED"), STEP, uid)
    assert again.Status == 0x0111
    assert noticed(listening, "1.2.3.4", uid) == row

    partly = Dataset()
    partly.PerformedProcedureStepDescription = "Thorax"
    assert association.send_n_set(partly, STEP, uid)[0].Status == 0
    assert noticed(listening, "1.2.3.4", uid).status == "IN PROGRESS"

    ended = step("COMPLETED")
    ended.PerformedSeriesSequence[0].ReferencedImageSequence.append(reference("1.2.3.4.1.3"))
    del ended.ScheduledStepAttributesSequence
    assert association.send_n_set(ended, STEP, uid)[0].Status == 0
    row = noticed(listening, "1.2.3.4", uid)
    assert row.status == "COMPLETED"
    assert len(row.detail["1.2.3.4.1"]) == 3

    assert association.send_n_set(step("DISCONTINUED"), STEP, uid)[0].Status == 0x0110
    assert noticed(listening, "1.2.3.4", uid) == row
    association.release()


def test_a_step_that_is_not_known_or_makes_no_sense_is_refused_by_the_right_status(
    listening: Listening,
) -> None:
    association = call(listening, build_context(STEP, EXPLICIT))
    uid = generate_uid()
    no_status = step()
    del no_status.PerformedProcedureStepStatus

    assert association.send_n_set(step("COMPLETED"), STEP, uid)[0].Status == 0x0112
    assert association.send_n_create(no_status, STEP, uid)[0].Status == 0x0120
    assert association.send_n_create(step("BEGUN"), STEP, uid)[0].Status == 0x0106
    with pytest.warns(UserWarning, match="maximum length"):
        no_uid = step(study_uid="1.2." + "3" * 62)
    assert association.send_n_create(no_uid, STEP, uid)[0].Status == 0x0106
    association.release()
    assert [row for row in listening.notices("1.2.3.4") if row.sop_uid == uid] == []


@pytest.mark.parametrize("kind", ["N-CREATE", "N-SET"])
@pytest.mark.parametrize(
    "data",
    [
        b"\x40\x00\x40\x03SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff",  # cut short
        b"\x40\x00\x40\x03SQ\x00\x00\x08\x00\x00\x00ABCDEFGH",  # an item that is none
        b"\x40\x00\x52\x02CS\x10\x00SHORT",  # a value beyond the end
        b"\x40\x00\x52\x02",
        b"garbage!" * 20,
        None,
    ],
)
def test_a_malformed_data_set_is_refused_and_leaves_nothing(
    listening: Listening, kind: str, data: bytes | None
) -> None:
    association = call(listening, build_context(STEP, EXPLICIT))
    uid = generate_uid()
    request = N_CREATE() if kind == "N-CREATE" else N_SET()
    request.MessageID = 1
    if isinstance(request, N_CREATE):
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = STEP, uid
        request.AttributeList = BytesIO(data) if data else None
    else:
        request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = STEP, uid
        request.ModificationList = BytesIO(data) if data else None

    status = sent(association, request)

    assert status in ({0x0106, 0x0110, 0x0120} if kind == "N-CREATE" else {0x0106, 0x0110, 0x0112})
    assert [row for row in listening.notices("") if row.sop_uid == uid] == []
    # The next one on the same association is served.
    assert association.send_n_create(step(), STEP, uid)[0].Status == 0
    association.release()


def test_an_availability_notice_is_noted_once(listening: Listening) -> None:
    item = reference("1.2.5.1.1")
    item.InstanceAvailability = "ONLINE"
    item.RetrieveAETitle = "ARCHIVE"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.5.1"
    series.ReferencedSOPSequence = Sequence([item])
    notice = Dataset()
    notice.ReferencedPerformedProcedureStepSequence = Sequence([])
    notice.StudyInstanceUID = "1.2.5"
    notice.ReferencedSeriesSequence = Sequence([series])
    nothing = Dataset()
    nothing.ReferencedSeriesSequence = Sequence([series])
    uid = generate_uid()
    association = call(listening, build_context(NOTICE, EXPLICIT))

    statuses = [
        association.send_n_create(dataset, NOTICE, uid)[0].Status
        for dataset in (nothing, notice, notice)
    ]
    association.release()

    assert statuses == [0x0120, 0, 0x0111]
    row = noticed(listening, "1.2.5", uid)
    assert (row.kind, row.status, row.sender) == (NoticeKind.IAN, "ONLINE", "scanner")
    assert row.detail == {"1.2.5.1": ["1.2.5.1.1"]}


def sent(association: Association, request: N_CREATE | N_SET) -> int:
    """Send a request whose data set pynetdicom would not encode; return the status."""
    context = association.accepted_contexts[0]
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)
