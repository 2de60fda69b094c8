"""What runs a network: one small interface with two implementations, torch and OpenVINO.

torch is the reference on every device. What can change a label is a fact of a runtime: engine and
version, precision, threads, device. The facts go into every result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Facts:
    """What a runtime is.

    Attributes:
        engine: `torch` or `openvino`.
        version: Of the engine.
        device: `cpu` or `cuda` with the maker's name.
        precision: `fp32`, `bf16` or `fp16`; that of most products, sums are fp32 everywhere.
        threads: CPU threads of one pass.
    """

    engine: str
    version: str
    device: str
    precision: str
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.engine} {self.version}, {self.precision}, {threads}, {self.device}"

    def as_mapping(self) -> Mapping[str, str]:
        """Return the facts as they stand in a result."""
        return {
            "engine": f"{self.engine} {self.version}",
            "device": self.device,
            "precision": self.precision,
            "threads": str(self.threads),
        }


class Runtime(Protocol):
    """A network in memory, ready to run."""

    @property
    def facts(self) -> Facts:
        """What it is."""
        ...

    @property
    def device(self) -> torch.device:
        """Where scores lie."""
        ...

    def scores(self, image: Tensor) -> Tensor:
        """Return float32 scores (b, outputs, ...) on `device`, in memory of their own.

        Args:
            image: Normalised intensities, (b, channels, [slices,] rows, columns), float32.
        """
        ...
