"""How a rule of SUV says that it cannot be computed; `suv_scale` returns it as a value."""

from __future__ import annotations

from node.reasons import Reason


class NoSuvError(Exception):
    """Carries a reason and a sentence from the rule that refuses to `suv_scale`."""

    def __init__(self, reason: Reason, explanation: str) -> None:
        super().__init__(explanation)
        self.reason, self.explanation = reason, explanation
