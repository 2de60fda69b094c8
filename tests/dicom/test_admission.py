"""Closed by default: who may associate is a pure decision with the Standard's codes."""

from __future__ import annotations

import pytest

from node.dicom.wire.admission import (
    ECHO,
    REPORT_COMMITMENT,
    STORE,
    Admission,
    Caller,
    Guest,
    Rejection,
    judge_caller,
)

GUESTS = (
    Guest("ct", "CT1", frozenset({ECHO, STORE})),
    Guest("monitor", "NAGIOS", frozenset({ECHO})),
    Guest("mr", "MR1", frozenset({STORE}), addresses=("10.1.0.0/16", "2001:db8::/32")),
    Guest("pacs", "PACS", frozenset({REPORT_COMMITMENT})),
    Guest("archive", "ARCHIVE", frozenset()),
    # One machine as two peers: one that we send to, one that may call.
    Guest("pacs2-out", "PACS2", frozenset()),
    Guest("pacs2-in", "PACS2", frozenset({STORE})),
    Guest("us", "US1", frozenset({STORE}), certificates=("us1.hospital", "10.2.0.9")),
    Guest("ward", "WARD", frozenset({STORE}), secure_only=True),
)


def judged(
    calling: str,
    called: str = "LIMNER",
    address: str = "127.0.0.1",
    *,
    names: tuple[str, ...] | None = None,
    open_to_all: bool = False,
) -> Admission | Rejection:
    """Judge a caller; with `names` it comes over TLS, with a certificate of these."""
    caller = Caller(calling, called, address, secure=names is not None, names=names or ())
    return judge_caller(caller, ae_title="LIMNER", guests=GUESTS, open_to_all=open_to_all)


@pytest.mark.parametrize(
    ("calling", "address", "services"),
    [
        ("CT1", "192.0.2.1", {ECHO, STORE}),
        ("NAGIOS", "192.0.2.1", {ECHO}),
        ("MR1", "10.1.2.3", {STORE}),
        ("MR1", "::ffff:10.1.2.3", {STORE}),
        ("MR1", "2001:db8::7", {STORE}),
        # Whose proof we wait for may bring it, and nothing else.
        ("PACS", "192.0.2.1", {REPORT_COMMITMENT}),
        ("PACS2", "192.0.2.1", {STORE}),
    ],
)
def test_a_peer_may_do_what_its_settings_say(
    calling: str, address: str, services: set[str]
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
        ("US1", "LIMNER", "127.0.0.1", 3, "certificate"),
        ("WARD", "LIMNER", "127.0.0.1", 3, "TLS"),
    ],
)
def test_anybody_else_is_rejected_with_a_reason(
    calling: str, called: str, address: str, diagnostic: int, word: str
) -> None:
    verdict = judged(calling, called, address)

    assert isinstance(verdict, Rejection)
    assert (verdict.result, verdict.source, verdict.diagnostic) == (1, 1, diagnostic)
    assert word in verdict.reason


def test_a_peer_with_a_certificate_is_known_by_any_of_its_names() -> None:
    for names in (("us1.hospital",), ("10.2.0.9", "other")):
        assert isinstance(judged("US1", names=names), Admission)
    for names in ((), ("us2.hospital",), ("us1.hospital.evil",)):
        assert isinstance(judged("US1", names=names), Rejection)


def test_a_peer_that_must_come_over_tls_needs_no_more_than_that() -> None:
    assert isinstance(judged("WARD", names=()), Admission)


def test_an_open_node_takes_anybody_for_echo_and_store_and_for_nothing_else() -> None:
    for calling, called in (("NOBODY", "LIMNER"), ("", "ANYTHING"), ("ARCHIVE", "LIMNER")):
        verdict = judged(calling, called, open_to_all=True)
        assert isinstance(verdict, Admission)
        assert verdict == Admission("unknown", frozenset({ECHO, STORE}))


def test_an_open_node_still_knows_its_peers() -> None:
    assert judged("NAGIOS", open_to_all=True) == Admission("monitor", frozenset({ECHO}))
