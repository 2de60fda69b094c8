"""A model's card: card.toml read strictly into one frozen value.

The card says which series a model accepts, which voxels it wants, how it runs, what its labels
mean and when a person should look. All mistakes are told in one answer, each with its line; what
two tables say against each other is told by `contradictions.py` once each is right in itself.
Nothing here imports torch, so that routing, pages and commands can read cards cheaply; what
only the network itself can tell (do the keys fit?) is `check.py`'s.
docs/models.md shows every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import SetupError, setup_error
from node.imaging.values import Finding, ModelIdentity, Segment
from node.models.chain import stage_card, with_stage
from node.models.contradictions import note_contradictions
from node.models.digest import digest_of
from node.models.frame_parts import FrameGrid, read_frame_grid, read_frame_voxels
from node.models.label_sections import (
    read_findings,
    read_postprocess,
    read_segments,
    read_stage,
)
from node.models.parts import (
    KINDS,
    Channel,
    Head,
    Inference,
    Network,
    OwnCase,
    PostStep,
    Quality,
    Results,
    Stage,
    Step,
    Voxels,
    Weights,
)
from node.models.quality_section import read_quality
from node.models.sections import (
    read_channels,
    read_head,
    read_inference,
    read_network,
    read_results,
    read_steps,
    read_test_case,
    read_voxels,
    read_weights,
)
from node.settings import Condition, bundled_config, read_conditions
from node.strict_toml import Document, Mistakes, Table

SCHEMA: Final = 1
CARD_FILE: Final = "card.toml"
INFERENCE_RULES: Final = 1
"""Number of the rules by which inference turns a card into labels; raised when code changes the
labels that an unchanged card gives, so that results made before and after have different keys."""
WINDOW_RULES: Final = 2
"""The same for what concerns models of 3D patches alone. 2: weights are divided out on the way
back, which rounds differently."""

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_REMEDY: Final = "docs/models.md shows every key with an example; `limner models check` reads it."
_TABLES: Final = (
    "about",
    "weights",
    "test_case",
    "accepts",
    "voxels",
    "steps",
    "network",
    "inference",
    "head",
    "stage",
    "postprocess",
    "segments",
    "quality",
    "results",
    "scores",
    "findings",
    "channels",
)


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that a model's folder says of itself.

    Attributes:
        folder: Where card.toml and the weights lie.
        name: Lower-case words joined by hyphens; routes name it.
        version: The model's own version.
        title: What people read.
        intended_use: One sentence; it goes into every result.
        research: True unless a site's own card is cleared for more.
        limits: What the model is known to do badly, a sentence each.
        licence: Of the weights (SPDX identifier or a sentence), with attribution.
        weights: File and digest.
        test_case: A volume that runtimes are tried on; None if there is none.
        accepts: Conditions on the series header; all must hold.
        volumes: `one`, or `each` where every volume (or image) of a series is wanted.
        min_slices: Fewest slices.
        frames: What of each frame is seen, for mode `frames`; None for volumes.
        voxels: The grid that the network sees.
        steps: Intensity steps, in order.
        network: Architecture and parameters.
        inference: How it is run.
        head: What the outputs mean.
        postprocess: Steps after it, in order.
        segments: What the labels are, numbered from 1.
        quality: When a person should look.
        results: What is written.
        scores: Honest figures, shown to people; free keys.
        text: card.toml as read.
        stage: Which model runs before this one, None for none.
        first: That model's card, once it was found.
        kind: `segmentation`, or `classification`, which has findings instead of segments.
        channels: Further series that the network sees, after the first.
        findings: What a classification says yes or no to, one per output of the network.
    """

    folder: Path
    name: str
    version: str
    title: str
    intended_use: str
    research: bool
    limits: tuple[str, ...]
    licence: str
    weights: Weights
    test_case: OwnCase | None
    accepts: tuple[Condition, ...]
    volumes: str
    min_slices: int
    frames: FrameGrid | None
    voxels: Voxels
    steps: tuple[Step, ...]
    network: Network
    inference: Inference
    head: Head
    postprocess: tuple[PostStep, ...]
    segments: tuple[Segment, ...]
    quality: Quality
    results: Results
    scores: Mapping[str, Any]
    text: str
    stage: Stage | None = None
    first: Card | None = None
    kind: str = KINDS[0]
    findings: tuple[Finding, ...] = ()
    channels: tuple[Channel, ...] = ()

    @property
    def weights_path(self) -> Path:
        """The weights file; of an ensemble the first."""
        return self.folder / self.weights.file

    @property
    def backgrounds(self) -> tuple[float, ...]:
        """What lies outside the image of each channel."""
        return (self.voxels.background, *(channel.background for channel in self.channels))

    @property
    def settings_digest(self) -> str:
        """SHA-256 over everything but the weights that can change labels or result bytes, hex.

        What a series must be to be accepted, limits in words, licence and scores are left out.
        Of a model with a stage before it, that model's weights and settings belong to it.
        """
        parts: dict[str, object] = {
            "rules": INFERENCE_RULES,
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "title": self.title,
            "intended_use": self.intended_use,
            "research": self.research,
            "voxels": self.voxels,
            "steps": self.steps,
            "network": self.network,
            "inference": self.inference,
            "head": self.head,
            "postprocess": self.postprocess,
            "segments": self.segments,
            "quality": self.quality,
            "results": self.results,
        }
        if self.channels:
            parts["channels"] = self.channels
        if self.inference.mode == "window":
            parts["window_rules"] = WINDOW_RULES
        if self.kind != KINDS[0]:
            parts["findings"] = (self.kind, self.findings)
        if self.stage is not None:
            first = stage_card(self)
            parts["stage"] = (self.stage, first.weights.sha256, first.settings_digest)
        if self.frames is not None:
            parts["frames"] = self.frames
        return digest_of(parts)

    @property
    def identity(self) -> ModelIdentity:
        """What stands in every result about what made it."""
        return ModelIdentity(
            name=self.name,
            version=self.version,
            digest=self.weights.sha256,
            settings_digest=self.settings_digest,
            intended_use=self.intended_use,
            research=self.research,
            series_description=self.results.series_description,
            series_number=self.results.series_number,
            first=None if self.stage is None else stage_card(self).identity,
        )


def load_card(folder: Path) -> Card:
    """Read card.toml in `folder`, and the card of a stage before it: beside it, else bundled.

    Raises:
        SetupError: The file is absent, or has mistakes; all of them are told with their lines;
            or the model of its stage is not there or does not fit.
    """
    card = _read_card(folder)
    if card.stage is None:
        return card
    around = (folder.resolve().parent, bundled_config() / "models")
    return with_stage(card, lambda name: _card_named(name, around))


def _card_named(name: str, folders: Sequence[Path]) -> Card | None:
    """Return the card of that name; cards with mistakes are nobody's stage."""
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{CARD_FILE}"))):
        try:
            card = _read_card(path.parent)
        except SetupError:
            continue
        if card.name == name:
            return card
    return None


def _read_card(folder: Path) -> Card:
    path = folder / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise setup_error(
            "card-unreadable",
            f"The model's card cannot be read: {error}.",
            where=str(path),
            remedy="A model is a folder with card.toml and its weights; see docs/models.md.",
        ) from error
    return parse_card(text, folder)


def parse_card(text: str, folder: Path) -> Card:
    """Return the card in the text of a card.toml; that of its stage is not looked for.

    Raises:
        SetupError: It has mistakes.
    """
    mistakes = Mistakes(f"{folder.name}/{CARD_FILE}")
    document = Document(text, mistakes)
    top = document.top()
    about = document.table("about")
    top.integer("schema", SCHEMA, SCHEMA)
    kind = top.choice("kind", KINDS, KINDS[0])
    voxels, inference = document.table("voxels"), document.table("inference")
    frames = read_frame_grid(voxels, inference)
    card = Card(
        folder=folder,
        name=_name(top),
        version=top.string("version", longest=32),
        title=about.string("title", longest=64),
        intended_use=about.string("intended_use", longest=512),
        research=about.flag("research", default=True),
        limits=about.strings("limits", []),
        licence=about.string("licence", longest=512),
        volumes=top.choice("volumes", ("one", "each"), "each" if frames else "one"),
        min_slices=top.integer("min_slices", 1, 10_000, 1 if frames else 3),
        frames=frames,
        weights=read_weights(document.table("weights")),
        test_case=read_test_case(document.table("test_case")),
        accepts=read_conditions(document.table("accepts")),
        voxels=read_frame_voxels(voxels) if frames else read_voxels(voxels),
        steps=read_steps(document.tables("steps")),
        network=read_network(document.table("network")),
        inference=read_inference(inference),
        head=read_head(document.table("head"), kind),
        postprocess=read_postprocess(document.tables("postprocess")),
        segments=read_segments(document.tables("segments")),
        quality=read_quality(document.table("quality")),
        results=read_results(document.table("results"), kind),
        scores=document.table("scores").rest(),
        text=text,
        stage=read_stage(document.table("stage")),
        kind=kind,
        findings=read_findings(document.tables("findings")),
        channels=read_channels(document.tables("channels")),
    )
    top.finish()
    about.finish()
    document.finish(_TABLES)
    if not mistakes.found:
        note_contradictions(card, mistakes)
    mistakes.raise_if_any("card-invalid", _REMEDY)
    return card


def find_cards(folders: Sequence[Path]) -> dict[str, Card]:
    """Return the cards of every model folder inside `folders`, by name.

    A name that occurs twice is taken from the folder that stands first: a site's own model
    folders come before the bundled ones.

    Raises:
        SetupError: A card has mistakes, or two in one folder have the same name.
    """
    cards: dict[str, Card] = {}
    for folder in folders:
        here: dict[str, Card] = {}
        for path in sorted(folder.glob(f"*/{CARD_FILE}")):
            card = _read_card(path.parent)
            if card.name in here:
                raise setup_error(
                    "card-name-twice",
                    f"Two models are called '{card.name}': {here[card.name].folder.name} and "
                    f"{card.folder.name}.",
                    where=str(folder),
                    remedy="Give one of them another name in its card.toml.",
                )
            here[card.name] = card
        cards = here | cards
    return {name: with_stage(card, cards.get) for name, card in cards.items()}


def _name(top: Table) -> str:
    name = top.string("name", longest=32)
    if name and not _NAME.fullmatch(name):
        top.note("name", f"must be lower-case words joined by hyphens, is {name!r}")
    return name
