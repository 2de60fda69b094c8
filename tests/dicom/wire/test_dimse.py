"""Command sets are read with limits, and answered with what the Standard's tables want."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_CREATE_RQ,
    N_CREATE_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    N_SET_RQ,
    N_SET_RSP,
    DIMSEMessage,
)
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET
from pynetdicom.dsutils import decode, encode

from node.dicom.wire import dimse
from node.dicom.wire.dimse import (
    Command,
    CommandReader,
    DimseError,
    as_pdata,
    decode_command,
    encode_command,
    encode_echo_request,
    encode_response,
    encode_store_request,
)
from node.dicom.wire.pdu import MIN_MAX_LENGTH, P_DATA

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"
VERIFICATION = "1.2.840.10008.1.1"
UID = "1.2.826.0.1.3680043.8.498.1"


def us(value: int) -> bytes:
    return struct.pack("<H", value)


def element(number: int, value: bytes, *, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


STORE = {
    0x0002: CT.encode() + b"\0",
    0x0100: us(dimse.C_STORE_RQ),
    0x0110: us(7),
    0x0700: us(0),
    0x0800: us(1),
    0x1000: UID.encode() + b"\0",
}


def raw(elements: dict[int, bytes]) -> bytes:
    return b"".join(element(number, value) for number, value in elements.items())


def refusal(data: bytes) -> DimseError:
    with pytest.raises(DimseError) as caught:
        decode_command(data)
    return caught.value


def unpacked(pdata: bytes) -> bytes:
    """The command set in P-DATA-TF PDUs of one fragment each; all headers are checked."""
    command_set, last = b"", False
    while pdata:
        assert not last, "a fragment follows the last one"
        kind, length = struct.unpack_from(">BxI", pdata)
        size, context, control = struct.unpack_from(">IBB", pdata, 6)
        assert (kind, length, context) == (P_DATA, size + 4, 5)
        assert control in (1, 3)
        command_set += pdata[12 : 6 + length]
        last = control == 3
        pdata = pdata[6 + length :]
    assert last, "the last fragment is missing"
    return command_set


def elements_of(pdata: bytes) -> Dataset:
    """The elements of a response, as pynetdicom reads them; the group length is checked."""
    command_set = unpacked(pdata)
    (group_length,) = struct.unpack_from("<8xI", command_set)
    assert group_length == len(command_set) - 12
    dataset = decode(BytesIO(command_set), True, True)
    tags = [int(one.tag) for one in dataset]
    assert tags == sorted(tags)
    return dataset


# -- reading --------------------------------------------------------------------------------------


def test_a_store_request_is_read() -> None:
    assert decode_command(raw(STORE)) == Command(
        field=dimse.C_STORE_RQ,
        message_id=7,
        responded_id=0,
        sop_class=CT,
        sop_uid=UID,
        has_dataset=True,
        priority=0,
        event_type=0,
        action_type=0,
        status=0,
        originator_ae="",
        originator_id=0,
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_read(kind: type) -> None:
    assert decode_command(kind(raw(STORE))).sop_uid == UID


@pytest.mark.parametrize("group_length", [0, 1, 0xFFFFFFFF])
def test_a_wrong_group_length_is_not_looked_at(group_length: int) -> None:
    data = element(0x0000, struct.pack("<I", group_length)) + raw(STORE)

    assert decode_command(data) == decode_command(raw(STORE))


def test_elements_may_come_in_any_order() -> None:
    assert decode_command(raw(dict(reversed(STORE.items())))) == decode_command(raw(STORE))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (UID.encode(), UID),
        (UID.encode() + b"\0", UID),
        (UID.encode() + b" ", UID),
        (b"", ""),
        (b"\0\0", ""),
        (b"1.2.\xff\n3\0", "1.2.??3"),
        (b"../../../x", "../../../x"),
        (b"1" * 1000, "1" * 1000),
    ],
)
def test_a_uid_is_shown_printable_and_judged_elsewhere(value: bytes, shown: str) -> None:
    assert decode_command(raw(STORE | {0x1000: value})).sop_uid == shown


@pytest.mark.parametrize(("value", "follows"), [(0x0101, False), (0, True), (1, True), (258, True)])
def test_only_0101h_says_that_no_data_set_follows(value: int, *, follows: bool) -> None:
    assert decode_command(raw(STORE | {0x0800: us(value)})).has_dataset is follows


def test_unknown_elements_of_the_group_are_stepped_over() -> None:
    assert decode_command(raw({0x0001: b"", **STORE, 0x5010: b"x" * 500})).sop_uid == UID


def test_a_cancel_names_the_message_that_it_cancels() -> None:
    data = raw({0x0100: us(dimse.C_CANCEL_RQ), 0x0120: us(9), 0x0800: us(0x0101)})

    assert decode_command(data).responded_id == 9


def test_an_echo_without_its_sop_class_is_read() -> None:
    data = raw({0x0100: us(dimse.C_ECHO_RQ), 0x0110: us(3), 0x0800: us(0x0101)})

    assert decode_command(data).message_id == 3


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [0x0100, 0x0110, 0x0800])
def test_without_field_id_or_data_set_type_there_is_nothing_to_answer(absent: int) -> None:
    fault = refusal(raw({number: value for number, value in STORE.items() if number != absent}))

    assert fault.command is None


@pytest.mark.parametrize("number", [0x0100, 0x0110, 0x0800])
@pytest.mark.parametrize("value", [b"", b"\1", b"\1\0\0\0"])
def test_a_number_of_the_wrong_size_counts_as_absent(number: int, value: bytes) -> None:
    assert refusal(raw(STORE | {number: value})).command is None


def test_a_response_without_the_id_that_it_answers_is_refused() -> None:
    assert refusal(raw(STORE | {0x0100: us(0x8001)})).command is None


@pytest.mark.parametrize(
    ("field", "needed"),
    [
        (dimse.C_STORE_RQ, {0x0002, 0x1000}),
        (dimse.N_EVENT_REPORT_RQ, {0x0002, 0x1000, 0x1002}),
        (dimse.N_GET_RQ, {0x0003, 0x1001}),
        (dimse.N_SET_RQ, {0x0003, 0x1001}),
        (dimse.N_ACTION_RQ, {0x0003, 0x1001, 0x1008}),
        (dimse.N_CREATE_RQ, {0x0002}),
        (dimse.N_DELETE_RQ, {0x0003, 0x1001}),
        (dimse.C_ECHO_RQ, set()),
    ],
)
def test_a_request_that_lacks_what_its_message_needs_can_be_answered(
    field: int, needed: set[int]
) -> None:
    base = {0x0100: us(field), 0x0110: us(7), 0x0800: us(1)}
    whole = base | {number: b"1\0" if number % 0x1000 < 4 else us(1) for number in needed}

    assert decode_command(raw(whole)).field == field
    for number in needed:
        fault = refusal(raw({key: value for key, value in whole.items() if key != number}))
        assert fault.status == dimse.MISTYPED
        assert f"(0000,{number:04X})" in fault.what
        assert fault.command is not None
        assert (fault.command.message_id, fault.command.has_dataset) == (7, True)


@pytest.mark.parametrize(
    ("field", "number"), [(dimse.N_EVENT_REPORT_RQ, 0x1002), (dimse.N_ACTION_RQ, 0x1008)]
)
def test_a_type_of_the_wrong_size_is_refused(field: int, number: int) -> None:
    names = {0x0002: b"1.2\0", 0x0003: b"1.2\0", 0x1000: b"1.2\0", 0x1001: b"1.2\0"}
    base = {0x0100: us(field), 0x0110: us(7), 0x0800: us(1)}

    assert refusal(raw(base | names | {number: b"\1"})).status == dimse.MISTYPED


@pytest.mark.parametrize("group", [0x0002, 0x0008, 0xFFFE])
def test_an_element_of_another_group_is_refused_with_the_command_so_far(group: int) -> None:
    fault = refusal(raw(STORE) + element(0x0010, b"x", group=group))

    assert fault.status == dimse.MISTYPED
    assert fault.command == decode_command(raw(STORE))


def test_an_element_twice_is_refused() -> None:
    assert refusal(raw(STORE) + element(0x1000, b"1.2\0")).status == dimse.MISTYPED


@pytest.mark.parametrize("end", [b"\0", element(0x5010, b"")[:7], struct.pack("<HHI", 0, 9, 1)])
def test_an_element_that_is_cut_short_is_refused(end: bytes) -> None:
    assert refusal(raw(STORE) + end).status == 0x0110


def test_a_length_of_4_gib_is_not_believed() -> None:
    assert refusal(raw(STORE) + struct.pack("<HHI", 0, 0x1030, 0xFFFFFFFF)).status == 0x0110


def test_more_than_64_elements_are_refused() -> None:
    more = {0x5000 + 2 * number: b"" for number in range(dimse.MAX_ELEMENTS - len(STORE))}

    decode_command(raw(STORE | more))
    assert refusal(raw(STORE | more | {0x6000: b""})).status == 0x0110


def test_more_than_64_kib_are_refused() -> None:
    room = dimse.MAX_COMMAND_BYTES - len(raw(STORE)) - 8

    decode_command(raw(STORE | {0x5010: bytes(room)}))
    fault = refusal(raw(STORE | {0x5010: bytes(room + 1)}))
    assert (fault.status, fault.command) == (0x0110, None)


def test_an_empty_command_set_is_refused() -> None:
    assert refusal(b"").command is None


# -- agreement with another implementation: requests ----------------------------------------------


def others_command_set(message: DIMSEMessage) -> bytes:
    data = encode(message.command_set, True, True)
    assert data is not None
    return data


def test_a_store_request_of_pynetdicom_is_read_as_it_was_meant() -> None:
    primitive = C_STORE()
    primitive.MessageID = 65_535
    primitive.AffectedSOPClassUID = CT
    primitive.AffectedSOPInstanceUID = UID
    primitive.Priority = 2
    primitive.MoveOriginatorApplicationEntityTitle = "MOVER"
    primitive.MoveOriginatorMessageID = 12
    primitive.DataSet = BytesIO(b"x")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)

    command = decode_command(others_command_set(message))

    assert (command.field, command.message_id) == (dimse.C_STORE_RQ, 65_535)
    assert (command.sop_class, command.sop_uid, command.has_dataset) == (CT, UID, True)
    assert (command.priority, command.originator_ae, command.originator_id) == (2, "MOVER", 12)


def test_an_action_request_of_pynetdicom_is_read_by_its_requested_uids() -> None:
    primitive = N_ACTION()
    primitive.MessageID = 3
    primitive.RequestedSOPClassUID = COMMITMENT
    primitive.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
    primitive.ActionTypeID = 1
    primitive.ActionInformation = BytesIO(b"x")
    message = N_ACTION_RQ()
    message.primitive_to_message(primitive)

    command = decode_command(others_command_set(message))

    assert (command.field, command.action_type) == (dimse.N_ACTION_RQ, 1)
    assert (command.sop_class, command.sop_uid) == (COMMITMENT, "1.2.840.10008.1.20.1.1")


def test_an_event_report_of_pynetdicom_is_read_with_its_type() -> None:
    primitive = N_EVENT_REPORT()
    primitive.MessageID = 3
    primitive.AffectedSOPClassUID = COMMITMENT
    primitive.AffectedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
    primitive.EventTypeID = 2
    primitive.EventInformation = BytesIO(b"x")
    message = N_EVENT_REPORT_RQ()
    message.primitive_to_message(primitive)

    command = decode_command(others_command_set(message))

    assert (command.field, command.event_type) == (dimse.N_EVENT_REPORT_RQ, 2)
    assert command.sop_class == COMMITMENT


def test_create_and_set_requests_of_pynetdicom_are_read() -> None:
    create = N_CREATE()
    create.MessageID = 4
    create.AffectedSOPClassUID = CT
    create.AttributeList = BytesIO(b"x")
    created = N_CREATE_RQ()
    created.primitive_to_message(create)
    change = N_SET()
    change.MessageID = 5
    change.RequestedSOPClassUID = CT
    change.RequestedSOPInstanceUID = UID
    change.ModificationList = BytesIO(b"x")
    changed = N_SET_RQ()
    changed.primitive_to_message(change)

    first = decode_command(others_command_set(created))
    second = decode_command(others_command_set(changed))

    assert (first.field, first.sop_class, first.sop_uid) == (dimse.N_CREATE_RQ, CT, "")
    assert (second.field, second.sop_class, second.sop_uid) == (dimse.N_SET_RQ, CT, UID)


def test_our_store_request_is_what_pynetdicom_writes() -> None:
    primitive = C_STORE()
    primitive.MessageID = 9
    primitive.AffectedSOPClassUID = CT
    primitive.AffectedSOPInstanceUID = UID
    primitive.Priority = 1
    primitive.DataSet = BytesIO(b"x")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)

    assert encode_store_request(9, CT, UID, priority=1) == others_command_set(message)


def test_our_echo_request_is_what_pynetdicom_writes() -> None:
    primitive = C_ECHO()
    primitive.MessageID = 9
    primitive.AffectedSOPClassUID = VERIFICATION
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)

    assert encode_echo_request(9) == others_command_set(message)


# -- answering ------------------------------------------------------------------------------------


def request(field: int, *, uid: str = UID, event_type: int = 0, action_type: int = 0) -> Command:
    named = {0x0002: CT, 0x1000: uid}
    if field in (dimse.N_SET_RQ, dimse.N_ACTION_RQ, dimse.N_GET_RQ, dimse.N_DELETE_RQ):
        named = {0x0003: CT, 0x1001: uid}
    numbers = {0x0100: field, 0x0110: 517, 0x0800: 0x0101, 0x1002: event_type, 0x1008: action_type}
    return decode_command(
        encode_command(
            {number: value.encode() for number, value in named.items()}
            | {number: us(value) for number, value in numbers.items()}
        )
    )


@pytest.mark.parametrize(
    ("field", "more"),
    [
        (dimse.C_STORE_RQ, {"AffectedSOPInstanceUID"}),
        (dimse.C_ECHO_RQ, set()),
        (dimse.C_FIND_RQ, set()),
        (dimse.C_MOVE_RQ, set()),
        (dimse.C_GET_RQ, set()),
        (dimse.N_EVENT_REPORT_RQ, {"AffectedSOPInstanceUID", "EventTypeID"}),
        (dimse.N_ACTION_RQ, {"AffectedSOPInstanceUID", "ActionTypeID"}),
        (dimse.N_CREATE_RQ, {"AffectedSOPInstanceUID"}),
        (dimse.N_SET_RQ, {"AffectedSOPInstanceUID"}),
        (dimse.N_GET_RQ, {"AffectedSOPInstanceUID"}),
        (dimse.N_DELETE_RQ, {"AffectedSOPInstanceUID"}),
        (0x7FFE, set()),
    ],
)
def test_a_response_has_the_elements_of_its_table_and_no_others(field: int, more: set[str]) -> None:
    answer = elements_of(
        encode_response(request(field, event_type=2, action_type=1), context_id=5, status=0)
    )

    assert {one.keyword for one in answer} == more | {
        "CommandGroupLength",
        "AffectedSOPClassUID",
        "CommandField",
        "MessageIDBeingRespondedTo",
        "CommandDataSetType",
        "Status",
    }
    assert answer.CommandField == field | 0x8000
    assert answer.MessageIDBeingRespondedTo == 517
    assert answer.CommandDataSetType == 0x0101
    assert answer.Status == 0
    assert answer.AffectedSOPClassUID == CT
    assert answer.get("AffectedSOPInstanceUID", UID) == UID
    assert answer.get("EventTypeID", 2) == 2
    assert answer.get("ActionTypeID", 1) == 1


@pytest.mark.parametrize(
    ("field", "message", "primitive"),
    [
        (dimse.C_STORE_RQ, C_STORE_RSP, C_STORE),
        (dimse.C_ECHO_RQ, C_ECHO_RSP, C_ECHO),
        (dimse.N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP, N_EVENT_REPORT),
        (dimse.N_ACTION_RQ, N_ACTION_RSP, N_ACTION),
        (dimse.N_CREATE_RQ, N_CREATE_RSP, N_CREATE),
        (dimse.N_SET_RQ, N_SET_RSP, N_SET),
    ],
)
def test_our_response_is_byte_for_byte_what_pynetdicom_writes(
    field: int, message: type[DIMSEMessage], primitive: type
) -> None:
    response = primitive()
    response.MessageIDBeingRespondedTo = 517
    response.AffectedSOPClassUID = CT
    response.Status = 0
    if field != dimse.C_ECHO_RQ:
        response.AffectedSOPInstanceUID = UID
    if field == dimse.N_EVENT_REPORT_RQ:
        response.EventTypeID = 2
    if field == dimse.N_ACTION_RQ:
        response.ActionTypeID = 1
    theirs = message()
    theirs.primitive_to_message(response)

    ours = encode_response(request(field, event_type=2, action_type=1), context_id=5, status=0)

    assert unpacked(ours) == others_command_set(theirs)


def test_a_refusal_says_why_in_a_comment_of_one_ascii_line() -> None:
    long = "The disk is below its reserve of 10 GiB; nothing is kept until there is röom.\n"

    answer = elements_of(
        encode_response(request(dimse.C_STORE_RQ), context_id=5, status=0xA700, comment=long)
    )

    assert answer.Status == 0xA700
    assert answer.ErrorComment.startswith("The disk is below")
    assert len(answer.ErrorComment) <= 64
    assert answer.ErrorComment.isascii()


def test_the_instance_the_event_and_the_action_of_an_answer_can_be_given() -> None:
    created = elements_of(
        encode_response(request(dimse.N_CREATE_RQ, uid=""), context_id=5, status=0, sop_uid="1.2.3")
    )
    reported = elements_of(
        encode_response(request(dimse.N_EVENT_REPORT_RQ), context_id=5, status=0x0113, event_type=9)
    )
    acted = elements_of(
        encode_response(request(dimse.N_ACTION_RQ), context_id=5, status=0x0123, action_type=8)
    )

    assert created.AffectedSOPInstanceUID == "1.2.3"
    assert reported.EventTypeID == 9
    assert acted.ActionTypeID == 8


def test_an_answer_names_no_instance_where_the_request_named_none() -> None:
    answer = elements_of(
        encode_response(request(dimse.N_CREATE_RQ, uid=""), context_id=5, status=0x0110)
    )

    assert "AffectedSOPInstanceUID" not in answer


@given(
    uid=st.text("0123456789.", max_size=70),
    comment=st.text(max_size=80),
    status=st.integers(0, 0xFFFF),
    max_length=st.one_of(st.just(0), st.integers(MIN_MAX_LENGTH, 400)),
)
def test_every_answer_is_read_back_as_it_was_meant_and_fits_the_peer(
    uid: str, comment: str, status: int, max_length: int
) -> None:
    pdata = encode_response(
        request(dimse.C_STORE_RQ, uid=uid),
        context_id=5,
        status=status,
        comment=comment,
        max_length=max_length,
    )

    command = decode_command(unpacked(pdata))

    assert (command.field, command.responded_id) == (dimse.C_STORE_RSP, 517)
    assert (command.status, command.sop_class, command.sop_uid) == (status, CT, uid)
    at = 0
    while at < len(pdata):
        (length,) = struct.unpack_from(">2xI", pdata, at)
        assert max_length == 0 or length <= max_length
        assert length % 2 == 0
        at += 6 + length


@given(size=st.integers(1, 300), max_length=st.integers(MIN_MAX_LENGTH, 400))
def test_a_command_set_is_whole_again_after_fragmentation(size: int, max_length: int) -> None:
    data = bytes(range(256)) * 2

    assert unpacked(as_pdata(data[:size], context_id=5, max_length=max_length)) == data[:size]


@given(st.dictionaries(st.integers(1, 0xFFFF), st.binary(max_size=9), max_size=50))
def test_elements_are_written_in_order_and_of_even_length(values: dict[int, bytes]) -> None:
    data = encode_command(values)

    assert data[:12] == element(0x0000, struct.pack("<I", len(data) - 12))
    at = 12
    for number in sorted(values):
        group, written, length = struct.unpack_from("<HHI", data, at)
        value = data[at + 8 : at + 8 + length]
        assert (group, written, length % 2) == (0, number, 0)
        assert value in (values[number], values[number] + b"\0", values[number] + b" ")
        at += 8 + length
    assert at == len(data)


@hypothesis_settings(deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 0xFFFF),
            st.sampled_from(("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4")),
            st.text("0123456789.", min_size=1, max_size=64),
            st.sampled_from((0, 1, 2)),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_a_reader_that_remembers_reads_what_one_without_memory_reads(
    requests: list[tuple[int, str, str, int, bool]],
) -> None:
    reader = CommandReader()
    for message_id, sop_class, sop_uid, priority, echo in requests:
        if echo:
            data = encode_echo_request(message_id)
        else:
            data = encode_store_request(message_id, sop_class, sop_uid, priority=priority)
        assert reader.read(data) == decode_command(data)
