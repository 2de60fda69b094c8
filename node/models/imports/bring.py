"""`limner models import`: tell the formats apart, and write a model folder or nothing at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.errors import setup_error
from node.models.card import CARD_FILE
from node.models.imports.archive import opened
from node.models.imports.draft import Draft, card_text, to_do
from node.models.imports.foreign import WALL_S
from node.models.imports.monai_bundle import bundle_folder, draft_of_bundle
from node.models.imports.nnunet import draft_of_nnunet, nnunet_folder
from node.models.imports.state_dict import KINDS, draft_of_file

_NAME_MAX: Final = 32
_LICENCES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_LONGEST_LICENCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import.

    Attributes:
        folder: The new model folder.
        kind: What the source was, in words.
        architecture: The named architecture, or empty.
        sha256: Of each weights file.
        todo: What a person must fill in, decide or check, a sentence each.
    """

    folder: Path
    kind: str
    architecture: str
    sha256: tuple[str, ...]
    todo: tuple[str, ...]


def import_model(source: Path, folder: Path, *, name: str = "", wall_s: float = WALL_S) -> Imported:
    """Write `folder` with weights and the beginning of a card.toml.

    Args:
        source: An nnU-Net v2 results folder, a MONAI bundle, a zip of either, or a file.
        folder: A folder that does not exist yet.
        name: The model's name; the folder's, made fit, by default.
        wall_s: Longest time for reading one file.

    Raises:
        SetupError: The folder exists, or the source is refused; nothing is left behind then.
    """
    if folder.exists():
        raise setup_error(
            "model-exists",
            f"There is something at {folder} already.",
            where=str(folder),
            remedy="Name a folder that does not exist yet.",
        )
    folder.mkdir(parents=True)
    try:
        draft = _draft(source, folder, name or _fit(folder.name), wall_s)
        (folder / CARD_FILE).write_text(card_text(draft), encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return Imported(
        folder,
        draft.source,
        draft.network.architecture if draft.network else "",
        tuple(digest for _, digest in draft.weights),
        to_do(draft),
    )


def _draft(source: Path, folder: Path, name: str, wall_s: float) -> Draft:
    if source.is_file() and source.suffix.lower() in KINDS:
        draft = draft_of_file(source, folder, name, wall_s=wall_s)
        draft.licence = _take_licence((source.parent,), folder)
        if draft.licence:
            draft.todo.append(
                "about.licence: taken from the file beside the weights; is it theirs?"
            )
        return draft
    with opened(source) as inside:
        trained, bundle = nnunet_folder(inside), bundle_folder(inside)
        if trained is not None:
            draft = draft_of_nnunet(trained, folder, name, wall_s=wall_s)
        elif bundle is not None:
            draft = draft_of_bundle(bundle, folder, name, wall_s=wall_s)
        else:
            raise setup_error(
                "import-unknown",
                f"{source.name} is none of the things that can be imported.",
                where=str(source),
                remedy="It must be an nnU-Net v2 results folder (with plans.json, dataset.json and "
                "fold_0), a MONAI bundle (with configs/inference.json and models/model.pt), a zip "
                "of either, or a file .pt, .pth, .ckpt, .onnx or .pt2.",
            )
        beside = (trained, inside) if trained is not None else (bundle or inside, inside)
        draft.licence = draft.licence or _take_licence(beside, folder)
    return draft


def _take_licence(places: Sequence[Path], folder: Path) -> str:
    """Copy a licence file that lies beside the model, and return what the card says of it."""
    for place in (place / name for place in places for name in _LICENCES):
        text = _licence_text(place)
        title = next((line.strip() for line in text.splitlines() if line.strip()), "")
        if title:
            (folder / "LICENSE").write_text(text, encoding="utf-8")
            return f"{title[:200]} (text in LICENSE)"
    return ""


def _licence_text(path: Path) -> str:
    """Return what a licence file says; nothing where there is none that may be read."""
    try:
        if path.is_symlink() or path.stat().st_size >= _LONGEST_LICENCE:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fit(name: str) -> str:
    """Return a folder's name as a model's: lower-case words joined by hyphens."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(words)[:_NAME_MAX].strip("-") or "imported"
