"""Which presentation contexts an association is offered: services, SOP classes, transfer syntaxes.

Offered per association from what the peer proposed and may do, so a peer without a permission
sees its contexts rejected during negotiation and an accepting list is never longer than asked for.

Source: DICOM PS3.8 section 9.3.3, PS3.4 annex B, PS3.6 annex A.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from pynetdicom import AllStoragePresentationContexts, register_uid
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from node.dicom.admission import Service
from node.dicom.commitment import STORAGE_COMMITMENT

VERIFICATION: Final = "1.2.840.10008.1.1"

EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"

TRANSFER_SYNTAXES: Final = (
    # Uncompressed first: where a sender offers several syntaxes in one context, none of them is
    # worth making it compress, least of all with loss. What is stored compressed comes in a
    # context of its own from any sender that keeps it so.
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # HTJ2K
)
"""What we keep, in the order in which we choose. Deflated is not here: rarely used, badly
supported, and a way to send a bomb."""

MAX_REGISTERED: Final = 1000
"""Classes unknown to pynetdicom that one process accepts; each costs memory until it ends."""

_STORAGE_CLASSES: Final = frozenset(
    str(context.abstract_syntax) for context in AllStoragePresentationContexts
)
_registering = threading.Lock()
_registered: set[str] = set()


def offered_contexts(
    proposed: Iterable[str], services: frozenset[Service], *, accept_unknown: bool
) -> list[PresentationContext]:
    """Return the contexts to support on one association.

    Args:
        proposed: Abstract syntaxes that the peer proposes.
        services: What it may ask for.
        accept_unknown: Whether classes that are in no edition of the Standard are taken as
            storage classes.
    """
    offered = []
    for uid in sorted(set(proposed)):
        if uid == VERIFICATION and Service.ECHO in services:
            offered.append(build_context(uid))
        elif uid == STORAGE_COMMITMENT and services & {
            Service.ASK_COMMITMENT,
            Service.REPORT_COMMITMENT,
        }:
            context = build_context(uid)
            # The reporter proposes itself as SCP on an association that it opens (PS3.4 J.3.3).
            context.scu_role = True
            context.scp_role = True
            offered.append(context)
        elif Service.STORE in services and (
            uid in _STORAGE_CLASSES or (accept_unknown and _take_as_storage(uid))
        ):
            offered.append(build_context(uid, list(TRANSFER_SYNTAXES)))
    return offered


def _take_as_storage(uid: str) -> bool:
    """Make pynetdicom serve an unknown class as storage; False if it belongs to a service."""
    if uid.startswith("1.2.840.10008."):
        # The Standard's own: a service that we do not offer, never a storage class.
        return False
    with _registering:
        if uid in _registered:
            return True
        if len(_registered) >= MAX_REGISTERED or not uid.replace(".", "").isdigit():
            return False
        register_uid(uid, "LimnerUnknown_" + uid.replace(".", "_"), StorageServiceClass)
        _registered.add(uid)
        return uid_to_service_class(uid) is StorageServiceClass
