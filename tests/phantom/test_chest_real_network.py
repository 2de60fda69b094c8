"""A network trained by others on real patients finds the lungs of drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from node.models.unet_conv_transpose import UNetConvTranspose
from node.phantom import chest

LEVELS = (0.22, 0.42, 0.6, 0.78)


@pytest.fixture(scope="module")
def network(shared_data: Callable[[str], Path]) -> UNetConvTranspose:
    found = UNetConvTranspose(1, 1, (16, 32, 64, 128))
    weights = shared_data("weights/lung-ct-unet/UNet_wdk24.pt")
    found.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return found.eval()


def lung_dice(network: UNetConvTranspose, seed: int) -> float:
    """Dice of both lungs in a few slices of 512 x 512, two largest pieces per slice."""
    patient = chest.ChestPatient.draw(seed)
    both = total = 0
    for level in LEVELS:
        hu, labels = chest.slice_at(patient, level * patient.lung_height_mm, thickness_mm=2.0)
        image = torch.from_numpy(np.maximum(hu + 1024, 0).astype(np.float32))[None, None]
        with torch.no_grad():
            dark = network(image)[0, 0].numpy() > 0
        pieces, _ = ndimage.label(dark)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        found = np.isin(pieces, np.argsort(sizes)[-2:]) & (pieces > 0)
        both += int((found & (labels > 0)).sum())
        total += int(found.sum()) + int((labels > 0).sum())
    return 2 * both / total


def test_a_network_trained_on_real_chests_finds_drawn_lungs(network: UNetConvTranspose) -> None:
    assert np.median([lung_dice(network, seed) for seed in (1000, 1001, 1002)]) >= 0.85


@pytest.mark.accept
def test_over_twenty_seeds_it_does_so_at_090(network: UNetConvTranspose) -> None:
    assert np.median([lung_dice(network, seed) for seed in range(1000, 1020)]) >= 0.90
