"""UIDs of phantoms: `2.25.` and 128 bits of a SHA-256, so that the same seed names the same things.

Source: PS3.5 B.2 (UUID derived UIDs). The digest covers a namespace of ours, so a phantom's UID
can meet no other object's except by a collision of 128 bits.
"""

from __future__ import annotations

import hashlib
from typing import Final

_NAMESPACE: Final = "limner-phantom-1"


def derive_uid(*parts: object) -> str:
    """Return the UID that belongs to `parts`, the same on every platform.

    Args:
        parts: What tells this object from every other: seed, study, series, instance.

    Returns:
        A UID of at most 44 characters under the root 2.25.
    """
    text = "\x1f".join((_NAMESPACE, *(str(part) for part in parts)))
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])}"
