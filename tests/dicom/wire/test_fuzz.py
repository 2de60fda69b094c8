"""Whatever bytes arrive, the decoders return a value or raise their own error, never anything else.

`LIMNER_FUZZ_SECONDS` says for about how long each test runs (20 if it is not set): the number of
cases follows from it by the rate below, so that a run is the same everywhere. The seed is fresh and
printed; `LIMNER_FUZZ_SEED` gives the same cases again. For an hour by hand:

    LIMNER_FUZZ_SECONDS=3600 nice python -m pytest -s --timeout 0 tests/dicom/wire/test_fuzz.py
"""

from __future__ import annotations

import os
import re
import secrets
import struct
import zlib
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

import pytest
from made_objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded, made_ct
from mutation import FuzzError, fuzz
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from node.dicom.header import HeaderError, facts_of, routing_of
from node.dicom.identity import read_identity
from node.dicom.values import Values, is_uid, read_values, unpack
from node.dicom.walk import CUT_SHORT
from node.dicom.wire.dimse import (
    Command,
    DimseError,
    decode_command,
    encode_command,
    encode_echo_request,
    encode_response,
    encode_store_request,
)
from node.dicom.wire.negotiation import EXPLICIT_LITTLE, IMPLICIT_LITTLE, Offer, negotiate
from node.dicom.wire.pdu import (
    MIN_MAX_LENGTH,
    PduError,
    ProposedContext,
    Role,
    decode_abort,
    decode_associate_accept,
    decode_associate_reject,
    decode_associate_request,
    encode_associate_accept,
    encode_associate_request,
)

SECONDS = float(os.environ.get("LIMNER_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("LIMNER_FUZZ_SEED", secrets.randbelow(2**32)))

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"

pytestmark = pytest.mark.timeout(60 + 6 * SECONDS)


def run(
    target: Callable[[bytes], Hashable],
    corpus: Sequence[bytes],
    words: Sequence[bytes],
    *,
    per_second: int,
) -> None:
    cases = int(SECONDS * per_second)
    print(f"LIMNER_FUZZ_SEED={SEED}, {cases} cases", end=" ", flush=True)  # noqa: T201
    effects = fuzz(target, corpus, words, cases=cases, seed=SEED)
    print(f"-> {effects} effects")  # noqa: T201


def shape(text: str) -> str:
    """A message without its numbers: two faults of one kind have one shape."""
    return re.sub(r"\b[0-9A-F]*[0-9][0-9A-F]*H?\b", "#", text)


def printable(*texts: str) -> bool:
    return all(text.isascii() and text.isprintable() for text in texts)


# -- association requests -------------------------------------------------------------------------

OFFER = Offer(
    services=frozenset({"echo", "store", "ask-commitment", "report-commitment"}),
    storage_classes=frozenset({CT}),
    transfer_syntaxes=(EXPLICIT_LITTLE, IMPLICIT_LITTLE),
    accept_unknown=True,
)


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def requests() -> list[bytes]:
    contexts = [
        ProposedContext(1, CT, (EXPLICIT_LITTLE, IMPLICIT_LITTLE)),
        ProposedContext(3, COMMITMENT, (IMPLICIT_LITTLE,)),
        ProposedContext(5, "1.3.12.2", (EXPLICIT_LITTLE,)),
    ]
    whole = encode_associate_request(
        called_ae="LIMNER",
        calling_ae="SCANNER",
        contexts=contexts,
        max_length=16_384,
        roles=[Role(COMMITMENT, scu=False, scp=True), Role(CT, scu=True, scp=True)],
        implementation_class_uid="1.2.3.4",
        implementation_version="DEVICE 1",
    )
    request = decode_associate_request(whole[6:])
    answers, roles = negotiate(request, OFFER)
    accepted = encode_associate_accept(
        request,
        answers,
        max_length=0,
        roles=roles,
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )
    identity = item(0x58, b"\2\1\0\4anna\0\4word")
    more = item(0x50, item(0x53, b"\0\5\0\0") + identity + item(0x56, b"\0\3" + b"1.2" + b"\1"))
    head = struct.pack(">HH", 1, 0) + b" " * 64
    return [whole[6:], accepted[6:], head + more, head]


REQUEST_WORDS = [
    *(struct.pack(">BxH", kind, size) for kind in range(0x10, 0x5A) for size in (0, 4, 17)),
    item(0x30, CT.encode()),
    item(0x40, EXPLICIT_LITTLE.encode()),
    item(0x20, b"\1\0\0\0" + item(0x30, CT.encode())),
    item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1"),
    item(0x58, b"\1\1\0\0\0\0"),
    *(item(0x20, bytes(size)) for size in range(5)),
    *(item(0x50, item(kind, bytes(size))) for kind in range(0x51, 0x59) for size in range(6)),
    item(0x53, b"\0\0\0\0"),
    b"1.2.840.10008.",
]


def association(data: bytes) -> Hashable:
    for decode in (decode_associate_accept, decode_associate_reject, decode_abort):
        with suppress(PduError):
            decode(data)
    try:
        request = decode_associate_request(data)
    except PduError as fault:
        assert fault.reason in (1, 2, 4, 5, 6)
        assert printable(fault.what)
        return shape(fault.what)
    numbers = [one.id for one in request.contexts]
    assert len(set(numbers)) == len(numbers) <= 128
    assert all(number % 2 for number in numbers)
    assert request.max_length == 0 or request.max_length >= MIN_MAX_LENGTH
    assert printable(request.called_ae, request.calling_ae, request.application_context)
    assert printable(request.implementation_class_uid, request.implementation_version)
    assert printable(*(one.abstract_syntax for one in request.contexts))
    assert printable(*(syntax for one in request.contexts for syntax in one.transfer_syntaxes))
    answers, roles = negotiate(request, OFFER)
    assert [one.id for one in answers] == numbers
    whole = encode_associate_accept(
        request,
        answers,
        max_length=131_072,
        roles=roles,
        implementation_class_uid="1.2.3.4",
        implementation_version="LIMNER",
    )
    read = decode_associate_accept(whole[6:])
    assert read.roles == roles
    assert [(one.id, one.result, one.transfer_syntax) for one in read.contexts] == [
        (one.id, one.result, one.transfer_syntax) for one in answers
    ]
    return (
        tuple(sorted({one.result for one in answers})),
        min(len(answers), 5),
        len(roles),
        request.async_window is None,
        request.user_identity is None,
        request.max_length == 0,
    )


def test_no_association_request_does_more_than_be_refused() -> None:
    run(association, requests(), REQUEST_WORDS, per_second=5_000)


# -- command sets ---------------------------------------------------------------------------------

COMMAND_WORDS = [
    struct.pack("<HHI", group, number, size)
    for group in (0, 2)
    for number in (0, 2, 3, 0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x1000, 0x1001, 0x1030)
    for size in (0, 2, 4)
] + [struct.pack("<HHIH", 0, 0x100, 2, field) for field in (1, 0x30, 0x130, 0x8001, 0xFFF, 0xFFFF)]


def commands() -> list[bytes]:
    report = {
        0x0002: COMMITMENT.encode(),
        0x0100: b"\0\1",
        0x0110: b"\1\0",
        0x0800: b"\0\0",
        0x1000: b"1.2.840.10008.1.20.1.1",
        0x1002: b"\1\0",
    }
    action = {
        0x0003: COMMITMENT.encode(),
        0x0100: b"\x30\1",
        0x0110: b"\1\0",
        0x0800: b"\0\0",
        0x1001: b"1.2.840.10008.1.20.1.1",
        0x1008: b"\1\0",
    }
    cancel = {0x0100: b"\xff\x0f", 0x0120: b"\1\0", 0x0800: b"\1\1"}
    return [
        encode_store_request(1, CT, "1.2.3.4"),
        encode_echo_request(65_535),
        encode_command(report),
        encode_command(action),
        encode_command(cancel),
    ]


def answered(command: Command) -> None:
    pdata = encode_response(
        command, context_id=1, status=0xA700, comment="Refused.", max_length=16_384
    )
    (length,) = struct.unpack_from(">2xI", pdata)
    if len(pdata) == 6 + length:
        answer = decode_command(pdata[12:])
        assert (answer.field, answer.status) == (command.field | 0x8000, 0xA700)
        assert answer.responded_id == command.message_id
        assert answer.sop_class == command.sop_class.strip()


def command_set(data: bytes) -> Hashable:
    try:
        command = decode_command(data)
    except DimseError as fault:
        assert fault.status in (0x0110, 0x0212)
        assert printable(fault.what)
        if fault.command is not None:
            answered(fault.command)
        return shape(fault.what), fault.command is not None
    assert printable(command.sop_class, command.sop_uid, command.originator_ae)
    assert 0 <= command.message_id <= 0xFFFF
    answered(command)
    return command.field & 0xFFF0, command.has_dataset, bool(command.sop_uid)


def test_no_command_set_does_more_than_be_refused() -> None:
    run(command_set, commands(), COMMAND_WORDS, per_second=9_000)


# -- headers --------------------------------------------------------------------------------------

SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED)

HEADER_WORDS = [
    struct.pack("<HH2sxxIHHI", 0x0008, 0x1110, b"SQ", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF),
    struct.pack("<HHIHHI", 0x0008, 0x1110, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF),
    *(
        struct.pack("<HHI", 0xFFFE, number, size)
        for number in (0xE000, 0xE00D, 0xE0DD)
        for size in (0, 8, 0xFFFFFFFF)
    ),
    *(
        struct.pack(">HHI", 0xFFFE, number, size)
        for number in (0xE000, 0xE00D, 0xE0DD)
        for size in (0, 8, 0xFFFFFFFF)
    ),
    *(vr + b"\0\0\xff\xff\xff\xff" for vr in (b"SQ", b"UN", b"OB")),
    *(b"SQ", b"UN", b"UI", b"LO", b"PN", b"US", b"  ", b"ZZ"),
    struct.pack("<HH", 0x5200, 0x9229),
    struct.pack("<HH", 0x0028, 0x9110),
    struct.pack("<HH", 0x7FE0, 0x0010),
    struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 10),
    *(b"ISO_IR 100", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"ISO_IR 192", b"\\"),
    *(b"\x1b$B", b"\x1b(B", b"\x1b$)C", b"\x1b-F", b"\x1b", b"\xff\xfe", b"\x8f\xa1", b"^", b"="),
]


def headers() -> list[bytes]:
    """Data sets behind the index of their transfer syntax."""
    enhanced = made_ct(size=2)
    del enhanced.SliceThickness, enhanced.PixelSpacing
    measures = Dataset()
    measures.SliceThickness = "5"
    measures.PixelSpacing = ["0.5", "0.5"]
    shared = Dataset()
    shared.PixelMeasuresSequence = ItemSequence([measures])
    enhanced.SharedFunctionalGroupsSequence = ItemSequence([shared])
    enhanced.ReferencedStudySequence = ItemSequence([measures, measures])
    japanese = made_ct(size=2)
    japanese.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    japanese.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    found = []
    for dataset in (made_ct(size=2), enhanced, japanese):
        for number, syntax in enumerate(SYNTAXES[:3]):
            for undefined in (False, True):
                for sequence in dataset:
                    if sequence.VR == "SQ":
                        sequence.is_undefined_length = undefined
                        for one in sequence.value:
                            one.is_undefined_length_sequence_item = undefined
                data = encoded(dataset, syntax)
                found.append(bytes((number,)) + data)
                if syntax == EXPLICIT:
                    found.append(b"\3" + data)
    return found + [b"\0" + data for data in unusual()]


def unusual() -> list[bytes]:
    """Explicit data sets with what is seldom there: a long value, deep and odd sequences."""
    dataset = made_ct()
    del dataset.PixelData
    plain = encoded(dataset)
    sequence = struct.pack("<HH2sxxI", 0x0040, 0x0275, b"SQ", 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    length = 8224  # of an item: two blanks, which some write for a VR
    filler = struct.pack("<HH2sxxI", 0x0009, 0x1002, b"UN", length - 12) + bytes(length - 12)
    odd = struct.pack("<HHI", 0xFFFE, 0xE000, length) + filler + ends[8:]
    pixels = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", 8) + bytes(8)
    return [
        plain + more + pixels
        for more in (
            struct.pack("<HH2sH", 0x0054, 0x1001, b"CS", 5000) + b"A" * 5000,
            (sequence + item) * 6 + ends * 6,
            sequence + odd,
        )
    ]


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def header(data: bytes) -> Hashable:
    number, dataset = data[0] if data else 0, data[1:]
    syntax = SYNTAXES[number % 4]
    # Damage to the deflated bytes is seldom more than that: what is inflated is damaged instead,
    # but for one case in sixteen.
    if syntax == DEFLATED and number < 240:
        dataset = deflated(dataset)
    outcome = what_is_read(dataset, syntax)
    check_identity(dataset, syntax, outcome)
    if isinstance(outcome, HeaderError):
        assert printable(str(outcome))
        return number % 4, outcome.fault.code, shape(outcome.fault.what)
    values = outcome
    assert unpack(values.pack()) == values
    if syntax != DEFLATED:
        early = values_of_beginning(dataset, syntax)
        assert early is None or early == values
    facts = facts_of(values)
    assert all(map(is_uid, (facts.study_uid, facts.series_uid, facts.sop_uid, facts.sop_class)))
    texts = (facts.patient_id, facts.patient_name, facts.accession, facts.study_description)
    for value in routing_of(values).values():
        texts += (value,) if isinstance(value, str) else tuple(value)
    assert not any(sign < " " for text in texts for sign in text)
    "".join(texts).encode()  # no half of a surrogate pair, which no database takes
    return number % 4, tuple(map(bool, texts[:4]))


def check_identity(dataset: bytes, syntax: str, outcome: Values | HeaderError) -> None:
    """The receiver's short walk says of an instance what the whole walk says.

    It may take an instance whose header stops making sense behind the identity.
    """
    try:
        identity = read_identity(dataset, syntax)
    except HeaderError:
        assert isinstance(outcome, HeaderError)
        return
    assert identity == read_identity(memoryview(dataset), syntax)
    if isinstance(outcome, Values):
        assert facts_of(identity) == facts_of(outcome)


def what_is_read(dataset: bytes | memoryview, syntax: str) -> Values | HeaderError:
    try:
        return read_values(dataset, syntax)
    except HeaderError as error:
        return error


def values_of_beginning(dataset: bytes, syntax: str) -> Values | None:
    """What the first two thirds of a data set say, if that is all that the header has."""
    try:
        return read_values(dataset[: len(dataset) * 2 // 3], syntax, whole=False)
    except HeaderError as error:
        if error.fault.code == CUT_SHORT:
            return None
        raise


def test_no_header_does_more_than_be_refused() -> None:
    run(header, headers(), HEADER_WORDS, per_second=3_500)


# -- the fuzzer itself ----------------------------------------------------------------------------


def test_the_fuzzer_finds_a_planted_fault_and_gives_the_same_cases_again() -> None:
    def careless(data: bytes) -> Hashable:
        at = 0
        while at < len(data):
            _group, _number, length = struct.unpack_from("<HHI", data, at)
            at += 8 + length
        return at == len(data)

    found = []
    for _ in range(2):
        with pytest.raises(FuzzError, match=r"seed 1, case \d+, error\(") as caught:
            fuzz(careless, commands(), COMMAND_WORDS, cases=1000, seed=1)
        found.append(str(caught.value))

    assert found[0] == found[1]
