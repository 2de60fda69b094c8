"""A chest patient: every organ drawn once per seed, each from a random stream of its own.

`SeedSequence.spawn` gives one child per organ in a fixed order, so that a change to one organ
leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.phantom.abdomen import Abdomen, draw_abdomen
from node.phantom.disease import Disease, Lump, draw_disease, draw_nodule
from node.phantom.formation import Formation, draw_formation
from node.phantom.landmarks import Landmarks
from node.phantom.lungs import Lungs, chest_space, draw_lungs
from node.phantom.mediastinum import Mediastinum, draw_mediastinum
from node.phantom.outside import Outside, draw_outside
from node.phantom.parenchyma import Parenchyma, draw_parenchyma
from node.phantom.planes import F32, F64, Points
from node.phantom.smooth import Field, draw_field, draw_lattice
from node.phantom.tissue import Tissue, draw_tissue
from node.phantom.trunk import Trunk, draw_trunk, frame_at
from node.phantom.vessels import grow_vessels

MARKER_MM = 4.0
"""Radius of the calcified marker."""

_ORGANS = (
    "lattice",
    "trunk",
    "lungs",
    "mediastinum",
    "tissue",
    "places",
    "vessels",
    "abdomen",
    "disease",
    "parenchyma",
    "outside",
    "formation",
    "blood",
    "nodules",
)
"""Order of the random streams; new organs go to the end."""


@dataclass(frozen=True, slots=True, eq=False)
class ChestPatient:
    """Everything that was drawn for one seed; sampling it needs nothing else.

    Attributes:
        seed: The seed.
        trunk: Shape of body and cage.
        lungs: Diaphragm and apices.
        mediastinum: Heart, vessels, airways.
        tissue: Wall and bones.
        abdomen: What lies below.
        disease: What is wrong.
        parenchyma: The lungs' inside.
        outside: Table, blankets, plates.
        formation: Scanner.
        blood_hu: Attenuation of blood.
        heart_hu: Attenuation of the heart.
        fatty: Field that mixes soft tissue into the mediastinal fat.
        marker_mm: Centre of the calcified marker, LPS; None where it was left out.
    """

    seed: int
    trunk: Trunk
    lungs: Lungs
    mediastinum: Mediastinum
    tissue: Tissue
    abdomen: Abdomen
    disease: Disease
    parenchyma: Parenchyma
    outside: Outside
    formation: Formation
    blood_hu: float
    heart_hu: float
    fatty: Field
    marker_mm: tuple[float, float, float] | None

    @property
    def lung_height_mm(self) -> float:
        """Height of the lungs: they lie between z = 0 and this, more or less."""
        return self.trunk.height

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        hard: bool = False,
        healthy: bool = False,
        marker: bool = True,
        nodules: Sequence[tuple[float, float]] = (),
    ) -> ChestPatient:
        """Draw a patient: the same seed and options give the same patient.

        Args:
            seed: At least 0.
            hard: The hard profile: more disease, gas, plates, noise, a wide field of view.
            healthy: No disease but a few nodules.
            marker: Put a calcified ball into the right lung, in front and above.
            nodules: Further nodules on order, as (diameter in mm, HU).
        """
        children = np.random.SeedSequence(seed).spawn(len(_ORGANS))
        streams = dict(zip(_ORGANS, children, strict=True))

        def rng(organ: str) -> np.random.Generator:
            return np.random.Generator(np.random.PCG64(streams[organ]))

        nodes = draw_lattice(rng("lattice"))
        trunk = draw_trunk(rng("trunk"), nodes, hard=hard)
        lungs = draw_lungs(rng("lungs"), trunk, nodes, hard=hard)
        tendon = 0.8 * lungs.dome_mm[1]
        organs = draw_mediastinum(rng("mediastinum"), trunk, tendon_mm=tendon, hard=hard)
        marks = Landmarks(
            trunk=trunk,
            spine_mm=organs.spine_y,
            scale=trunk.half_x / 131,
            carina=organs.carina,
            airway_mm=8.0,
        )
        places = _LungPlaces.draw(rng("places"), trunk, lungs, organs)
        growth = rng("vessels")
        vessels = grow_vessels(
            growth, organs.hila, lambda k: places.inside[k], leaves=int(growth.integers(250, 900))
        )
        illness = rng("disease")
        disease = draw_disease(
            illness,
            nodes,
            lambda k: places.inside[k][illness.integers(len(places.inside[k]), size=1)],
            lambda k: places.border[k][illness.integers(len(places.border[k]), size=1)],
            hard=hard,
            healthy=healthy,
        )
        wanted = rng("nodules")
        extra = tuple(
            _ordered_nodule(wanted, nodes, places, disease, diameter=d, hu=h) for d, h in nodules
        )
        liquid = rng("blood")
        contrast = bool(liquid.random() < 0.5)
        blood = float(liquid.uniform(90, 330)) if contrast else float(liquid.normal(42, 5))
        body_half = trunk.half_x + trunk.wall + trunk.fat[1]
        return cls(
            seed=seed,
            trunk=trunk,
            lungs=lungs,
            mediastinum=organs,
            tissue=draw_tissue(rng("tissue"), trunk, marks, nodes),
            abdomen=draw_abdomen(
                rng("abdomen"), trunk, lungs, marks, nodes, contrast=contrast, hard=hard
            ),
            disease=_with_lumps(disease, extra),
            parenchyma=draw_parenchyma(rng("parenchyma"), nodes, vessels, hard=hard),
            outside=draw_outside(rng("outside"), trunk, nodes, hard=hard),
            formation=draw_formation(
                rng("formation"), cage_half_mm=trunk.half_x, body_half_mm=body_half, hard=hard
            ),
            blood_hu=blood,
            heart_hu=40 + (blood - 40) * float(liquid.uniform(0.5, 0.95)),
            fatty=draw_field(liquid, nodes, (14.0, 8.0, 8.0)),
            marker_mm=places.marker(trunk) if marker else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _LungPlaces:
    """Random points of the right and the left lung, LPS mm, shape (n, 3) each."""

    inside: tuple[F64, F64]
    border: tuple[F64, F64]
    deep: tuple[F64, F64]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, trunk: Trunk, lungs: Lungs, organs: Mediastinum
    ) -> _LungPlaces:
        """Draw points until both lungs have enough."""
        low = np.array([-trunk.half_x, -trunk.half_y - trunk.kyphosis, -10])
        high = np.array([trunk.half_x, trunk.half_y, trunk.height])
        points = rng.uniform(low, high, (9000, 3))
        x, y, z = points.astype(np.float32).T
        frame = frame_at(trunk, Points(x, y, z))
        space = chest_space(trunk, organs, lungs, frame, pixel_mm=1.0, thickness_mm=0.0)
        depth = -np.asarray(space.lung)
        right = np.asarray(space.side) < 0
        return cls(
            inside=(points[(depth > 1.5) & right], points[(depth > 1.5) & ~right]),
            border=(
                points[(depth > 0) & (depth < 14) & right],
                points[(depth > 0) & (depth < 14) & ~right],
            ),
            deep=(points[(depth > 14) & right], points[(depth > 14) & ~right]),
        )

    def marker(self, trunk: Trunk) -> tuple[float, float, float]:
        """Return the point that lies furthest to the right, the front and the top."""
        points = self.deep[0] if len(self.deep[0]) else self.inside[0]
        x, y, z = points.T
        score = -x / trunk.half_x - 1.3 * y / trunk.half_y
        score = score - 6 * np.abs(z / trunk.height - 0.68)
        best = points[int(np.argmax(score))]
        return float(best[0]), float(best[1]), float(best[2])


def _ordered_nodule(
    rng: np.random.Generator,
    nodes: F32,
    places: _LungPlaces,
    disease: Disease,
    *,
    diameter: float,
    hu: float,
) -> Lump:
    """Draw a nodule of a wanted size, clear of the border and of other lesions where it can be."""
    side = int(rng.integers(2))
    points = places.deep[side] if len(places.deep[side]) else places.inside[side]
    rng.shuffle(points)
    for point in points[:50]:
        gaps = [
            float(np.linalg.norm(point - np.asarray(lump.centre))) - max(lump.radii)
            for lump in disease.lumps
        ]
        if min(gaps, default=1e3) > diameter:
            return draw_nodule(rng, nodes, point, diameter=diameter, hu=hu)
    return draw_nodule(rng, nodes, points[0], diameter=diameter, hu=hu)


def _with_lumps(disease: Disease, extra: tuple[Lump, ...]) -> Disease:
    return Disease(
        lumps=disease.lumps + extra,
        patches=disease.patches,
        effusion_v=disease.effusion_v,
        effusion_slope=disease.effusion_slope,
        effusion_hu=disease.effusion_hu,
        emphysema=disease.emphysema,
        reticulation=disease.reticulation,
        bands=disease.bands,
        holes=disease.holes,
        septa=disease.septa,
    )
