"""What the keeper configures its wires with: peers, what is taken, bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from node.dicom.certificates import files_of
from node.dicom.storage_contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.dicom.wire.admission import ECHO, IAN, MPPS, REPORT_COMMITMENT, STORE
from node.dicom.wire.link import Message
from node.settings import Peer, Settings

_OF_MAY: Final = {"echo": (ECHO,), "store": (STORE, MPPS, IAN)}
"""A modality that may store may also tell what it performed, and an archive what it has."""


def services_of(peer: Peer) -> frozenset[str]:
    """Return what a configured peer may ask us for."""
    services = {service for may in peer.may for service in _OF_MAY.get(may, ())}
    # A peer whose proof we wait for must be able to call us with it.
    if "commit" in peer.may or (peer.takes and peer.proof == "commitment"):
        services.add(REPORT_COMMITMENT)
    return frozenset(services)


def rules_of(settings: Settings) -> dict[str, Any]:
    """Return the part of the configuration that a running wire can take up."""
    listener = settings.listener
    files = files_of(listener)
    return {
        "reserve_mb": settings.storage.reserve_mb,
        "rules": {
            "ae_title": listener.ae_title,
            "guests": [_guest(peer) for peer in settings.peers],
            "storage_classes": sorted(listener.sop_classes or STORAGE_CLASSES),
            "transfer_syntaxes": list(listener.transfer_syntaxes or TRANSFER_SYNTAXES),
            "accept_unknown": listener.accept_unknown_classes,
            "open_to_all": listener.open,
        },
        "limits": {
            "max_associations": listener.max_associations,
            "max_per_address": listener.max_per_address,
            "max_pdu": listener.max_pdu,
            "request_s": listener.request_s,
            "idle_s": listener.idle_s,
            "stall_s": listener.stall_s,
            "object_bytes": listener.object_mb * 1024 * 1024,
        },
        "tls": files._asdict() if files else None,
    }


def first_message(settings: Settings, objects: Path, resume: tuple[str, int]) -> Message:
    """Return what a wire is told first."""
    name, at = resume
    return {
        "kind": "begin",
        **rules_of(settings),
        "objects": str(objects),
        "owner": settings.node.name,
        "segment_bytes": settings.storage.journal_mb * 1024 * 1024,
        "resume": name,
        "resume_at": at,
    }


def _guest(peer: Peer) -> dict[str, Any]:
    return {
        "name": peer.name,
        "ae_title": peer.ae_title,
        "services": sorted(services_of(peer)),
        "addresses": list(peer.addresses),
        "certificates": list(peer.certificates),
        "secure_only": peer.tls,
    }
