"""Models that hand their input through, with any head, stage and steps, for these tests."""

from __future__ import annotations

from pathlib import Path

from node.models.card import Card
from tests.models.builders import CARD, VOXELS, write_model
from tests.models.identity import identity_network

NETWORK = (
    'architecture = "unet2d"\noutputs = {outputs}\nwidths = [2, 2, 2]\n'
    '[inference]\nmode = "slices"\nbatch = 8\n'
)
PROBABILITY = 'kind = "probability"'


CLASSIFICATION = """
[[findings]]
label = "Bright thing"
code = "27925004, SCT, Nodule"
threshold = 0.5
review_within = {within}
"""


def write_classifier(
    folder: Path, *, head: str = PROBABILITY, within: float = 0.0, more: str = ""
) -> Card:
    """Write a model that says how bright a volume is: its one output, a score as above."""
    card = write_handing(folder, name="bright")
    text = card.text.replace(card.weights.sha256, "{sha256}").replace(PROBABILITY, head)
    text = text.replace('version = "1"', 'version = "1"\nkind = "classification"')
    start, end = text.index("[[segments]]"), text.index("[results]")
    text = text[:start] + CLASSIFICATION.replace("{within}", str(within)) + more + text[end:]
    return write_model(folder / "bright", text, identity_network(card.network))


def write_handing(
    folder: Path,
    *,
    name: str = "handing",
    head: str = PROBABILITY,
    scale: tuple[float, float] = (0, 1000),
    spacing: str = "[0, 0, 0]",
    units: str = "HU",
    more: str = "",
) -> Card:
    """Write a model whose score is its input, scaled to 0..1, minus a half.

    Args:
        folder: Where model folders lie; the model's own is called as the model.
        name: The model's name.
        head: The lines of [head].
        scale: Which values become 0 and 1.
        spacing: spacing_mm of the card.
        units: Units of the card.
        more: Further tables, such as [stage] and [[postprocess]].
    """
    low, high = scale
    steps = (
        f'[[steps]]\nstep = "scale"\nfrom = [{low}, {high}]\nto = [0, 1]\n'
        '[[steps]]\nstep = "clip"\nlow = 0\nhigh = 1\n'
    )
    voxels = VOXELS.format(orientation="HPL", spacing=spacing, more="").replace("HU", units)
    outputs = 2 if "classes" in head else 1
    middle = f"{voxels}{steps}[network]\n{NETWORK.format(outputs=outputs)}[head]\n{head}\n{more}"
    text = CARD.replace("{name}", name).replace("{middle}", middle)
    card = write_model(folder / name, text)
    return write_model(folder / name, text, identity_network(card.network))
