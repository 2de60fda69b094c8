"""How a phantom PACS shall misbehave: values only, readable from a command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class Commitment(StrEnum):
    """How a storage commitment request is answered."""

    NEW_ASSOCIATION = "new-association"  # a report on an association of the PACS, as most do
    SAME_ASSOCIATION = "same-association"  # a report on the association that asked
    NEVER = "never"  # the request is accepted and no report ever comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a phantom PACS does wrong; without any it behaves.

    Attributes:
        reject_associations: The first so many associations are rejected as congested.
        out_of_resources: The first so many C-STORE requests are answered 0xA700.
        store_status: Status of every other C-STORE request that is not kept; 0 keeps them.
        forget: Answers success to every C-STORE and keeps nothing.
        refused_classes: SOP classes whose presentation contexts are refused.
        close_in_data: C-STORE requests, counted from 1, in whose data the connection closes.
        close_before_answer: C-STORE requests that are kept and never answered: it closes instead.
        commitment: How commitment requests are answered.
        commitment_delay_s: How long a report on a new association is held back.
        commitment_failure: Failure Reason of every reference; 0 tells the truth.
    """

    reject_associations: int = 0
    out_of_resources: int = 0
    store_status: int = 0
    forget: bool = False
    refused_classes: frozenset[str] = frozenset()
    close_in_data: frozenset[int] = frozenset()
    close_before_answer: frozenset[int] = frozenset()
    commitment: Commitment = Commitment.NEW_ASSOCIATION
    commitment_delay_s: float = 0.0
    commitment_failure: int = 0

    @property
    def on_the_wire(self) -> bool:
        """Whether a relay has to stand before the PACS."""
        return bool(
            self.refused_classes
            or self.close_in_data
            or self.close_before_answer
            or self.commitment is Commitment.SAME_ASSOCIATION
        )


def read_orders(texts: list[str]) -> Orders:
    """Return the orders that `name=value` texts give.

    Numbers may be written as 0xA700; sets are separated by commas.

    Raises:
        ValueError: A name is not known or a value does not fit.
    """
    known = {field.name for field in fields(Orders)}
    given: dict[str, object] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise ValueError(f"'{name}' is no order; known are {', '.join(sorted(known))}.")
        given[name] = _value(name, value)
    return Orders(**given)  # type: ignore[arg-type]  # _value gives each field its type


def _value(name: str, text: str) -> object:
    match name:
        case "refused_classes":
            return frozenset(text.split(","))
        case "close_in_data" | "close_before_answer":
            return frozenset(int(number) for number in text.split(","))
        case "commitment":
            return Commitment(text)
        case "commitment_delay_s":
            return float(text)
        case "forget":
            return text == "true"
        case _:
            return int(text, 0)
