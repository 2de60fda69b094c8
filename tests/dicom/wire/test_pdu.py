"""The association codec takes what devices send, refuses what could lie, and agrees with others."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from node.dicom.wire import pdu
from node.dicom.wire.pdu import (
    AnsweredContext,
    AssociateRequest,
    PduError,
    ProposedContext,
    Role,
    UserIdentity,
    decode_associate_accept,
    decode_associate_request,
    encode_associate_accept,
    encode_associate_request,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
TITLES = b"LIMNER".ljust(16) + b"SCANNER".ljust(16) + bytes(32)


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def context(number: int, *sub_items: bytes) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(sub_items))


CT_CONTEXT = context(1, item(0x30, CT.encode()), item(0x40, EXPLICIT.encode()))
APPLICATION = item(0x10, pdu.APPLICATION_CONTEXT.encode())
USER = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))


def request_body(*items: bytes, titles: bytes = TITLES) -> bytes:
    return struct.pack(">HH", 1, 0) + titles + b"".join(items)


def decoded(*items: bytes, titles: bytes = TITLES) -> AssociateRequest:
    return decode_associate_request(request_body(*items, titles=titles))


def refusal(body: bytes) -> PduError:
    with pytest.raises(PduError) as caught:
        decode_associate_request(body)
    return caught.value


# -- what devices send ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (b"SCANNER         ", "SCANNER"),
        (b"SCANNER\0\0\0\0\0\0\0\0\0", "SCANNER"),
        (b"SCANNER \0 \0\0\0\0\0\0", "SCANNER"),
        (b"  SCANNER       ", "SCANNER"),
        (b"CT SCANNER ROOM1", "CT SCANNER ROOM1"),
        (b" " * 16, ""),
        (b"\0" * 16, ""),
        ("RÖNTGEN".encode("latin-1").ljust(16), "R?NTGEN"),
        (b"A\nB\x1b[31m\x7f\xff".ljust(16), "A?B?[31m??"),
        (b"../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_an_ae_title_is_taken_whatever_its_padding_and_signs(field: bytes, shown: str) -> None:
    assert len(field) == 16
    titles = field + field + bytes(32)

    request = decoded(CT_CONTEXT, titles=titles)

    assert (request.called_ae, request.calling_ae) == (shown, shown)
    assert request.titles == titles


@pytest.mark.parametrize("padding", [b"\0", b"\0\0", b" ", b" \0"])
def test_a_uid_is_taken_with_the_padding_that_devices_add(padding: bytes) -> None:
    request = decoded(
        item(0x10, pdu.APPLICATION_CONTEXT.encode() + padding),
        context(3, item(0x30, CT.encode() + padding), item(0x40, EXPLICIT.encode() + padding)),
        item(0x50, item(0x52, b"1.2.3" + padding) + item(0x55, b"DEVICE 1" + padding)),
    )

    assert request.application_context == pdu.APPLICATION_CONTEXT
    assert request.contexts == (ProposedContext(3, CT, (EXPLICIT,)),)
    assert request.implementation_class_uid == "1.2.3"
    assert request.implementation_version == "DEVICE 1"


def test_a_request_without_user_information_has_no_maximum_length() -> None:
    request = decoded(APPLICATION, CT_CONTEXT)

    assert request.max_length == 0
    assert request.roles == ()
    assert request.async_window is None
    assert request.user_identity is None


def test_a_request_without_application_context_is_read_so_that_it_can_be_rejected() -> None:
    assert decoded(CT_CONTEXT, USER).application_context == ""


def test_unknown_items_are_stepped_over_wherever_they_stand() -> None:
    unknown = item(0x99, b"whatever")

    request = decoded(
        unknown,
        APPLICATION,
        unknown,
        context(1, unknown, item(0x30, CT.encode()), unknown, item(0x40, EXPLICIT.encode())),
        item(0x50, unknown + item(0x51, struct.pack(">I", 16384)) + item(0x56, b"\0\1") + unknown),
        unknown,
    )

    assert request.contexts == (ProposedContext(1, CT, (EXPLICIT,)),)
    assert request.max_length == 16384


def test_items_may_come_in_any_order() -> None:
    assert decoded(USER, CT_CONTEXT, APPLICATION) == decoded(APPLICATION, CT_CONTEXT, USER)


@pytest.mark.parametrize(
    ("sub_items", "read"),
    [
        ((), ProposedContext(1, "", ())),
        ((item(0x30, b""), item(0x40, EXPLICIT.encode())), ProposedContext(1, "", (EXPLICIT,))),
        ((item(0x30, b"\0"), item(0x40, EXPLICIT.encode())), ProposedContext(1, "", (EXPLICIT,))),
        ((item(0x30, CT.encode()),), ProposedContext(1, CT, ())),
        ((item(0x30, CT.encode()), item(0x40, b"")), ProposedContext(1, CT, ("",))),
    ],
)
def test_a_context_with_something_missing_costs_only_itself(
    sub_items: tuple[bytes, ...], read: ProposedContext
) -> None:
    other = context(3, item(0x30, CT.encode()), item(0x40, EXPLICIT.encode()))

    request = decoded(APPLICATION, context(1, *sub_items), other, USER)

    assert request.contexts == (read, ProposedContext(3, CT, (EXPLICIT,)))


def test_a_user_identity_is_noted_and_its_secret_is_nowhere() -> None:
    secret = b"correct horse"
    identity = bytes((2, 1)) + struct.pack(">H", 4) + b"anna" + struct.pack(">H", 13) + secret

    request = decoded(APPLICATION, CT_CONTEXT, item(0x50, item(0x58, identity)))

    assert request.user_identity == UserIdentity(kind=2, response_wanted=True)
    assert "horse" not in repr(request)
    assert "anna" not in repr(request)


def test_128_contexts_are_taken() -> None:
    contexts = [context(2 * i + 1, item(0x30, CT.encode())) for i in range(128)]

    request = decoded(APPLICATION, *contexts, USER)

    assert [one.id for one in request.contexts] == list(range(1, 256, 2))


# -- what is refused ------------------------------------------------------------------------------


def test_a_request_cut_anywhere_is_refused_or_read_as_what_is_there() -> None:
    identity = item(0x58, b"\x01\0\0\1a\0\0")
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
    body = request_body(APPLICATION, CT_CONTEXT, item(0x50, USER[4:] + role + identity))
    ends_of_items = {72 + len(APPLICATION) - 4 + n for n in (0, len(CT_CONTEXT))} | {68}

    for size in range(len(body)):
        if size in ends_of_items:
            decode_associate_request(body[:size])
        else:
            assert refusal(body[:size]).reason == pdu.INVALID_PARAMETER


@pytest.mark.parametrize(
    "damaged",
    [
        item(0x20, b""),
        item(0x20, b"\1\0\0"),
        context(1, struct.pack(">BxH", 0x30, 100) + CT.encode()),
        context(1, item(0x30, CT.encode()), b"\x40\0\0"),
        item(0x50, struct.pack(">BxHI", 0x51, 8, 16384)),
        item(0x50, item(0x51, b"\0\0\1")),
        item(0x50, item(0x51, struct.pack(">I", 15))),
        item(0x50, item(0x53, b"\0\1")),
        item(0x50, item(0x54, b"\0")),
        item(0x50, item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1")),
        item(0x50, item(0x54, b"\xff\xff1.2\1\1")),
        item(0x50, item(0x58, b"")),
        item(0x50, item(0x58, b"\1\0\0")),
        item(0x50, item(0x58, b"\1\0\0\5anna\0\0")),
        item(0x50, item(0x58, b"\1\0\0\4anna")),
        item(0x50, item(0x58, b"\2\0\0\4anna\0\5word")),
        b"\x50",
    ],
)
def test_an_item_whose_length_lies_is_refused(damaged: bytes) -> None:
    fault = refusal(request_body(APPLICATION, damaged))

    assert fault.reason == pdu.INVALID_PARAMETER
    assert fault.what.endswith(".")


@pytest.mark.parametrize("number", [0, 2, 254])
def test_an_even_context_identifier_is_refused(number: int) -> None:
    body = request_body(APPLICATION, context(number, item(0x30, CT.encode())), USER)

    assert refusal(body).reason == pdu.INVALID_PARAMETER


def test_a_context_identifier_that_appears_twice_is_refused() -> None:
    assert refusal(request_body(CT_CONTEXT, CT_CONTEXT)).reason == pdu.INVALID_PARAMETER


def test_more_than_128_contexts_are_refused() -> None:
    contexts = [context((2 * i + 1) % 256, item(0x30, CT.encode())) for i in range(129)]

    assert refusal(request_body(*contexts)).reason == pdu.INVALID_PARAMETER


@pytest.mark.parametrize(
    "repeated",
    [
        APPLICATION + APPLICATION,
        USER + USER,
        context(1, item(0x30, CT.encode()), item(0x30, COMMITMENT.encode())),
    ],
)
def test_what_may_be_there_once_is_refused_twice(repeated: bytes) -> None:
    assert refusal(request_body(repeated)).reason == pdu.UNEXPECTED_PARAMETER


@pytest.mark.parametrize("size", [0, 1, 4, 67])
def test_a_request_shorter_than_its_fixed_part_is_refused(size: int) -> None:
    assert refusal(bytes(size)).reason == pdu.INVALID_PARAMETER


def hostile_bodies(size: int) -> list[bytes]:
    """Requests of about `size` bytes that make a careless decoder work hardest."""
    empty, syntax = item(0x99, b""), item(0x40, b"")
    per_item = (size - 100) // 4
    contexts = [
        context(2 * i + 1, item(0x30, CT.encode()), *[syntax] * (per_item // 128 - 8))
        for i in range(128)
    ]
    roles = item(0x54, b"\0\0\1\1")
    return [
        request_body(empty * per_item),
        request_body(*contexts),
        request_body(item(0x50, empty * min(per_item, 16_000))),
        request_body(item(0x50, roles * min(per_item // 2, 8_000))),
        request_body(*[item(0x10, b"1" * 65_000)] * (size // 65_000)),
    ]


def steps(body: bytes) -> int:
    """Calls made and returned from while `body` is decoded: a clock that no neighbour disturbs."""
    count = 0

    def tick(_frame: object, _event: str, _argument: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(tick)
    try:
        decode_associate_request(body)
    except PduError:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", range(5))
def test_a_hostile_request_of_512_kib_costs_a_bounded_number_of_steps(kind: int) -> None:
    small, large = hostile_bodies(32 * 1024)[kind], hostile_bodies(512 * 1024)[kind]

    assert steps(large) <= 20 * pdu.MAX_ITEMS
    assert steps(large) <= 18 * steps(small) + 100


def test_the_walk_ends_at_its_limit_of_items() -> None:
    assert "items" in refusal(request_body(item(0x99, b"") * (pdu.MAX_ITEMS + 1))).what

    decoded(item(0x99, b"") * pdu.MAX_ITEMS)


# -- agreement with another implementation --------------------------------------------------------


def others_request() -> bytes:
    """A request as pynetdicom writes it."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = pdu.APPLICATION_CONTEXT
    primitive.calling_ae_title = "SCANNER"
    primitive.called_ae_title = "LIMNER"
    proposals = [build_context(CT, [EXPLICIT, IMPLICIT]), build_context(COMMITMENT, [IMPLICIT])]
    for number, proposal in zip((1, 3), proposals, strict=True):
        proposal.context_id = number
    primitive.presentation_context_definition_list = proposals
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = 28_672
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.1"
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "DEVICE 7"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 0
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = COMMITMENT
    role.scu_role, role.scp_role = False, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = CT
    extended.service_class_application_information = b"\2\0\0\0\0\0"
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"anna", b"word"
    identity.positive_response_requested = True
    primitive.user_information = [
        maximum,
        implementation,
        version,
        window,
        role,
        extended,
        identity,
    ]
    whole = A_ASSOCIATE_RQ()
    whole.from_primitive(primitive)
    return bytes(whole.encode())


def test_what_pynetdicom_asks_is_read_as_it_was_meant() -> None:
    whole = others_request()
    kind, length = pdu.PDU_HEADER.unpack_from(whole)

    request = decode_associate_request(memoryview(whole)[6:])

    assert (kind, length) == (pdu.ASSOCIATE_RQ, len(whole) - 6)
    assert request == AssociateRequest(
        called_ae="LIMNER",
        calling_ae="SCANNER",
        protocol_version=1,
        application_context=pdu.APPLICATION_CONTEXT,
        contexts=(
            ProposedContext(1, CT, (EXPLICIT, IMPLICIT)),
            ProposedContext(3, COMMITMENT, (IMPLICIT,)),
        ),
        max_length=28_672,
        implementation_class_uid="1.2.826.0.1.1",
        implementation_version="DEVICE 7",
        async_window=(5, 0),
        roles=(Role(COMMITMENT, scu=False, scp=True),),
        user_identity=UserIdentity(kind=2, response_wanted=True),
        titles=TITLES,
    )


def test_what_we_answer_is_read_by_pynetdicom_as_it_was_meant() -> None:
    request = decode_associate_request(others_request()[6:])
    whole = encode_associate_accept(
        request,
        [AnsweredContext(1, 0, CT, EXPLICIT), AnsweredContext(3, 3, COMMITMENT, IMPLICIT)],
        max_length=131_072,
        roles=[Role(COMMITMENT, scu=False, scp=True)],
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )

    theirs = A_ASSOCIATE_AC()
    theirs.decode(whole)

    assert theirs.encode() == whole
    assert (theirs.called_ae_title, theirs.calling_ae_title) == ("LIMNER", "SCANNER")
    assert theirs.application_context_name == pdu.APPLICATION_CONTEXT
    answers = [(one.context_id, one.result) for one in theirs.presentation_context]
    assert answers == [(1, 0), (3, 3)]
    user = theirs.user_information
    assert user is not None
    assert user.maximum_length == 131_072
    assert user.implementation_class_uid == "1.2.3.4"
    assert user.implementation_version_name == "LIMNER"
    window = user.async_ops_window
    assert (window.max_operations_invoked, window.max_operations_performed) == (1, 1)
    role = user.role_selection[COMMITMENT]
    assert (role.scu_role, role.scp_role) == (0, 1)
    assert user.user_identity is not None
    assert user.user_identity.server_response == b""


def test_an_answer_holds_only_what_was_negotiated() -> None:
    plain_request = decoded(APPLICATION, CT_CONTEXT, USER)
    whole = encode_associate_accept(
        plain_request,
        [AnsweredContext(1, 0, CT, EXPLICIT)],
        max_length=0,
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )

    answer = decode_associate_accept(whole[6:])

    assert answer.contexts == (AnsweredContext(1, 0, "", EXPLICIT),)
    assert answer.async_window is None
    assert answer.roles == ()
    assert b"\x59\0\0\2" not in whole


@pytest.mark.parametrize(
    ("identity", "answered"),
    [
        (None, False),
        (UserIdentity(1, response_wanted=True), True),
        (UserIdentity(2, response_wanted=False), False),
        (UserIdentity(3, response_wanted=True), False),
        (UserIdentity(5, response_wanted=True), False),
    ],
)
def test_a_user_identity_is_acknowledged_only_where_a_name_wants_it(
    identity: UserIdentity | None, *, answered: bool
) -> None:
    whole = encode_associate_accept(
        replace(decoded(CT_CONTEXT), user_identity=identity),
        [AnsweredContext(1, 0, CT, EXPLICIT)],
        max_length=0,
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )

    assert whole.endswith(b"\x59\0\0\2\0\0") is answered


def test_what_we_ask_is_read_by_pynetdicom_as_it_was_meant() -> None:
    whole = encode_associate_request(
        called_ae="PACS",
        calling_ae="LIMNER",
        contexts=[ProposedContext(1, CT, (EXPLICIT, IMPLICIT)), ProposedContext(255, CT, ("1.2",))],
        max_length=65_536,
        roles=[Role(COMMITMENT, scu=True, scp=False)],
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )

    theirs = A_ASSOCIATE_RQ()
    theirs.decode(whole)

    assert theirs.encode() == whole
    primitive = theirs.to_primitive()
    assert (primitive.called_ae_title, primitive.calling_ae_title) == ("PACS", "LIMNER")
    assert [
        (one.context_id, one.abstract_syntax, one.transfer_syntax)
        for one in primitive.presentation_context_definition_list
    ] == [(1, CT, [EXPLICIT, IMPLICIT]), (255, CT, ["1.2"])]
    assert theirs.user_information.maximum_length == 65_536


def test_an_ae_title_of_ours_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="16"):
        encode_associate_request(
            called_ae="PACS",
            calling_ae="A" * 17,
            contexts=[],
            max_length=0,
            implementation_class_uid="1.2",
            implementation_version="X",
        )


@pytest.mark.parametrize("codes", [(1, 1, 3), (1, 1, 7), (2, 3, 2), (1, 2, 2)])
def test_a_rejection_is_written_and_read_as_pynetdicom_does(codes: tuple[int, int, int]) -> None:
    whole = pdu.encode_associate_reject(*codes)

    theirs = A_ASSOCIATE_RJ()
    theirs.decode(whole)

    assert (theirs.result, theirs.source, theirs.reason_diagnostic) == codes
    assert theirs.encode() == whole
    assert pdu.decode_associate_reject(whole[6:]) == codes


@pytest.mark.parametrize("codes", [(0, 0), (2, 1), (2, 6)])
def test_an_abort_is_written_and_read_as_pynetdicom_does(codes: tuple[int, int]) -> None:
    whole = pdu.encode_abort(*codes)

    theirs = A_ABORT_RQ()
    theirs.decode(whole)

    assert (theirs.source, theirs.reason_diagnostic) == codes
    assert theirs.encode() == whole
    assert pdu.decode_abort(whole[6:]) == codes


def test_the_release_pdus_are_those_of_the_standard() -> None:
    assert pdu.RELEASE_RQ_PDU.hex(" ") == "05 00 00 00 00 04 00 00 00 00"
    assert pdu.RELEASE_RP_PDU.hex(" ") == "06 00 00 00 00 04 00 00 00 00"


@pytest.mark.parametrize("decode", [pdu.decode_abort, pdu.decode_associate_reject])
def test_an_abort_or_rejection_cut_short_is_refused(
    decode: Callable[[bytes], tuple[int, ...]],
) -> None:
    with pytest.raises(PduError):
        decode(b"\0\0\1")


# -- round trips ----------------------------------------------------------------------------------

uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=6).map(
    lambda parts: ".".join(map(str, parts))
)
titles = st.text("ABCXYZ019_-. ", min_size=0, max_size=16).map(str.strip)
roles = st.builds(Role, uids, scu=st.booleans(), scp=st.booleans())
lengths = st.one_of(st.just(0), st.integers(pdu.MIN_MAX_LENGTH, 2**32 - 1))
numbers = st.lists(st.integers(0, 127).map(lambda n: 2 * n + 1), max_size=30, unique=True)


@given(
    ae_titles=st.tuples(titles, titles),
    numbers=numbers,
    syntaxes=st.lists(uids, max_size=4).map(tuple),
    max_length=lengths,
    roles=st.lists(roles, max_size=5),
)
def test_a_request_that_is_written_is_read_as_the_same(
    ae_titles: tuple[str, str],
    numbers: list[int],
    syntaxes: tuple[str, ...],
    max_length: int,
    roles: list[Role],
) -> None:
    called, calling = ae_titles
    contexts = tuple(ProposedContext(number, CT, syntaxes) for number in numbers)

    whole = encode_associate_request(
        called_ae=called,
        calling_ae=calling,
        contexts=contexts,
        max_length=max_length,
        roles=roles,
        implementation_class_uid="1.2.3",
        implementation_version="LIMNER 1",
    )
    request = decode_associate_request(whole[6:])

    assert pdu.PDU_HEADER.unpack_from(whole) == (pdu.ASSOCIATE_RQ, len(whole) - 6)
    assert (request.called_ae, request.calling_ae) == (called, calling)
    assert request.contexts == contexts
    assert (request.max_length, request.roles) == (max_length, tuple(roles))


@given(
    answers=st.dictionaries(st.integers(0, 127), st.tuples(st.integers(0, 4), uids), max_size=30),
    max_length=lengths,
    roles=st.lists(roles, max_size=5),
)
def test_an_acceptance_that_is_written_is_read_as_the_same(
    answers: dict[int, tuple[int, str]], max_length: int, roles: list[Role]
) -> None:
    contexts = tuple(
        AnsweredContext(2 * number + 1, result, "", syntax)
        for number, (result, syntax) in answers.items()
    )
    whole = encode_associate_accept(
        decoded(CT_CONTEXT),
        contexts,
        max_length=max_length,
        roles=roles,
        implementation_class_uid="1.2.3",
        implementation_version="LIMNER 1",
    )
    answer = decode_associate_accept(whole[6:])

    assert whole[10:74] == TITLES
    assert answer.contexts == contexts
    assert (answer.max_length, answer.roles) == (max_length, tuple(roles))
    assert answer.implementation_version == "LIMNER 1"
