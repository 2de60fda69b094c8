"""A bare state dict (.pt, .pth, .state), ONNX or `.pt2` file becomes a model folder.

All three are tensors under names; if these are the names of a named architecture, the card knows
its network, and a person fills in the rest. A bare state dict may be imported without that, for a
person who can name the architecture; a graph without a named architecture is refused, because
nothing here runs one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from node.errors import setup_error
from node.models.imports.draft import Draft
from node.models.imports.foreign import WALL_S, Tensors, read_tensors
from node.models.imports.guess import Guess, guess_network

WEIGHTS_FILE: Final = "weights.safetensors"
KINDS: Final = {
    ".pt": "torch",
    ".pth": "torch",
    ".state": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".onnx": "onnx",
    ".pt2": "pt2",
}
"""Formats by the file's ending."""


def draft_of_file(source: Path, folder: Path, name: str, *, wall_s: float = WALL_S) -> Draft:
    """Write the weights into `folder` and return what is known.

    Raises:
        SetupError: As `read_tensors`; or the file holds a graph of an architecture that is not
            one of ours.
    """
    kind = KINDS.get(source.suffix.lower(), "torch")
    tensors = read_tensors(kind, source, folder / WEIGHTS_FILE, wall_s=wall_s)
    guess = guess_network(tensors.shapes)
    if guess is None and kind != "torch":
        raise setup_error(
            "import-no-architecture",
            f"The weights in {source.name} are not those of a named architecture: "
            f"{_shown(tensors)}.",
            where=str(source),
            remedy="No graph is run. Where the network is one of those in docs/models.md, the "
            "exporter may have folded or renamed weights: write torch.save(model.state_dict(), "
            '"model.pt") where it was trained and import that. Any other network has to be '
            "trained again as one of them.",
        )
    what = {"torch": "a state dict", "onnx": "an ONNX file", "pt2": "a .pt2 archive"}[kind]
    return draft_of_tensors(f"{what}, {source.name}", name, tensors, guess)


def draft_of_tensors(source: str, name: str, tensors: Tensors, guess: Guess | None) -> Draft:
    """Return a draft that knows the weights and, if it was recognised, the network."""
    draft = Draft(
        name=name,
        source=source,
        weights=((tensors.path.name, tensors.sha256),),
        network=None if guess is None else guess.network,
        todo=[] if guess is None else list(guess.unsure),
    )
    draft.todo.append("steps: how intensities are prepared; the tensors do not tell.")
    if draft.network is None:
        draft.todo.append(f"network: the tensors are {_shown(tensors)}.")
        return draft
    channels = draft.network.channels
    if channels > 1 and (channels % 2 == 0 or _is_3d(draft)):
        draft.todo.append(
            f"network.channels: the model wants {channels} registered series at once; write a "
            "[[channels]] table for each after the first (docs/models.md, Several series)."
        )
    elif channels > 1:
        draft.inference["neighbours"] = channels // 2
        draft.todo.append(
            f"inference.neighbours: {channels} channels were taken for a plane and "
            f"{channels // 2} on either side."
        )
    return draft


def _is_3d(draft: Draft) -> bool:
    network = draft.network
    if network is None:
        return False
    return network.architecture == "unet3d" or network.parameters.get("dimensions") == 3


def _shown(tensors: Tensors) -> str:
    """Return the first names with their shapes."""
    some = list(tensors.shapes.items())[:3]
    more = f" and {len(tensors.shapes) - 3} more" if len(tensors.shapes) > 3 else ""
    shown = ", ".join(f"{name} {'x'.join(str(side) for side in shape)}" for name, shape in some)
    return shown + more
