"""Vessels inside the lungs: one tree per lung grown from its hilum towards random points.

Each target joins the nearest grown node that lies nearer to the hilum, so vessels run outwards
and taper by Murray's law; nodes along an edge let later branches leave it. Trees are solid in
three dimensions: the same vessel is seen on every plane that cuts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.phantom.planes import F64
from node.phantom.tubes import Capsules, joined

_STEP_MM = 9.0
_MURRAY = 2.7


@dataclass(frozen=True, slots=True, eq=False)
class LungVessels:
    """Trees of both lungs.

    Attributes:
        blood: All vessels.
        wall: Walls of the bronchi that run beside some of them.
        lumen: Their lumen.
    """

    blood: Capsules
    wall: Capsules
    lumen: Capsules


def grow_vessels(
    rng: np.random.Generator,
    hila: tuple[tuple[float, float, float], tuple[float, float, float]],
    targets: Callable[[int], F64],
    *,
    leaves: int,
) -> LungVessels:
    """Grow the trees.

    Args:
        rng: Source of randomness.
        hila: Roots, right and left, LPS mm.
        targets: Gives points inside the right (0) or left (1) lung, shape (n, 3).
        leaves: Most ends per lung.
    """
    leaf_mm = float(rng.uniform(0.35, 0.65))
    trees = [
        _grow(rng, np.asarray(hila[k]), targets(k)[:leaves], leaf_mm=leaf_mm) for k in range(2)
    ]
    blood = joined(trees)
    beside = (blood.start_mm > 1.1) & (rng.random(len(blood)) < rng.uniform(0.03, 0.25))
    chosen = blood.where(beside)
    side = rng.standard_normal((len(chosen), 3))
    along = chosen.ends - chosen.starts
    across = np.cross(along, side)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-6
    off = across * (chosen.start_mm * 2.1)[:, None]
    bronchi = Capsules(
        chosen.starts + off, chosen.ends + off, chosen.start_mm * 0.9, chosen.end_mm * 0.9
    )
    return LungVessels(blood, bronchi.grown(0.3), bronchi.grown(-0.5))


def _grow(rng: np.random.Generator, root: F64, targets: F64, *, leaf_mm: float) -> Capsules:
    order = np.argsort(np.linalg.norm(targets - root, axis=1))
    capacity = 1 + len(targets) * 40
    nodes = np.empty((capacity, 3))
    reach = np.empty(capacity)
    parent = np.zeros(capacity, np.intp)
    nodes[0], reach[0], count = root, 0.0, 1
    ends: list[int] = []
    for target in targets[order]:
        far = float(np.linalg.norm(target - root))
        apart = nodes[:count] - target
        gap = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        gap[reach[:count] > far] = np.inf  # only nodes nearer to the hilum
        gap[reach[:count] < 12] += 0.12 * far  # or all would leave the hilum itself
        at = int(np.argmin(gap))
        length = float(np.linalg.norm(nodes[at] - target))
        pieces = min(max(int(np.ceil(length / _STEP_MM)), 1), 39)
        bend = rng.normal(0, 0.06 * length, 3)
        start = nodes[at].copy()
        for k in range(1, pieces + 1):
            f = k / pieces
            nodes[count] = start + (target - start) * f + bend * np.sin(np.pi * f)
            reach[count] = np.linalg.norm(nodes[count] - root)
            parent[count] = at
            at, count = count, count + 1
        ends.append(count - 1)
    return _tapered(nodes[:count], parent[:count], ends, leaf_mm)


def _tapered(nodes: F64, parent: NDArray[np.intp], ends: list[int], leaf_mm: float) -> Capsules:
    load = np.zeros(len(nodes))
    load[ends] = 1.0
    for k in range(len(nodes) - 1, 0, -1):
        load[parent[k]] += load[k]
    radius = np.minimum(leaf_mm * np.maximum(load, 1) ** (1 / _MURRAY), 6.0)
    inner = radius[parent[1:]]
    return Capsules(nodes[parent[1:]], nodes[1:], np.minimum(inner, radius[1:] * 1.25), radius[1:])
