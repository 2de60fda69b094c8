"""Closed by default: who may associate is a pure decision with the Standard's codes."""

from __future__ import annotations

import pytest

from node.dicom.admission import Admission, Caller, Rejection, Service, judge_caller
from node.settings import Peer


def peer(
    name: str,
    title: str,
    *may: str,
    addresses: tuple[str, ...] = (),
    proof: str = "none",
    takes: tuple[str, ...] = (),
) -> Peer:
    return Peer(
        name=name,
        ae_title=title,
        host="",
        port=0,
        may=frozenset(may),
        takes=takes,
        proof=proof,
        addresses=addresses,
    )


PEERS = (
    peer("ct", "CT1", "echo", "store"),
    peer("monitor", "NAGIOS", "echo"),
    peer("mr", "MR1", "store", addresses=("10.1.0.0/16", "2001:db8::/32")),
    peer("pacs", "PACS", takes=("SEG",), proof="commitment"),
    peer("archive", "ARCHIVE", takes=("SEG",), proof="lookup"),
)


def judged(
    calling: str, called: str = "LIMNER", address: str = "127.0.0.1"
) -> Admission | Rejection:
    return judge_caller(Caller(calling, called, address), ae_title="LIMNER", peers=PEERS)


@pytest.mark.parametrize(
    ("calling", "address", "services"),
    [
        ("CT1", "192.0.2.1", {Service.ECHO, Service.STORE}),
        ("NAGIOS", "192.0.2.1", {Service.ECHO}),
        ("MR1", "10.1.2.3", {Service.STORE}),
        ("MR1", "::ffff:10.1.2.3", {Service.STORE}),
        ("MR1", "2001:db8::7", {Service.STORE}),
        # Whose proof we wait for may bring it, and nothing else.
        ("PACS", "192.0.2.1", {Service.REPORT_COMMITMENT}),
    ],
)
def test_a_peer_may_do_what_its_settings_say(
    calling: str, address: str, services: set[Service]
) -> None:
    verdict = judged(calling, address=address)

    assert isinstance(verdict, Admission)
    assert verdict.services == services


@pytest.mark.parametrize(
    ("calling", "called", "address", "diagnostic", "word"),
    [
        ("NOBODY", "LIMNER", "127.0.0.1", 3, "NOBODY"),
        ("", "LIMNER", "127.0.0.1", 3, "No peer"),
        ("ct1", "LIMNER", "127.0.0.1", 3, "No peer"),
        ("CT1", "OTHER", "127.0.0.1", 7, "OTHER"),
        ("MR1", "LIMNER", "10.2.0.1", 3, "addresses"),
        ("MR1", "LIMNER", "not an address", 3, "addresses"),
        ("ARCHIVE", "LIMNER", "127.0.0.1", 3, "may"),
    ],
)
def test_anybody_else_is_rejected_with_a_reason(
    calling: str, called: str, address: str, diagnostic: int, word: str
) -> None:
    verdict = judged(calling, called, address)

    assert isinstance(verdict, Rejection)
    assert (verdict.result, verdict.source, verdict.diagnostic) == (1, 1, diagnostic)
    assert word in verdict.reason
