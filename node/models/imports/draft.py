"""The beginning of a card: facts filled in, empty values where a person must write.

A draft is text: `card.toml` as it will stand in the folder, with the list of what is to do at its
top. An empty value is a mistake to the card's reader, so a draft that nobody finished is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.models.parts import Network, Parameter

Value = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"]

_COLOURS: Final = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito's palette: told apart with any kind of colour vision."""
_LABEL: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(slots=True)
class Draft:
    """What is known of a model so far.

    Attributes:
        name: The card's name.
        source: What was imported, for the head of the card.
        weights: File names with their SHA-256.
        network: Architecture and parameters, None if not recognised.
        title: What people read; empty if not known.
        licence: Of the weights; empty if none was found.
        accepts: Conditions on the series.
        voxels: Keys of [voxels] that are known.
        steps: Intensity steps.
        inference: Keys of [inference] that are known.
        head: Keys of [head].
        segments: Labels in words, from number 1.
        postprocess: Steps on the labels.
        todo: Sentences on what a person must decide or check beside the empty values.
    """

    name: str
    source: str
    weights: Sequence[tuple[str, str]]
    network: Network | None
    title: str = ""
    licence: str = ""
    accepts: dict[str, Value] = field(default_factory=dict)
    voxels: dict[str, Value] = field(default_factory=dict)
    steps: list[dict[str, Value]] = field(default_factory=list)
    inference: dict[str, Value] = field(default_factory=dict)
    head: dict[str, Value] = field(default_factory=dict)
    segments: list[str] = field(default_factory=list)
    postprocess: list[dict[str, Value]] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)


def to_do(draft: Draft) -> tuple[str, ...]:
    """Return a sentence for everything that a person must fill in, decide or check."""
    empty = ['about.intended_use: one sentence; "research use" must be in it.']
    if not draft.title:
        empty.insert(0, "about.title: what people read.")
    if not draft.licence:
        empty.append("about.licence: of the weights, with attribution; none was found.")
    if draft.network is None:
        empty.append(
            "network: architecture, channels, outputs and the parameters of that architecture; it "
            "was not recognised, docs/models.md lists them. With them go inference.mode, "
            "inference.patch, head.kind, and one of the segments for each output."
        )
    if not draft.accepts:
        empty.append('accepts: which series the model takes, such as Modality = "CT".')
    known = {**_VOXELS, **draft.voxels}
    empty += [why for key, why in _ASK_VOXELS.items() if known[key] in ("", [])]
    if "background" not in draft.voxels:
        empty.append("voxels.background: -1024 was assumed, air on CT; write 0 for MR and PET.")
    if _inference(draft).get("patch") == []:
        empty.append(
            "inference.patch: [slices, rows, columns] that the network was trained on, each a "
            "multiple of what its strides multiply to."
        )
    if not draft.segments or not all(_plain(label) for label in draft.segments):
        empty.append("segments.label: what people call each, in the order of the outputs.")
    empty.append(
        'segments.category, segments.type: codes, such as "39607008, SCT, Lung"; docs/models.md '
        "has a table of common ones."
    )
    empty.append("results.series_description: how the result is called in the PACS.")
    return tuple(_one_line(sentence) for sentence in (*empty, *draft.todo))


def card_text(draft: Draft) -> str:
    """Return card.toml."""
    head = [
        f"# Made by `limner models import` from {_one_line(draft.source)}.",
        "# To do; `limner models check` names what is still wrong, docs/models.md shows every key:",
        *(f"# - {sentence}" for sentence in to_do(draft)),
    ]
    top: dict[str, Value] = {"schema": 1, "name": draft.name, "version": "1"}
    about: dict[str, Value] = {
        "title": draft.title,
        "intended_use": "",
        "limits": [],
        "licence": draft.licence,
    }
    parts = [
        "\n".join(head) + "\n" + _keys(top),
        _table("about", about),
        _table("weights", _weights(draft.weights)),
        _table("accepts", draft.accepts),
        _table("voxels", {**_VOXELS, **draft.voxels}),
        *(f"[[steps]]\n{_keys(step)}" for step in draft.steps),
        _table("network", _network(draft.network)),
        _table("inference", _inference(draft)),
        _table("head", _head(draft)),
        *(f"[[postprocess]]\n{_keys(step)}" for step in draft.postprocess),
        *(
            f"[[segments]]\n{_keys(_segment(number, label))}"
            for number, label in enumerate(_labels(draft), start=1)
        ),
        _table("results", {"series_description": ""}),
    ]
    return "\n".join(parts)


_VOXELS: Final[dict[str, Value]] = {
    "orientation": "",
    "spacing_mm": [],
    "background": -1024,
    "units": "",
}
_ASK_VOXELS: Final = {
    "orientation": 'voxels.orientation: "HPL" is axial, feet first; "native" takes any.',
    "spacing_mm": "voxels.spacing_mm: [slice, row, column]; 0 keeps the native distance.",
    "units": 'voxels.units: "HU" for CT, "arbitrary" for MR.',
}


def _weights(files: Sequence[tuple[str, str]]) -> dict[str, Value]:
    if len(files) == 1:
        return {"file": files[0][0], "sha256": files[0][1]}
    return {"files": [{"file": name, "sha256": digest} for name, digest in files]}


def _network(network: Network | None) -> dict[str, Value]:
    if network is None:
        return {"architecture": "", "outputs": 0}
    first: dict[str, Value] = {
        "architecture": network.architecture,
        "channels": network.channels,
        "outputs": network.outputs,
    }
    return first | {key: _listed(value) for key, value in network.parameters.items()}


def _listed(value: Parameter) -> Value:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _inference(draft: Draft) -> dict[str, Value]:
    mode = "slices"
    if draft.network is not None and draft.network.parameters.get("dimensions") == 3:
        mode = "window"
    if draft.network is not None and draft.network.architecture == "unet3d":
        mode = "window"
    known: dict[str, Value] = {"mode": mode} | draft.inference
    if known["mode"] == "window" and "patch" not in known:
        known["patch"] = []
    return known


def _head(draft: Draft) -> dict[str, Value]:
    single = draft.network is not None and draft.network.outputs == 1
    return draft.head or {"kind": "probability" if single else "classes"}


def _labels(draft: Draft) -> list[str]:
    if draft.segments:
        return draft.segments
    if draft.network is None:
        return [""]
    count = 1 if draft.network.outputs == 1 else draft.network.outputs - 1
    return [""] * count


def _segment(number: int, label: str) -> dict[str, Value]:
    return {
        "number": number,
        "label": _plain(label),
        "category": "",
        "type": "",
        "colour": list(_COLOURS[(number - 1) % len(_COLOURS)]),
    }


def _plain(label: str) -> str:
    """Return what a label of somebody else's keeps in a DICOM object."""
    return _LABEL.sub("", label).strip()[:64]


def _one_line(text: str) -> str:
    """Return a text of somebody else's without what would end a comment or steer a terminal."""
    return "".join(one if one.isprintable() else " " for one in text)


def _table(name: str, keys: Mapping[str, Value]) -> str:
    return f"[{name}]\n{_keys(keys)}"


def _keys(keys: Mapping[str, Value]) -> str:
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in keys.items())


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + _one_line(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items())
        return "{ " + inner + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return repr(value)
