"""Every proposed context gets one answer, and no peer gets what it may not ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from node.dicom.wire.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTED,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    INSTANCE_AVAILABILITY,
    PERFORMED_PROCEDURE_STEP,
    STORAGE_COMMITMENT,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    VERIFICATION,
    Offer,
    negotiate,
)
from node.dicom.wire.pdu import AnsweredContext, AssociateRequest, ProposedContext, Role

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PRIVATE = "1.3.12.2.1107.5.9.1"
JPEG_LS = "1.2.840.10008.1.2.4.80"
DEFLATED = "1.2.840.10008.1.2.1.99"

EVERYTHING = Offer(
    services=frozenset({"echo", "store", "ask-commitment", "report-commitment", "mpps", "ian"}),
    storage_classes=frozenset({CT, MR}),
    transfer_syntaxes=(EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_LS),
    accept_unknown=False,
)


def request(*contexts: ProposedContext, roles: tuple[Role, ...] = ()) -> AssociateRequest:
    return AssociateRequest(
        called_ae="LIMNER",
        calling_ae="SCANNER",
        protocol_version=1,
        application_context="1.2.840.10008.3.1.1.1",
        contexts=contexts,
        max_length=0,
        implementation_class_uid="",
        implementation_version="",
        async_window=None,
        roles=roles,
        user_identity=None,
        titles=bytes(64),
    )


def answer(
    uid: str, *syntaxes: str, offer: Offer = EVERYTHING, role: Role | None = None
) -> tuple[AnsweredContext, tuple[Role, ...]]:
    proposal = ProposedContext(1, uid, syntaxes or (IMPLICIT_LITTLE,))
    (one,), roles = negotiate(request(proposal, roles=(role,) if role else ()), offer)
    return one, roles


def test_a_storage_class_is_accepted_in_the_first_of_our_syntaxes_that_is_proposed() -> None:
    assert answer(CT, JPEG_LS, IMPLICIT_LITTLE)[0] == AnsweredContext(
        1, ACCEPTED, CT, IMPLICIT_LITTLE
    )
    assert answer(CT, JPEG_LS)[0].transfer_syntax == JPEG_LS


@pytest.mark.parametrize("syntaxes", [(DEFLATED,), ("",)])
def test_a_class_in_no_syntax_of_ours_is_rejected_for_its_syntaxes(
    syntaxes: tuple[str, ...],
) -> None:
    one, _ = answer(CT, *syntaxes)

    assert one.result == TRANSFER_SYNTAXES_NOT_SUPPORTED
    assert one.transfer_syntax == IMPLICIT_LITTLE


def test_a_context_without_transfer_syntaxes_is_rejected_for_its_syntaxes() -> None:
    (one,), _ = negotiate(request(ProposedContext(1, CT, ())), EVERYTHING)

    assert one.result == TRANSFER_SYNTAXES_NOT_SUPPORTED


@pytest.mark.parametrize("uid", [FIND, PRIVATE, "", "not a UID", "1.2.840.10008.1.20.2"])
def test_a_class_that_the_node_does_not_serve_is_rejected_as_such(uid: str) -> None:
    one, _ = answer(uid)

    assert one.result == ABSTRACT_SYNTAX_NOT_SUPPORTED
    assert one.transfer_syntax


@pytest.mark.parametrize(
    ("uid", "service"),
    [
        (VERIFICATION, "echo"),
        (CT, "store"),
        (STORAGE_COMMITMENT, "ask-commitment"),
        (STORAGE_COMMITMENT, "report-commitment"),
        (PERFORMED_PROCEDURE_STEP, "mpps"),
        (INSTANCE_AVAILABILITY, "ian"),
    ],
)
def test_a_peer_gets_a_service_by_its_permission_alone(uid: str, service: str) -> None:
    only = replace(EVERYTHING, services=frozenset({service}))
    none = replace(EVERYTHING, services=frozenset())

    assert answer(uid, offer=only)[0].result == ACCEPTED
    assert answer(uid, offer=none)[0].result == USER_REJECTION


def test_no_permission_for_one_service_opens_another() -> None:
    for service in EVERYTHING.services:
        offer = replace(EVERYTHING, services=frozenset({service}))
        classes = (VERIFICATION, CT, STORAGE_COMMITMENT, PERFORMED_PROCEDURE_STEP)
        accepted = [uid for uid in classes if answer(uid, offer=offer)[0].result == ACCEPTED]

        assert len(accepted) == (0 if service == "ian" else 1)


@pytest.mark.parametrize(
    "uid",
    [VERIFICATION, STORAGE_COMMITMENT, PERFORMED_PROCEDURE_STEP, INSTANCE_AVAILABILITY],
)
def test_messages_of_other_services_come_uncompressed_little_endian(uid: str) -> None:
    big = "1.2.840.10008.1.2.2"

    assert answer(uid, IMPLICIT_LITTLE, EXPLICIT_LITTLE)[0].transfer_syntax == EXPLICIT_LITTLE
    assert answer(uid, big, IMPLICIT_LITTLE)[0].transfer_syntax == IMPLICIT_LITTLE
    assert answer(uid, JPEG_LS, big)[0].result == TRANSFER_SYNTAXES_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("uid", "result"),
    [
        (PRIVATE, ACCEPTED),
        ("2.25.1", ACCEPTED),
        ("1." + "2" * 62, ACCEPTED),
        ("1." + "2" * 63, ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ("", ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ("1.2.?", ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ("../../x", ABSTRACT_SYNTAX_NOT_SUPPORTED),
        (FIND, ABSTRACT_SYNTAX_NOT_SUPPORTED),
        # Storage Commitment Pull: the Standard's, retired, and no storage class
        ("1.2.840.10008.1.20.2", ABSTRACT_SYNTAX_NOT_SUPPORTED),
    ],
)
def test_unknown_classes_are_storage_only_outside_the_standards_root(uid: str, result: int) -> None:
    offer = replace(EVERYTHING, accept_unknown=True)

    assert answer(uid, offer=offer)[0].result == result


def test_storage_commitment_is_no_storage_class() -> None:
    offer = replace(EVERYTHING, services=frozenset({"store"}), accept_unknown=True)

    assert answer(STORAGE_COMMITMENT, offer=offer)[0].result == USER_REJECTION


@pytest.mark.parametrize(
    ("services", "scu", "scp", "granted"),
    [
        ({"ask-commitment"}, True, False, (True, False)),
        ({"ask-commitment"}, True, True, (True, False)),
        ({"ask-commitment"}, False, True, None),
        ({"report-commitment"}, False, True, (False, True)),
        ({"report-commitment"}, True, True, (False, True)),
        ({"report-commitment"}, True, False, None),
        ({"ask-commitment", "report-commitment"}, True, True, (True, True)),
        ({"ask-commitment", "report-commitment"}, False, True, (False, True)),
    ],
)
def test_a_role_in_storage_commitment_follows_from_the_permission(
    services: set[str], *, scu: bool, scp: bool, granted: tuple[bool, bool] | None
) -> None:
    offer = replace(EVERYTHING, services=frozenset(services))
    role = Role(STORAGE_COMMITMENT, scu=scu, scp=scp)

    one, roles = answer(STORAGE_COMMITMENT, offer=offer, role=role)

    if granted is None:
        assert (one.result, roles) == (USER_REJECTION, ())
    else:
        assert one.result == ACCEPTED
        assert [(each.scu, each.scp) for each in roles] == [granted]


def test_who_wants_to_receive_storage_gets_the_sending_role_or_nothing() -> None:
    both, roles = answer(CT, role=Role(CT, scu=True, scp=True))
    receiver, none = answer(CT, role=Role(CT, scu=False, scp=True))

    assert (both.result, roles) == (ACCEPTED, (Role(CT, scu=True, scp=False),))
    assert (receiver.result, none) == (USER_REJECTION, ())


def test_a_role_is_answered_only_where_one_was_proposed_and_its_class_accepted() -> None:
    proposals = request(
        ProposedContext(1, CT, (IMPLICIT_LITTLE,)),
        ProposedContext(3, MR, (DEFLATED,)),
        ProposedContext(5, FIND, (IMPLICIT_LITTLE,)),
        roles=(
            Role(MR, scu=True, scp=False),
            Role(FIND, scu=True, scp=False),
            Role("1.2.3", scu=True, scp=True),
        ),
    )

    _, roles = negotiate(proposals, EVERYTHING)

    assert roles == ()


def test_neither_role_counts_as_no_proposal_and_the_first_of_two_holds() -> None:
    neither = answer(CT, role=Role(CT, scu=False, scp=False))
    proposal = request(
        ProposedContext(1, CT, (IMPLICIT_LITTLE,)),
        roles=(Role(CT, scu=True, scp=False), Role(CT, scu=False, scp=True)),
    )

    assert (neither[0].result, neither[1]) == (ACCEPTED, ())
    assert negotiate(proposal, EVERYTHING)[1] == (Role(CT, scu=True, scp=False),)


classes = st.sampled_from([VERIFICATION, CT, MR, STORAGE_COMMITMENT, FIND, PRIVATE, ""])
syntaxes = st.lists(st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_LS, DEFLATED, ""]))


@given(
    numbers=st.lists(st.integers(0, 127), max_size=128, unique=True),
    data=st.data(),
    services=st.frozensets(st.sampled_from(sorted(EVERYTHING.services))),
)
def test_each_proposed_identifier_gets_exactly_one_answer_in_order(
    numbers: list[int], data: st.DataObject, services: frozenset[str]
) -> None:
    uids = data.draw(st.lists(classes, min_size=len(numbers), max_size=len(numbers)))
    proposed = tuple(data.draw(syntaxes.map(tuple)) for _ in range(2))
    contexts = tuple(
        ProposedContext(2 * number + 1, uid, proposed[number % 2])
        for number, uid in zip(numbers, uids, strict=True)
    )

    answers, _ = negotiate(request(*contexts), replace(EVERYTHING, services=services))

    assert [one.id for one in answers] == [one.id for one in contexts]
    for proposal, one in zip(contexts, answers, strict=True):
        assert one.abstract_syntax == proposal.abstract_syntax
        assert one.transfer_syntax
        assert 0 <= one.result <= 4
        if one.result == ACCEPTED:
            assert one.transfer_syntax in proposal.transfer_syntaxes


# -- agreement with another implementation --------------------------------------------------------


def theirs(contexts: tuple[ProposedContext, ...], roles: tuple[Role, ...]) -> object:
    """The answers of pynetdicom's acceptor to the same proposals with the same offer."""
    proposals = []
    for one in contexts:
        proposal = PresentationContext()
        proposal.context_id = one.id
        proposal.abstract_syntax = one.abstract_syntax
        proposal.transfer_syntax = list(one.transfer_syntaxes)
        proposals.append(proposal)
    supported = [
        build_context(uid, list(EVERYTHING.transfer_syntaxes))
        for uid in sorted(EVERYTHING.storage_classes)
    ]
    supported.append(build_context(VERIFICATION, [EXPLICIT_LITTLE, IMPLICIT_LITTLE]))
    commitment = build_context(STORAGE_COMMITMENT, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
    commitment.scu_role = commitment.scp_role = True
    supported.append(commitment)
    asked = {one.sop_class: (one.scu, one.scp) for one in roles}
    answers, replies = negotiate_as_acceptor(proposals, supported, asked)
    accepted = {one.context_id: one.transfer_syntax[0] for one in answers if one.result == 0}
    rejected = {one.context_id: one.result for one in answers if one.result}
    granted = {
        str(one.sop_class_uid): (one.scu_role, one.scp_role)
        for one in replies
        if isinstance(one, SCP_SCU_RoleSelectionNegotiation)
    }
    return accepted, rejected, granted


@given(
    uids=st.lists(classes.filter(bool), max_size=12),
    proposed=st.lists(
        st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_LS, DEFLATED]), min_size=1
    ),
    role=st.sampled_from([None, (True, False), (False, True), (True, True)]),
)
def test_pynetdicom_negotiates_the_same_where_everything_is_permitted(
    uids: list[str], proposed: list[str], role: tuple[bool, bool] | None
) -> None:
    contexts = tuple(
        ProposedContext(2 * number + 1, uid, tuple(dict.fromkeys(proposed)))
        for number, uid in enumerate(uids)
    )
    roles = (Role(STORAGE_COMMITMENT, scu=role[0], scp=role[1]),) if role else ()

    answers, replies = negotiate(request(*contexts, roles=roles), EVERYTHING)

    assert theirs(contexts, roles) == (
        {one.id: one.transfer_syntax for one in answers if one.result == ACCEPTED},
        {one.id: one.result for one in answers if one.result != ACCEPTED},
        {one.sop_class: (one.scu, one.scp) for one in replies},
    )
