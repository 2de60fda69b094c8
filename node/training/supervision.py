"""Losses at coarser levels of a U-Net while it trains; nothing of them stays in the weights.

Source: Lee et al. 2015 (deeply-supervised nets); the weights halve from level to level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from node.models.unet import UNet


class Supervision(nn.Module):
    """Small heads on the decoder's coarser levels."""

    def __init__(
        self, model: nn.Module, outputs: int, levels: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._of: tuple[nn.Module] = (model,)  # in a tuple, so that it is no part of this module
        self._seen: list[Tensor] = []
        self._hooks: list[Any] = []
        self.heads = nn.ModuleList()
        if not levels or not isinstance(model, UNet):
            return
        shape = model.shape
        conv = nn.Conv2d if shape.dimensions == 2 else nn.Conv3d
        # `merge` runs from coarse to fine; its last entry is the finest level, which has a head.
        chosen = list(enumerate(model.merge))[-1 - levels : -1]
        for place, merge in chosen:
            self._hooks.append(merge.register_forward_hook(self._see))
            self.heads.append(conv(shape.widths[-2 - place], outputs, kernel_size=1))
        for head in self.heads:
            nn.init.kaiming_normal_(head.weight, generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def scores(self, images: Tensor) -> list[Tensor]:
        """Return the network's scores, then those of coarser levels."""
        self._seen.clear()
        finest: Tensor = self._of[0](images)
        coarser = [head(seen) for head, seen in zip(self.heads, self._seen, strict=True)]
        return [finest, *reversed(coarser)]

    def weighted(self, losses: Sequence[Tensor]) -> Tensor:
        """Return the mean of the losses, each level with half the weight of the finer one."""
        if len(losses) == 1:
            return losses[0]
        shares = [0.5**level for level in range(len(losses))]
        total = sum(
            (loss * share for loss, share in zip(losses, shares, strict=True)),
            torch.zeros(()),
        )
        return total / sum(shares)

    def remove(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._seen.append(output)
