"""What one slice of a volume needs to be read, and how reading says that it cannot.

Source: PS3.3 C.7.6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.imaging.pixel_format import PixelFormat, ValueRule
from node.imaging.values import PixelPlace, SourceInstance
from node.reasons import Reason


class RefusedError(Exception):
    """Carries a refusal from where it is found to `load_volume`, which returns it as a value."""

    def __init__(self, reason: Reason, explanation: str, instance: SourceInstance) -> None:
        super().__init__(explanation)
        self.reason, self.explanation, self.instance = reason, explanation, instance


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice: where its cells lie and how they become values.

    Attributes:
        instance: The instance it lies in.
        place: The pixel element of that instance.
        form: How pixels are written there.
        rule: How cells of this slice become values.
        frame: Number of its frame, from 0.
    """

    instance: SourceInstance
    place: PixelPlace
    form: PixelFormat
    rule: ValueRule
    frame: int


def unreadable(instance: SourceInstance, error: Exception) -> RefusedError:
    """Return the refusal of a file that was there when the plan was made."""
    return RefusedError(
        Reason.BAD_HEADER,
        f"{instance.file.path.name} can no longer be read ({type(error).__name__}).",
        instance,
    )


def truncated(plane: Plane, what: str) -> RefusedError:
    """Return the refusal of a frame that is not all there."""
    return RefusedError(Reason.TRUNCATED_FRAME, f"Frame {plane.frame + 1} {what}.", plane.instance)
