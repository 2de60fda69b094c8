"""Trouble as a value: what happened, where, and what to do about it.

Three families say who has to act, so that whether a retry helps follows from the type:
`PeerError` (what a peer sent or answered is at fault), `SetupError` (a setting or a file is at
fault, an administrator must act) and `PassingError` (something outside was away; the same call
may succeed later). Anything else is a bug of ours; only an outermost loop catches it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that went wrong.

    Attributes:
        code: Stable, kebab-case; runbooks and alerts refer to it.
        what: One sentence: what was found and what was wanted.
        where: Coordinates only: UID, tag, byte offset, AE title, setting, job number. Never a
            patient's name, identifier or date of birth.
        remedy: What the reader can do next.
    """

    code: str
    what: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} ({self.where}) {self.remedy} [{self.code}]"


class LimnerError(Exception):
    """Base of every exception raised on purpose; `fault` carries the facts."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class PeerError(LimnerError):
    """What a peer sent or answered is not what the Standard, or our limits, allow."""


class SetupError(LimnerError):
    """A setting, a model file or a folder is missing or contradicts another."""


class PassingError(LimnerError):
    """Something outside was away: a refused connection, a locked database, a full disk."""


def setup_error(code: str, what: str, *, where: str, remedy: str) -> SetupError:
    """Return a SetupError from its four parts."""
    return SetupError(Fault(code=code, what=what, where=where, remedy=remedy))


def passing_error(code: str, what: str, *, where: str, remedy: str) -> PassingError:
    """Return a PassingError from its four parts."""
    return PassingError(Fault(code=code, what=what, where=where, remedy=remedy))


def peer_error(code: str, what: str, *, where: str, remedy: str) -> PeerError:
    """Return a PeerError from its four parts."""
    return PeerError(Fault(code=code, what=what, where=where, remedy=remedy))
