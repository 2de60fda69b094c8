"""The CPU runtime: OpenVINO, from the extra `cpu`. Imported only where it is going to be used.

The network is converted in memory (torch.export, which needs no other package and no file), for
one fixed shape at a time and one image per call: memory is planned once, and an image's scores do
not depend on what lies beside it in a batch. Threads and precision are fixed, because both can
change a label.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from node.models.device import device_name
from node.models.runtime import Facts

_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}
_SHAPES: Final = 4
"""Compiled shapes that are kept: a site's series have few matrix sizes."""


class OpenVinoRuntime:
    """A network as OpenVINO runs it on the CPU."""

    def __init__(self, network: nn.Module, *, threads: int, precision: str) -> None:
        """Prepare to convert; the first image of a shape converts and compiles, in seconds.

        Args:
            network: In evaluation mode, without gradients, on the CPU.
            threads: Threads of one pass.
            precision: `fp32` or `bf16`.

        Raises:
            ImportError: OpenVINO is not installed.
        """
        # Converting a model would tell the maker of OpenVINO about it over the internet. Where its
        # telemetry cannot be imported, OpenVINO takes a stand-in that sends nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what Python documents
        import openvino
        import openvino.frontend

        self._openvino: Any = openvino
        self._core: Any = openvino.Core()
        self._network = network
        self._compiled: dict[tuple[int, ...], Any] = {}
        self.device = torch.device("cpu")
        self.facts = Facts(
            "openvino",
            str(openvino.__version__).split("-", maxsplit=1)[0],
            device_name(self.device),
            precision,
            threads,
        )

    def scores(self, image: Tensor) -> Tensor:
        """Return float32 scores.

        Raises:
            RuntimeError: The network cannot be converted, compiled or run.
        """
        image = image.contiguous()
        shape = (1, *image.shape[1:])
        request = self._request(shape)
        answer = tuple(request.get_output_tensor(0).shape)[1:]
        scores = torch.empty((len(image), *answer))
        for number in range(len(image)):
            request.set_input_tensor(self._shared(image[number : number + 1]))
            request.set_output_tensor(self._shared(scores[number : number + 1]))
            request.infer()
        return scores

    def _shared(self, values: Tensor) -> Any:
        return self._openvino.Tensor(values.numpy(), shared_memory=True)

    def _request(self, shape: Sequence[int]) -> Any:
        key = tuple(shape)
        if key not in self._compiled:
            while len(self._compiled) >= _SHAPES:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = self._compile(key)
        return self._compiled[key]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        frontend = self._openvino.frontend
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch, about its own parts
            program = torch.export.export(self._network, (torch.zeros(shape),), strict=False)
            try:
                model = self._openvino.convert_model(program)
            except (frontend.GeneralFailure, frontend.OpConversionFailure) as error:
                raise RuntimeError(f"OpenVINO does not convert this network: {error}") from error
        model.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": self.facts.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[self.facts.precision],
            "ENABLE_CPU_PINNING": False,  # other processes of the node use these cores too
        }
        return self._core.compile_model(model, "CPU", settings).create_infer_request()
