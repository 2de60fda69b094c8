"""Learning rates: the same numbers as torch's, and down to nothing at the end of a budget."""

from __future__ import annotations

import pytest
import torch

from node.training.rates import one_cycle, poly


@pytest.mark.parametrize(("steps", "warm_up"), [(340, 0.15), (24, 0.15), (2, 0.15), (50, 0.05)])
def test_one_cycle_gives_the_numbers_of_torchs_schedule(steps: int, warm_up: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=3e-3)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=3e-3, total_steps=steps, pct_start=warm_up
    )
    for step in range(steps):
        group = optimiser.param_groups[0]
        assert one_cycle(step, steps, peak=3e-3, warm_up=warm_up) == (
            group["lr"],
            group["betas"][0],
        )
        optimiser.step()
        theirs.step()


def test_poly_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [poly(step, 100, peak=1.0, warm_up=0.1)[0] for step in range(100)]
    assert rates[0] < 0.1
    assert max(rates) == rates[10] == 1.0
    assert rates[11:] == sorted(rates[11:], reverse=True)
    assert rates[-1] < 0.02
