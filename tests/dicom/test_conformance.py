"""The conformance statement says what the code does, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from node.dicom import conformance, messages, statuses
from node.dicom.admitting import services_of
from node.dicom.conformance import TABLES, fill
from node.dicom.storage_contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.dicom.wire import dimse, negotiation, pdu
from node.dicom.wire.connection import Limits
from node.dicom.wire.negotiation import ACCEPTED, IMPLICIT_LITTLE, Offer, negotiate
from node.settings import parse_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
WIRE = {path.stem: path.read_text() for path in (ROOT / "node" / "dicom" / "wire").glob("*.py")}

NUMBERS = {name: value for name, value in vars(statuses).items() if isinstance(value, int)}


def test_the_page_holds_the_tables_that_the_code_makes() -> None:
    page = PAGE.read_text()

    assert page == fill(page), "run: python -m node.dicom.conformance docs/conformance.md"
    places = re.findall(r"<!-- table: ([a-z-]+) -->\n\|[^<]*<!-- end -->", page)
    assert sorted(places) == sorted(TABLES)


def test_every_rejection_that_the_wire_gives_is_told() -> None:
    given = {
        tuple(map(int, codes))
        for text in WIRE.values()
        for codes in re.findall(r"\bRejection\(\s*(\d+), (\d+), (\d+)", text)
    }
    told = {(one.result, one.source, one.diagnostic) for one, _ in conformance.REJECTIONS}

    assert len(given) > 4
    assert told == given


def test_every_abort_that_the_wire_sends_is_told() -> None:
    sent = {
        int(reason)
        for text in WIRE.values()
        for reason in re.findall(r"\bAbortError\(\s*(\d+),", text)
    }
    decoded = {getattr(pdu, name) for name in re.findall(r"\bPduError\(([A-Z_]+),", WIRE["pdu"])}

    assert set(conformance.ABORTS) == sent | decoded


def statuses_in(text: str) -> set[int]:
    """The statuses that a module's text names, however it imports them."""
    return {value for name, value in NUMBERS.items() if re.search(rf"\b{name}\b", text)}


def test_every_status_that_the_wire_answers_to_storage_is_told() -> None:
    answered = statuses_in(WIRE["receiving"]) | statuses_in(WIRE["connection"])
    decoded = statuses_in(WIRE["dimse"]) | {dimse.MISTYPED}

    assert set(conformance.STORE_STATUSES) == answered | decoded


def test_every_status_that_is_answered_to_other_messages_is_told() -> None:
    acted = statuses_in(Path(str(messages.__file__)).read_text())
    collected = statuses_in(WIRE["message"]) | statuses_in(WIRE["dimse"]) | {dimse.MISTYPED}

    assert set(conformance.MESSAGE_STATUSES) == acted | collected


PEER = """
[[peers]]
name = "peer"
ae_title = "PEER"
host = "192.0.2.1"
port = 104
"""


@pytest.mark.parametrize("may", ["echo", "store", "commit"])
def test_what_a_peer_may_opens_the_services_that_the_page_says(may: str) -> None:
    (peer,) = parse_settings(PEER + f'may = ["{may}"]\n', path=Path("limner.toml")).peers
    offer = Offer(services_of(peer), STORAGE_CLASSES, TRANSFER_SYNTAXES, accept_unknown=False)
    some_class = min(STORAGE_CLASSES)

    for service, uid, _, _, told in conformance.SERVICES:
        proposed = pdu.ProposedContext(
            1, uid if uid[0].isdigit() else some_class, (IMPLICIT_LITTLE,)
        )
        request = pdu.decode_associate_request(
            pdu.encode_associate_request(
                called_ae="LIMNER",
                calling_ae="PEER",
                contexts=[proposed],
                max_length=0,
                implementation_class_uid="1.2",
                implementation_version="X",
            )[6:]
        )
        (answer,), _ = negotiate(request, offer)
        assert (answer.result == ACCEPTED) is (f"`{may}`" in told), service


def test_every_service_of_the_wire_is_told() -> None:
    told = {uid for _, uid, _, _, _ in conformance.SERVICES}

    assert {*negotiation.AS_SCU, *negotiation.AS_SCP} <= told


def test_the_limits_told_are_those_of_an_untouched_configuration() -> None:
    listener = parse_settings("", path=Path("limner.toml")).listener
    limits = Limits()

    assert (listener.max_associations, listener.max_per_address, listener.max_pdu) == (
        limits.max_associations,
        limits.max_per_address,
        limits.max_pdu,
    )
    assert listener.idle_s == limits.idle_s


def test_a_page_that_names_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("<!-- table: nothing -->\n<!-- end -->")
