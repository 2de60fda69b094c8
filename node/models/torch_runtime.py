"""The reference runtime: torch, on the CPU or a CUDA device.

On CUDA the shapes of a job never change, so a pass is recorded once as a graph and replayed; small
2D networks spend most of their time launching kernels. Where a pass cannot be recorded it runs
kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from node.models.device import device_name
from node.models.runtime import Facts

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GRAPHS: Final = 4
"""Recorded shapes that are kept; each holds its activations on the device."""
_WARM_UPS: Final = 3  # passes before recording, as PyTorch's notes on graphs ask


class TorchRuntime:
    """A network as torch runs it."""

    def __init__(
        self, network: nn.Module, *, device: torch.device, precision: str, threads: int
    ) -> None:
        """Take a network in evaluation mode to the device.

        Args:
            network: Without gradients.
            device: CPU or CUDA.
            precision: `fp32`, `bf16` or `fp16`.
            threads: Recorded; the process's own setting counts.
        """
        self.network = network.to(device)
        self.device = device
        self.facts = Facts("torch", torch.__version__, device_name(device), precision, threads)
        self._dtype = _DTYPES[precision]
        self._channels_last = device.type == "cpu" and _likes_channels_last(network)
        if self._channels_last:
            # Module.to takes the keyword; its type stub does not know it.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs: dict[tuple[int, ...], _Graph | None] = {}

    def scores(self, image: Tensor) -> Tensor:
        """Return float32 scores on the device."""
        image = image.to(self.device)
        if self._channels_last:
            image = image.to(memory_format=torch.channels_last)
        if self.device.type == "cuda":
            return self._replayed(image)
        return self._pass(image)

    def _pass(self, image: Tensor) -> Tensor:
        # Weights cast by autocast must not be kept from one recording to the next.
        with (
            torch.no_grad(),
            torch.autocast(
                self.device.type,
                dtype=self._dtype,
                enabled=self._dtype is not torch.float32,
                cache_enabled=self.device.type == "cpu",
            ),
        ):
            found: Tensor = self.network(image)
        return found.float()

    def _replayed(self, image: Tensor) -> Tensor:
        key = tuple(image.shape)
        if key not in self._graphs:
            while len(self._graphs) >= _GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            try:
                self._graphs[key] = _Graph(self._pass, image)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # something in this network cannot be recorded
                self._graphs[key] = None
        graph = self._graphs[key]
        return self._pass(image) if graph is None else graph(image)


class _Graph:
    """One recorded pass; its input and output keep their place in memory."""

    def __init__(self, run: Callable[[Tensor], Tensor], image: Tensor) -> None:
        self._image = image.clone()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch types it in part
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                run(self._image)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._scores = run(self._image)

    def __call__(self, image: Tensor) -> Tensor:
        self._image.copy_(image)
        self._graph.replay()
        return self._scores.clone()


def _likes_channels_last(network: nn.Module) -> bool:
    """Say whether the channels-last layout is the fast one on a CPU.

    It makes 2D BatchNorm networks 1.2 to 3 times faster; InstanceNorm converts to and fro.
    """
    kinds = {type(layer) for layer in network.modules()}
    return nn.Conv2d in kinds and not kinds & {nn.InstanceNorm2d, nn.Conv3d}
