"""One digest over what a card says: the same text for the same values, at every start.

Values are written as JSON with sorted keys. Fields that came later (`parts.LATER`) are left out
at their default, so that a card that does not use them keeps the keys of its results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping


def digest_of(parts: Mapping[str, object]) -> str:
    """Return the SHA-256 over values of a card, hex."""
    text = json.dumps(_plain(parts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    """Return `value` as what JSON knows; a value's type name tells steps apart."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("later") and getattr(value, f.name) == f.default)
        }
        return {"": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
