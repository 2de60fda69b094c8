"""Turn a bare state dict (.pt, .pth, .state) into a model folder.

The file is opened in a limited child process (`unpickle_child.py`) that can make nothing but
tensors of it. What comes back is a safetensors file and a card with the facts that the tensors
tell; the rest is left empty for a person, and the card is refused until it is filled in.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.errors import SetupError, setup_error
from node.models.card import CARD_FILE
from node.models.weights import sha256_of

WEIGHTS_FILE: Final = "weights.safetensors"
_WALL_S: Final = 180.0
_LARGEST_BYTES: Final = 4 << 30
_CHILD: Final = Path(__file__).with_name("unpickle_child.py")
_FORMATS: Final = "A state dict saved with torch.save(model.state_dict(), path) can be converted."

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of a conversion.

    Attributes:
        folder: The new model folder.
        tensors: How many tensors there are.
        sha256: Of the weights file.
        architecture: The named architecture whose keys these are, or empty.
    """

    folder: Path
    tensors: int
    sha256: str
    architecture: str


def convert_state_dict(source: Path, folder: Path, *, wall_s: float = _WALL_S) -> Converted:
    """Write `folder` with weights.safetensors and the beginning of a card.toml.

    Args:
        source: A file made by torch.save with nothing but tensors in it.
        folder: A folder that does not exist yet.
        wall_s: Longest time for reading the file.

    Raises:
        SetupError: The folder exists, the file is too large or absent, it holds anything but
            tensors, or reading it took more time or memory than allowed.
    """
    if folder.exists():
        raise setup_error(
            "model-exists",
            f"There is something at {folder} already.",
            where=str(folder),
            remedy="Name a folder that does not exist yet.",
        )
    _check_source(source)
    folder.mkdir(parents=True)
    target = folder / WEIGHTS_FILE
    try:
        shapes = _read_in_child(source, target, wall_s)
    except SetupError:
        target.unlink(missing_ok=True)
        folder.rmdir()
        raise
    digest = sha256_of(target)
    network = guess_network(shapes)
    (folder / CARD_FILE).write_text(_skeleton(folder.name, digest, network), encoding="utf-8")
    return Converted(folder, len(shapes), digest, network.get("architecture", "").strip('"'))


def guess_network(shapes: Shapes) -> dict[str, str]:
    """Return the [network] table that the names and shapes of the tensors tell, as TOML values."""
    for first, last, name in (
        ("first.0.weight", "last.weight", "unet"),
        ("conv1.0.weight", "final.weight", "unet2d_conv_transpose"),
    ):
        if first not in shapes or last not in shapes:
            continue
        sides = len(shapes[first]) - 2
        if name == "unet":
            widths = [shapes[first][0]]
            while (key := f"down.{len(widths) - 1}.0.weight") in shapes:
                widths.append(shapes[key][0])
        else:
            widths = []
            while (key := f"conv{len(widths) + 1}.0.weight") in shapes:
                widths.append(shapes[key][0])
            widths += [shapes["middle.0.weight"][0]] if "middle.0.weight" in shapes else []
        found = {
            "architecture": f'"{name if name != "unet" else f"unet{sides}d"}"',
            "channels": str(shapes[first][1]),
            "outputs": str(shapes[last][0]),
            "widths": str(widths),
        }
        if name == "unet":
            found["norm"] = '"batch"' if "first.1.running_mean" in shapes else '"instance"'
            found["up"] = '"transpose"' if "up.0.weight" in shapes else '"nearest"'
        return found
    return {}


def _check_source(source: Path) -> None:
    try:
        size = source.stat().st_size
    except OSError as error:
        raise setup_error(
            "convert-unreadable",
            f"The file cannot be read: {error}.",
            where=str(source),
            remedy="Name the file that holds the weights.",
        ) from error
    if size > _LARGEST_BYTES:
        raise setup_error(
            "convert-too-large",
            f"The file has {size} bytes, at most {_LARGEST_BYTES} are read.",
            where=str(source),
            remedy="Save the weights without the optimiser's state.",
        )


def _read_in_child(source: Path, target: Path, wall_s: float) -> Shapes:
    """Run the child; it gets no environment, so that nothing of ours steers or leaks into it."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD), str(source.resolve()), str(target.resolve())],
            env={"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise setup_error(
            "convert-too-slow",
            f"Reading the file took more than {wall_s:g} s and was stopped.",
            where=str(source),
            remedy=_FORMATS,
        ) from error
    if done.returncode != 0:
        raise setup_error(
            "convert-failed",
            f"The process that read the file ended with {done.returncode} "
            "(a negative number is a signal: memory or time were used up).",
            where=str(source),
            remedy=_FORMATS,
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        what = {
            "refused": "The file wants to run code or holds more than tensors, so it was refused",
            "unreadable": "The file is not one that torch.save has written",
            "no-tensors": "The file holds no plain state dict",
        }[answer["error"]]
        raise setup_error(
            f"convert-{answer['error']}",
            f"{what}: {answer['detail']}.",
            where=str(source),
            remedy=_FORMATS,
        )
    shapes: Shapes = answer["shapes"]
    return shapes


def _skeleton(name: str, digest: str, network: Mapping[str, str]) -> str:
    """Return a card.toml with the facts filled in and empty values where a person must write."""
    table = network or {"architecture": '""', "outputs": "0"}
    lines = "\n".join(f"{key} = {value}" for key, value in table.items())
    head = "probability" if table["outputs"] == "1" else "classes"
    return f"""\
# Made from a state dict. Every empty value must be filled in; `limner models check` names what
# is missing, docs/models.md shows every key.
schema = 1
name = "{name}"
version = "1"

[about]
title = ""
intended_use = ""  # one sentence; "research use" must be in it
limits = []
licence = ""  # of the weights, with attribution

[weights]
file = "{WEIGHTS_FILE}"
sha256 = "{digest}"

[accepts]
# Modality = "CT"

[voxels]
orientation = ""  # "HPL" is axial, feet first
spacing_mm = []  # [slice, row, column]; 0 keeps the native distance
background = -1024
units = ""  # "HU" for CT

# [[steps]]
# step = "clip"

[network]
{lines}

[inference]
mode = "slices"

[head]
kind = "{head}"

# [[segments]]
# number = 1
# label = ""
# category = "91723000, SCT, Anatomical Structure"
# type = ""

[results]
series_description = ""
"""
