"""Read a file of torch.save: tensors by name, and a few plain facts beside them.

Runs in the limited child alone: this is the only place that opens a pickle. Two readers stand one
behind the other: the opcodes are walked without being carried out, and a name outside a fixed
list ends it; then torch's weights-only reader makes the tensors.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

WRAPPERS: Final = ("state_dict", "model_state_dict", "model_state", "network_weights", "model")
PREFIXES: Final = ("module.", "_orig_mod.", "model.", "network.")
FACTS: Final = ("trainer_name", "inference_allowed_mirroring_axes", "init_args")
"""What nnU-Net's checkpoints say beside their weights and an import wants to know."""

_NAMES: Final = re.compile(
    r"collections (OrderedDict|defaultdict)|_codecs encode|__builtin__ set|builtins set"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\.serialization _get_layout|torch\.storage (_load_from_bytes|UntypedStorage)"
    r"|torch\._tensor _rebuild_from_type_v2"
    r"|torch (Size|device|Tensor|[A-Z][A-Za-z0-9]*Storage|[a-z]+[0-9]*|bool)"
    r"|torch\.nn\.parameter Parameter"
    r"|numpy dtype|numpy\.dtypes [A-Za-z0-9]+DType|numpy(\._core|\.core)?\.multiarray scalar"
)
"""Names that a checkpoint may mention. torch's own reader is stricter still."""

_FOLLOWED: Final = {"GLOBAL"}
_UNFOLLOWED: Final = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"}
_PICKLES: Final = 5
"""How many follow each other in the format from before 2020."""


class Refused(Exception):  # noqa: N818  a verdict on a file, not a failure of ours
    """The file holds what no weights file needs; the message names it."""


class NoTensors(Refused):
    """The file may be harmless and is no state dict."""


def read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors by name, without wrappers and common prefixes, and the facts beside them.

    Raises:
        Refused: It names something else than tensors, or (NoTensors) holds no plain state dict.
        ValueError: It is no file of torch.save.
    """
    scan(source)
    # Checkpoints carry a best score as a numpy scalar. It is not wanted, so it becomes None
    # and numpy's own reconstruction stays out of reach.
    harmless: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_nothing, "numpy._core.multiarray.scalar"),
        (_nothing, "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
        type(np.dtype(np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(_first_sentence(str(error))) from error
    except (RuntimeError, EOFError, OSError, KeyError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    found = _state_dict(loaded)
    if found is None:
        raise NoTensors(f"it holds a {type(loaded).__name__} that is no plain state dict")
    facts = {key: _plain(loaded[key]) for key in FACTS if key in loaded}
    return without_copies(found), facts


def scan(source: Path) -> None:
    """Walk the opcodes of every pickle in the file, carrying none out.

    Raises:
        Refused: A name outside the list, or an opcode whose name cannot be followed.
        ValueError: The pickle is damaged.
    """
    for stream in _pickles(source):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in _UNFOLLOWED:
                    raise Refused(f"its pickle uses the opcode {opcode.name}")
                if opcode.name in _FOLLOWED and not _NAMES.fullmatch(str(argument)):
                    raise Refused(f"its pickle names {str(argument).replace(' ', '.')}")
        except ValueError as error:
            raise ValueError(f"not a pickle: {error}") from error


def _pickles(source: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            inner = [name for name in archive.namelist() if name.endswith(".pkl")]
            if not inner:
                raise ValueError("the archive holds no data.pkl")
            for name in inner:
                with archive.open(name) as stream:
                    yield stream
        return
    with source.open("rb") as stream:
        for _ in range(_PICKLES):
            yield stream


def without_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without those that networks save twice or never use.

    nnU-Net's modules list each layer again under `all_modules` and the encoder again under the
    decoder; MONAI's DynUNet lists every block again under `skip_layers`, and both may keep heads
    for deep supervision that only training reads.
    """
    dynunet = any(name.startswith("skip_layers.") for name in tensors)
    return {
        name: value
        for name, value in tensors.items()
        if ".all_modules." not in name
        and not name.startswith("decoder.encoder.")
        and not (dynunet and name.startswith(("skip_layers.", "deep_supervision_heads.")))
    }


def _nothing(*_: object) -> None:
    return None


def _state_dict(loaded: object) -> dict[str, torch.Tensor] | None:
    """Return the tensors by name, without wrappers, or None if there are none."""
    if not isinstance(loaded, dict):
        return None
    for key in WRAPPERS:
        inner = loaded.get(key)
        if isinstance(inner, dict):
            return _state_dict(inner)
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors or len(tensors) != len(loaded):
        return None
    return without_prefixes(tensors)


def without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without a prefix that all their names have."""
    for prefix in PREFIXES:
        shorter = {name[len(prefix) :]: v for name, v in tensors.items() if name.startswith(prefix)}
        # MONAI's UNet is one module called `model` whose parts are numbers: that is its own name.
        if len(shorter) == len(tensors) and not all(name[0].isdigit() for name in shorter):
            return without_prefixes(shorter)
    return tensors


def _plain(value: object) -> Any:
    """Return text, numbers and lists of them; of a dict only what is plain; else None."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple) and len(value) <= 16:
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(k): v for k, v in value.items() if isinstance(v, str | int | float | bool)}
    return None


def _first_sentence(text: str) -> str:
    """Return the part of torch's long message that names what was found."""
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line or "WeightsUnpickler" in line:
            return line.strip()
    return text.splitlines()[0] if text else "not a tensor file"
