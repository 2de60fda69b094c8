"""Passwords of people: Argon2id hashes, a length policy, and no difference for unknown names.

The database holds only what `hash_password` returns. `verify_password` without a hash does the
same work against a hash that nobody's password fits, so that the time of an answer does not tell
whether a name exists.
"""

from __future__ import annotations

import secrets
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from node.errors import setup_error

SHORTEST: Final = 12
"""Characters of the shortest password. NIST SP 800-63B asks for length, not for kinds of signs."""

LONGEST: Final = 256
"""Bounds the work of one sign-in; far above what a person or a password safe uses."""

_HASHER: Final = PasswordHasher()


def check_policy(password: str) -> str:
    """Return why `password` is not allowed as a sentence, or an empty string."""
    if len(password) < SHORTEST:
        return f"The password has {len(password)} characters; at least {SHORTEST} are needed."
    if len(password) > LONGEST:
        return f"The password is longer than {LONGEST} characters."
    if len(set(password)) < 4:
        return "The password repeats too few different characters."
    return ""


def hash_password(password: str) -> str:
    """Return the Argon2id hash to store.

    Raises:
        SetupError: The password is not allowed by the policy.
    """
    mistake = check_policy(password)
    if mistake:
        raise setup_error(
            "weak-password",
            mistake,
            where="password",
            remedy="Choose a longer one, such as four or five words in a row.",
        )
    return _HASHER.hash(password)


def verify_password(password: str, stored: str | None) -> bool:
    """Say whether `password` fits the stored hash; `None` costs the same and never fits."""
    if len(password) > LONGEST:
        password = ""
    try:
        fits = _HASHER.verify(stored if stored is not None else _nobodys_hash(), password)
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
    return fits and stored is not None


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash(secrets.token_hex(32))
