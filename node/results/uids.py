"""Names that follow from content: result keys and UIDs without chance or clock.

The key of a result says from what it was made; the same key must never give a second result. A
UID says what was stored: the SOP Instance UID is made from every byte of the object except
itself, so one UID can never name two byte strings, and anyone who holds the object can check its
UID. (An archive answers "success" to other bytes under a known UID and keeps the old ones.)
UIDs are `2.25.` and a UUID of version 8 (PS3.5 B.2, RFC 9562 5.8) from a SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Final

from node.imaging.values import Sourced
from node.results.sources import dataset_digest

ENCODER_VERSION: Final = "1"
"""Raised whenever this room would write other bytes for the same input; part of every key."""

IMPLEMENTATION_CLASS_UID: Final = "2.25.88589623244343850274632124716294994028"
"""Names this software in file meta and as Instance Creator UID; the network room says the same."""

IMPLEMENTATION_VERSION_NAME: Final = "LIMNER_01"
"""SH, at most 16 characters; the network room says the same."""

_NAMESPACE: Final = "limner"


def result_key(
    inputs: Iterable[str],
    *,
    model_digest: str,
    settings_digest: str,
    kind: str,
    marks: Sequence[str] = (),
    encoder_version: str = ENCODER_VERSION,
) -> str:
    """Return the digest that names a result by what it is made from, hex.

    Args:
        inputs: One line per input, from `volume_inputs`; their order does not matter.
        model_digest: SHA-256 of the weights, hex.
        settings_digest: SHA-256 of everything else in the card that can change labels, hex.
        kind: Kind of the result object, such as `SEG`.
        marks: Verdicts that the object would carry in its series description.
        encoder_version: Version of the rules by which objects are written.
    """
    marked = [list(marks)] if marks else []
    return _digest(
        "key", sorted(inputs), model_digest, settings_digest, encoder_version, kind, *marked
    ).hex()


def volume_inputs(volume: Sourced) -> tuple[str, ...]:
    """Return one line per instance: UID, digest of its bytes, and which frames were used.

    Instances of further channels say which channel they are.
    """
    own = _lines(volume)
    further = (
        f"{line} channel {place}"
        for place, other in enumerate(volume.others, start=2)
        for line in _lines(other)
    )
    return (*own, *further)


def _lines(volume: Sourced) -> tuple[str, ...]:
    frames: dict[int, list[int]] = {}
    for piece in volume.slices:
        frames.setdefault(piece.instance, []).append(piece.frame or 0)
    return tuple(
        f"{instance.sop_instance_uid} {dataset_digest(instance.file)} "
        f"{','.join(map(str, sorted(frames.get(index, ()))))}"
        for index, instance in enumerate(volume.instances)
    )


def derived_uid(purpose: str, *parts: str) -> str:
    """Return the UID that follows from a purpose and its parts."""
    return _uid(_digest(purpose, *parts))


def content_uid(content_digest: str) -> str:
    """Return the SOP Instance UID of an object whose other bytes have this SHA-256."""
    return derived_uid("instance", content_digest)


def _digest(*parts: object) -> bytes:
    """Return a SHA-256 over parts that cannot run into each other."""
    return hashlib.sha256(json.dumps([_NAMESPACE, *parts]).encode("ascii")).digest()


def _uid(digest: bytes) -> str:
    number = int.from_bytes(digest[:16], "big")
    number = (number & ~(0xF << 76)) | (8 << 76)  # version 8: made by rules of our own
    number = (number & ~(0x3 << 62)) | (2 << 62)  # the variant that UUIDs of today have
    return f"2.25.{number}"
