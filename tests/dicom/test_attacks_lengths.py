"""Lengths that lie, counts beyond every limit, and data without end: none of them is believed.

Each attack runs against `limner listen`. What is sent is answered as the table says, costs the
processes no memory, leaves nothing in the store, and an honest peer is served meanwhile.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator

import pytest
from attacked_node import Attacked, attacked_node
from raw_peer import (
    ABORT,
    AC,
    APPLICATION,
    COMMAND,
    CT,
    CT_CONTEXT,
    ECHO_CONTEXT,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    Peer,
    associated,
    command,
    context,
    dataset,
    echo_command,
    echo_message,
    element,
    even,
    fresh_uid,
    honest,
    item,
    pdu,
    pdv,
    request,
    store_command,
    store_message,
    us,
)
from receiving_node import until

from node.phantom.ports import free_port

pytestmark = pytest.mark.flow

MAX_PDU = 131_072
"""What the node announces, as configured."""

PROVIDER_INVALID = b"\0\0\2\6"
PROVIDER_UNEXPECTED = b"\0\0\2\2"
PROVIDER_UNKNOWN = b"\0\0\2\1"
PROVIDER_TWICE = b"\0\0\2\5"
USER = b"\0\0\0\0"

FOUR_GIGABYTES = 0xFFFF_FFFF
BEFORE = pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command("1.2.3.4.8")))
"""A C-STORE request whose data set is awaited."""


# Before an association


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(pdu(RQ, bytes(1000), claims=FOUR_GIGABYTES), PROVIDER_INVALID, id="4 GiB"),
        pytest.param(pdu(RQ, claims=512 * 1024 + 1), PROVIDER_INVALID, id="more than 512 KiB"),
        pytest.param(pdu(P_DATA, claims=FOUR_GIGABYTES), PROVIDER_INVALID, id="4 GiB of data"),
        pytest.param(pdu(RQ, b""), PROVIDER_INVALID, id="nothing in it"),
        pytest.param(pdu(RQ, bytes(67)), PROVIDER_INVALID, id="a byte too short"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", USER, id="HTTP"),
        pytest.param(
            request(contexts=b"".join(context(number) for number in range(1, 256, 2)) + context(1)),
            PROVIDER_INVALID,
            id="129 contexts",
        ),
        pytest.param(request(contexts=context(1) * 20_000), PROVIDER_INVALID, id="20,000 contexts"),
        pytest.param(request(contexts=context(2)), PROVIDER_INVALID, id="an even id"),
        pytest.param(request(contexts=context(0)), PROVIDER_INVALID, id="id 0"),
        pytest.param(
            request(contexts=context(1) + context(1)), PROVIDER_INVALID, id="the same id twice"
        ),
        pytest.param(
            request(contexts=struct.pack(">BxH", 0x20, 60_000) + bytes(10)),
            PROVIDER_INVALID,
            id="an item beyond the end",
        ),
        pytest.param(
            request(contexts=item(0x10, APPLICATION.encode()) + context(1)),
            PROVIDER_TWICE,
            id="two application contexts",
        ),
        pytest.param(
            request(user=item(0x58, b"\2\0\xff\xff" + bytes(10))),
            PROVIDER_INVALID,
            id="an identity beyond its item",
        ),
    ],
)
def test_a_request_that_cannot_be_is_aborted_and_costs_nothing(
    attacked: Attacked, said: bytes, answer: bytes
) -> None:
    with attacked.unharmed(growth_mb=2), Peer(attacked.port) as peer:
        peer.send(said)
        heard = peer.hear()
        honest(attacked.port)

        assert heard is not None
        assert (heard.kind, heard.body) == (ABORT, answer)


@pytest.mark.parametrize(
    "user",
    [
        pytest.param(item(0x58, b"\2\0" + struct.pack(">H", 32_000) + b"u" * 32_000
                          + struct.pack(">H", 32_000) + b"p" * 32_000), id="64,000 bytes"),
        pytest.param(item(0x58, b"\3\1" + struct.pack(">H", 65_000) + b"k" * 65_000 + b"\0\0"),
                     id="a Kerberos ticket of 65,000 bytes"),
        pytest.param(item(0x58, b"\4\0\0\x0f<!DOCTYPE x []>\0\0"), id="XML"),
        pytest.param(item(0x58, b"\xff\0\0\0\0\0"), id="a kind that does not exist"),
        pytest.param(item(0x77, bytes(60_000)), id="an unknown item of 60,000 bytes"),
        pytest.param(item(0x55, b"\x1b[2J\r\nroot"), id="a version name with signs of control"),
    ],
)  # fmt: skip
def test_identities_and_items_as_long_as_can_be_are_taken_for_what_they_are(
    attacked: Attacked, user: bytes
) -> None:
    with attacked.unharmed(growth_mb=2), associated(attacked.port, said=request(user=user)) as peer:
        peer.send(echo_message())
        answer = peer.hear()

        assert answer is not None
        assert answer.status == 0
        peer.send(pdu(RELEASE_RQ))


def test_a_context_without_an_abstract_syntax_is_rejected_and_the_others_are_served(
    attacked: Attacked,
) -> None:
    said = request(contexts=context(1, "") + context(CT_CONTEXT) + context(5, "1." * 5_000))
    with associated(attacked.port, said=said) as peer:
        uid = fresh_uid()
        peer.send(store_message(uid))
        answer = peer.hear()

        assert answer is not None
        assert answer.status == 0


# Within an association


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(pdu(P_DATA, claims=FOUR_GIGABYTES), PROVIDER_INVALID, id="4 GiB"),
        pytest.param(pdu(P_DATA, claims=MAX_PDU + 1), PROVIDER_INVALID, id="a byte more than said"),
        pytest.param(
            pdu(RELEASE_RQ + 1, claims=FOUR_GIGABYTES), PROVIDER_INVALID, id="4 GiB of RP"
        ),
        pytest.param(pdu(P_DATA, b"\0\0\0"), PROVIDER_INVALID, id="PDV header cut"),
        pytest.param(
            pdu(P_DATA, pdv(3, LAST, b"", claims=0)), PROVIDER_INVALID, id="PDV of 0 bytes"
        ),
        pytest.param(
            pdu(P_DATA, pdv(3, LAST, b"", claims=1)), PROVIDER_INVALID, id="PDV of 1 byte"
        ),
        pytest.param(
            pdu(P_DATA, pdv(3, LAST, b"abcd", claims=7)), PROVIDER_INVALID, id="PDV beyond PDU"
        ),
        pytest.param(
            pdu(P_DATA, pdv(3, LAST, b"abcd", claims=FOUR_GIGABYTES)),
            PROVIDER_INVALID,
            id="PDV of 4 GiB",
        ),
        pytest.param(pdu(P_DATA, pdv(99, LAST, b"ab")), PROVIDER_INVALID, id="no such context"),
        pytest.param(pdu(P_DATA, b"") * 65, PROVIDER_INVALID, id="PDUs without a PDV"),
        pytest.param(
            BEFORE + pdu(P_DATA, pdv(CT_CONTEXT, 0, b"")) * 65,
            PROVIDER_INVALID,
            id="fragments without a byte",
        ),
        pytest.param(
            pdu(P_DATA, pdv(CT_CONTEXT, COMMAND, b"")) * 65,
            PROVIDER_INVALID,
            id="a command without a byte",
        ),
        pytest.param(
            BEFORE + pdu(P_DATA, pdv(CT_CONTEXT, 0, b"x") * 10_000) * 7,
            PROVIDER_INVALID,
            id="70,000 fragments of a byte",
        ),
        pytest.param(
            pdu(P_DATA, pdv(CT_CONTEXT, COMMAND, bytes(16_000))) * 5,
            PROVIDER_INVALID,
            id="a command set of 80,000 bytes",
        ),
        pytest.param(
            pdu(P_DATA, pdv(3, COMMAND | LAST, b"\xff" * 60)), PROVIDER_INVALID, id="no command set"
        ),
    ],
)
def test_data_that_cannot_be_ends_its_association_and_costs_nothing(
    attacked: Attacked, said: bytes, answer: bytes
) -> None:
    with attacked.unharmed(growth_mb=2), associated(attacked.port) as peer:
        began_s = attacked.wire_cpu_s()
        peer.send(said)
        heard = peer.hear_all()
        took_s = attacked.wire_cpu_s() - began_s
        honest(attacked.port)

        assert [(one.kind, one.body) for one in heard] == [(ABORT, answer)]
        assert took_s < 1.0  # the largest of these is 490,000 bytes
    assert "1.2.3.4.8" not in attacked.instances()


def test_a_pdu_as_long_as_was_announced_is_taken(attacked: Attacked) -> None:
    uid = fresh_uid()
    data = dataset(uid, pixels=MAX_PDU - 6 - len(dataset(uid, pixels=0)))
    with associated(attacked.port) as peer:
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command(uid))))
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, LAST, data)))
        assert len(data) + 6 == MAX_PDU
        answer = peer.hear()

        assert answer is not None
        assert answer.status == 0


def test_data_without_end_is_cut_at_the_limit_and_leaves_nothing(attacked: Attacked) -> None:
    with attacked.unharmed(growth_mb=2) as before, associated(attacked.port) as peer:
        peer.send(BEFORE + pdu(P_DATA, pdv(CT_CONTEXT, 0, dataset("1.2.3.4.8"))))
        part = pdu(P_DATA, pdv(CT_CONTEXT, 0, bytes(100_000)))
        for number in range(200):  # 20 MB, where 8 MiB is allowed
            peer.send(part)
            if number == 40:
                honest(attacked.port)
                until(lambda: len(attacked.files()) == 1)
                assert attacked.wire_footprint().rss_mb < before.rss_mb + 4
        heard = peer.hear_all()

        assert [(one.kind, one.body) for one in heard] == [(ABORT, USER)]
        until(lambda: attacked.files() == [])
        until(lambda: any("data set exceeds 8388608" in one for one in attacked.endings()))
    assert "1.2.3.4.8" not in attacked.instances()


# Commands


UNKNOWN_FIELDS = [0x0002, 0x0020, 0x0110, 0x0150, 0x0FFE, 0x7FFF]


@pytest.mark.parametrize("field", UNKNOWN_FIELDS)
@pytest.mark.parametrize("with_data", [False, True], ids=["", "with data"])
def test_a_command_that_does_not_exist_is_refused_and_the_association_goes_on(
    attacked: Attacked, field: int, *, with_data: bool
) -> None:
    said = command(
        (
            (2, even(CT.encode())),
            (3, even(CT.encode())),
            (0x100, us(field)),
            (0x110, us(77)),
            (0x800, us(1 if with_data else 0x101)),
            (0x1000, b"1.2.3.4\0"),
            (0x1001, b"1.2.3.4\0"),
        )
    )
    with associated(attacked.port) as peer:
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, said)))
        if with_data:
            peer.send(pdu(P_DATA, pdv(CT_CONTEXT, LAST, bytes(5_000))))
        answer = peer.hear()
        assert answer is not None
        assert answer.status == 0x0211
        assert answer.command_element(0x120) == us(77)

        peer.send(echo_message(2))
        answer = peer.hear()
        assert answer is not None
        assert answer.status == 0


@pytest.mark.parametrize("field", [0x8001, 0x8030, 0xFFFF, 0x0FFF])
def test_a_response_that_nobody_asked_for_gets_no_answer(attacked: Attacked, field: int) -> None:
    said = command(((2, even(CT.encode())), (0x100, us(field)), (0x120, us(5)), (0x800, us(0x101)),
                    (0x900, us(0))))  # fmt: skip
    with attacked.unharmed(), associated(attacked.port) as peer:
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, said)))
        peer.send(echo_message(2))
        answer = peer.hear()

        assert answer is not None
        if answer.kind == ABORT:  # it cannot be read as a command at all
            assert answer.body == PROVIDER_INVALID
        else:
            assert (answer.command_element(0x120), answer.status) == (us(2), 0)


@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"../../../../tmp/x", id="a path"),
        pytest.param(b"/etc/passwd", id="an absolute path"),
        pytest.param(b"1.2.3\0/../x", id="NUL within"),
        pytest.param(b"1.2.3%00.4", id="percent 00"),
        pytest.param(b"1." + b"2" * 63, id="65 signs"),
        pytest.param(b"1" * 10_000, id="10,000 signs"),
        pytest.param(b"1.2.3\n4", id="a line feed"),
        pytest.param(b"\x1b[31m1.2", id="ANSI"),
        pytest.param("1.2.\uff13".encode(), id="other digits"),
        pytest.param(b"'; DROP TABLE instances; --", id="SQL"),
    ],
)
def test_a_sop_instance_uid_that_is_none_is_refused_and_names_nothing(
    attacked: Attacked, uid: bytes
) -> None:
    before = sorted(attacked.folder.rglob("*"))
    with attacked.unharmed(), associated(attacked.port) as peer:
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, store_command(uid))))
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, LAST, dataset("1.2.3.4.7"))))
        answer = peer.hear()

        assert answer is not None
        assert answer.status == 0x0117 or (not uid and answer.status == 0x0212)
        peer.send(pdu(RELEASE_RQ))
        peer.hear()
    assert "1.2.3.4.7" not in attacked.instances()
    new = {path.parent.name for path in attacked.folder.rglob("*")} - {
        path.parent.name for path in before
    }
    assert new == set()


def test_titles_and_names_write_no_lines_and_no_colours_into_the_log(attacked: Attacked) -> None:
    evil = b"\x1b[31mA\nB\r\x9bC\0D"
    for said in (
        request(calling=evil),
        request(called=evil),
        request(calling=b"A\n2026 [info]"),
        request(user=item(0x55, b"\x1b]0;title\x07")),
        request(contexts=context(1, "1.2\n\x1b[2J")),
        b"\x1b[31m\nGET / HTTP/1.1\r\n\r\n",
    ):
        with Peer(attacked.port) as peer:
            peer.send(said)
            heard = peer.hear()
            assert heard is not None
            assert heard.kind in (AC, RJ, ABORT)
    honest(attacked.port)

    until(lambda: b"?[31mA?B?" in attacked.log.read_bytes())
    log = attacked.log.read_bytes()
    assert all(sign == 0x0A or 0x20 <= sign < 0x7F for sign in log.decode().encode("ascii"))
    assert all(line.startswith(b"at='2") and b" event='" in line for line in log.splitlines())


# Deflated data sets


@pytest.fixture(scope="module")
def deflating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A node that was told to take deflated data sets."""
    with attacked_node(
        tmp_path_factory.mktemp("deflating"),
        free_port(),
        listener=f'transfer_syntaxes = ["1.2.840.10008.1.2.1", "{DEFLATED}"]',
    ) as running:
        yield running


DEFLATED = "1.2.840.10008.1.2.1.99"
DEFLATING = request(contexts=context(CT_CONTEXT, CT, (DEFLATED,)))


def bomb(beginning: bytes, megabytes: int) -> bytes:
    """Return `beginning` and so many megabytes of zeros, deflated to a thousandth."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    parts = [deflater.compress(beginning)]
    parts += [deflater.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join((*parts, deflater.flush()))


def test_deflated_data_is_not_negotiated_unless_it_is_configured(attacked: Attacked) -> None:
    with associated(attacked.port, said=DEFLATING) as peer:
        peer.send(store_message("1.2.3.4.8"))
        heard = peer.hear()

        assert heard is not None
        assert (heard.kind, heard.body) == (ABORT, PROVIDER_INVALID)


@pytest.mark.parametrize("where", ["pixels", "header", "sequence"])
def test_a_deflate_bomb_costs_no_more_than_its_bytes(deflating: Attacked, where: str) -> None:
    uid = fresh_uid()
    whole = dataset(uid, pixels=0)
    if where == "pixels":
        size = 500 << 20
        data = bomb(whole[:-4] + struct.pack("<I", size), 500)
    elif where == "header":  # a private element of 500 MB before anything that says what it is
        data = bomb(struct.pack("<HH2sHI", 0x0007, 0x1001, b"OB", 0, 500 << 20), 500)
    else:
        opened = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, FOUR_GIGABYTES)
        data = bomb(opened, 500)
    assert len(data) < 600_000

    with deflating.unharmed(growth_mb=8), associated(deflating.port, said=DEFLATING) as peer:
        began_s = time.monotonic()
        for message_id in (1, 2):  # the same again is compared with what is known
            peer.send(store_message(uid, data, message_id=message_id))
            answer = peer.hear()
            assert answer is not None
            assert answer.status == (0 if where == "pixels" else 0xC000)
        honest(deflating.port)
        assert time.monotonic() - began_s < 20
        peer.send(pdu(RELEASE_RQ))
        answer = peer.hear()
        assert answer is not None
        assert answer.kind == RELEASE_RP
    if where == "pixels":
        until(lambda: uid in deflating.instances())


def test_other_bytes_that_inflate_without_end_are_compared_within_bounds(
    deflating: Attacked,
) -> None:
    uid = fresh_uid()
    whole = dataset(uid, pixels=0)[:-4] + struct.pack("<I", 500 << 20)
    bombs = [bomb(whole.replace(b"P1", b"P%d" % number), 500) for number in (1, 2)]
    with deflating.unharmed(growth_mb=8), associated(deflating.port, said=DEFLATING) as peer:
        for data in bombs:
            peer.send(store_message(uid, data))
            answer = peer.hear()
            assert answer is not None
            assert answer.status == 0
        until(lambda: "instance-conflict" in deflating.log.read_text())
        peer.send(pdu(RELEASE_RQ))
        peer.hear()


def test_echo_without_a_context_of_its_own_is_still_only_an_echo(attacked: Attacked) -> None:
    with associated(attacked.port) as peer:
        peer.send(pdu(P_DATA, pdv(CT_CONTEXT, COMMAND | LAST, echo_command())))
        peer.send(pdu(P_DATA, pdv(ECHO_CONTEXT, COMMAND | LAST, element(0, us(0) * 2))))
        heard = peer.hear_all()

    assert heard[-1].kind == ABORT
