"""Who may open an association, and what for: a pure decision with the Standard's reason codes.

Closed by default: an AE title that no peer has, or one that calls from an address that its peer
does not list, is rejected before anything is read from it. An AE title alone is no authentication;
addresses, and certificates on the TLS port, are what ties it to a machine.

Source: DICOM PS3.8 section 9.3.4 (A-ASSOCIATE-RJ), PS3.15 annex B (TLS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ECHO: Final = "echo"  # C-ECHO
STORE: Final = "store"  # C-STORE
ASK_COMMITMENT: Final = "ask-commitment"  # N-ACTION: we are to commit ourselves
REPORT_COMMITMENT: Final = "report-commitment"  # N-EVENT-REPORT: the answer to what we asked
MPPS: Final = "mpps"  # N-CREATE and N-SET: a modality tells what it performed
IAN: Final = "ian"  # N-CREATE: an archive tells what it has

UNKNOWN_PEER: Final = "unknown"
"""Name under which an open node (a development switch) takes callers that nobody configured."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association.

    Attributes:
        calling_ae: Without padding, printable; likewise `called_ae`.
        address: IP address.
        secure: Whether it came over TLS, with a certificate that our authorities signed.
        names: What that certificate names: DNS names, and the subject's common name.
    """

    calling_ae: str
    called_ae: str
    address: str
    secure: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guest:
    """A peer that may call.

    Attributes:
        name: Configured name.
        services: What it may ask for.
        addresses: IP networks it may call from; empty for any.
        certificates: Names of which its certificate must have one; empty for any.
        secure_only: Whether it is taken over TLS alone.
    """

    name: str
    ae_title: str
    services: frozenset[str]
    addresses: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    secure_only: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """The association is accepted for these services. `peer` is the configured name."""

    peer: str
    services: frozenset[str]


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
OTHER_CONTEXT: Final = Rejection(1, 1, 2, "It does not speak the DICOM application context.")
OTHER_VERSION: Final = Rejection(1, 2, 2, "It speaks another version of the protocol.")


def judge_caller(
    caller: Caller, *, ae_title: str, guests: Sequence[Guest], open_to_all: bool = False
) -> Admission | Rejection:
    """Return whether `caller` may associate with us, and for which services.

    Args:
        caller: Who asks.
        ae_title: Our AE title.
        guests: The peers that may call.
        open_to_all: Take anybody for C-ECHO and C-STORE; for development alone.
    """
    if caller.called_ae != ae_title and not open_to_all:
        return unknown_called(f"It called '{caller.called_ae}', this node is '{ae_title}'.")
    known = [guest for guest in guests if guest.ae_title == caller.calling_ae]
    if not known and not open_to_all:
        return unknown_caller(f"No peer has the AE title '{caller.calling_ae}'.")
    refusals = [_why_not(guest, caller) for guest in known]
    allowed = [guest for guest, why in zip(known, refusals, strict=True) if not why]
    # One AE title may be two entries: one that we only send to, one that may call us.
    services = frozenset[str]().union(*(guest.services for guest in allowed))
    if not services and open_to_all:
        return Admission(UNKNOWN_PEER, frozenset({ECHO, STORE}))
    if not allowed:
        return unknown_caller(next(why for why in refusals if why))
    if not services:
        return unknown_caller(f"The peer '{allowed[0].name}' may do nothing here; see its may.")
    name = next((guest.name for guest in allowed if guest.services), allowed[0].name)
    return Admission(name, services)


def _why_not(guest: Guest, caller: Caller) -> str:
    """Return why this caller is not that guest; empty if it is."""
    if guest.addresses and not _is_in(caller.address, guest.addresses):
        return f"The peer '{guest.name}' may not call from {caller.address}; see its addresses."
    if guest.secure_only and not caller.secure:
        return f"The peer '{guest.name}' must call over TLS; see its tls."
    if guest.certificates and not set(guest.certificates) & set(caller.names):
        return f"The certificate does not name the peer '{guest.name}'; see its certificates."
    return ""


def _is_in(address: str, networks: Sequence[str]) -> bool:
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    return any(caller in ipaddress.ip_network(network, strict=False) for network in networks)
