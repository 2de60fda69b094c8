"""Who may open an association, and what for: a pure decision with the Standard's reason codes.

Closed by default: an AE title that no peer has, or one that calls from an address that its peer
does not list, is rejected before anything is read from it. An AE title alone is no authentication;
`addresses` is what ties it to a machine.

Source: DICOM PS3.8 section 9.3.4 (A-ASSOCIATE-RJ).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.settings import Peer


class Service(StrEnum):
    """What an admitted peer may ask for."""

    ECHO = "echo"  # C-ECHO
    STORE = "store"  # C-STORE
    ASK_COMMITMENT = "ask-commitment"  # N-ACTION: we are to commit ourselves
    REPORT_COMMITMENT = "report-commitment"  # N-EVENT-REPORT: the answer to what we asked


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association. AE titles are without padding; the address is an IP address."""

    calling_ae: str
    called_ae: str
    address: str


@dataclass(frozen=True, slots=True)
class Admission:
    """The association is accepted for these services. `peer` is the configured name."""

    peer: str
    services: frozenset[Service]


@dataclass(frozen=True, slots=True)
class Rejection:
    """The association is rejected with these codes; `reason` is for people."""

    result: int
    source: int
    diagnostic: int
    reason: str


def unknown_caller(reason: str) -> Rejection:
    """Return the rejection 'calling AE title not recognised'."""
    return Rejection(1, 1, 3, reason)


def unknown_called(reason: str) -> Rejection:
    """Return the rejection 'called AE title not recognised'."""
    return Rejection(1, 1, 7, reason)


TOO_MANY: Final = Rejection(2, 3, 2, "As many associations are open as the listener allows.")
STOPPING: Final = Rejection(2, 3, 1, "The listener is stopping.")


def judge_caller(caller: Caller, *, ae_title: str, peers: Sequence[Peer]) -> Admission | Rejection:
    """Return whether `caller` may associate with us, and for which services.

    Args:
        caller: Who asks.
        ae_title: Our AE title.
        peers: The configured peers.
    """
    if caller.called_ae != ae_title:
        return unknown_called(f"It called '{caller.called_ae}', this node is '{ae_title}'.")
    known = [peer for peer in peers if peer.ae_title == caller.calling_ae]
    if not known:
        return unknown_caller(f"No peer has the AE title '{caller.calling_ae}'.")
    allowed = [peer for peer in known if _may_call_from(peer, caller.address)]
    if not allowed:
        return unknown_caller(
            f"The peer '{known[0].name}' may not call from {caller.address}; see its addresses."
        )
    # One AE title may be two entries: one that we only send to, one that may call us.
    services = frozenset[Service]().union(*(_services(peer) for peer in allowed))
    if not services:
        return unknown_caller(f"The peer '{allowed[0].name}' may do nothing here; see its may.")
    name = next((peer.name for peer in allowed if peer.may), allowed[0].name)
    return Admission(name, services)


def _services(peer: Peer) -> frozenset[Service]:
    services = set()
    if "echo" in peer.may:
        services.add(Service.ECHO)
    if "store" in peer.may:
        services.add(Service.STORE)
    # A peer whose proof we wait for must be able to call us with it.
    if "commit" in peer.may or (peer.takes and peer.proof == "commitment"):
        services.add(Service.REPORT_COMMITMENT)
    return frozenset(services)


def _may_call_from(peer: Peer, address: str) -> bool:
    if not peer.addresses:
        return True
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    return any(caller in ipaddress.ip_network(network, strict=False) for network in peer.addresses)
