"""Read a MONAI bundle's configuration as data: `@` followed to literals, `$` refused.

Running a bundle is running its code: `_target_` names a class to make, `$` is Python to evaluate,
`%` includes other files. Here nothing is made and nothing is evaluated. A reference is followed to
what it names; an expression is taken only in three harmless shapes (a literal, a reference, a
network that is moved to a device); anything else ends the import where its value is needed, with
its place and its text. What nobody asks for (logging, data sets, evaluators) is not looked at.

Source: the configuration syntax in MONAI's documentation of bundles, 1.6.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from node.errors import SetupError, setup_error

_LARGEST: Final = 4 << 20
_DEEPEST: Final = 32
_MOVED: Final = re.compile(
    r"\$\s*(@[A-Za-z0-9_#:]+)\s*(?:\.to\(\s*@?[A-Za-z0-9_.#:'\" ]*\s*\))?\s*"
)


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON or YAML file.

    Raises:
        SetupError: The file is absent, too large, damaged, or YAML without a reader for it.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise refused(path, f"it has more than {_LARGEST} bytes")
        text = path.read_text(encoding="utf-8")
        read = json.loads(text) if path.suffix == ".json" else _yaml(text, path)
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"it cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise refused(path, "it holds no object")
    return read


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise refused(
            path, "YAML needs the package pyyaml; install `limner[import]` or bring JSON"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


class Config:
    """A configuration whose values are asked for one by one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = read_config(path)

    def has(self, key: str) -> bool:
        """Say whether there is such a key at the top."""
        return key in self._values

    def literal(self, key: str) -> Any:
        """Return what stands at a top key, with every reference in it followed.

        Raises:
            SetupError: It holds an expression, a macro or a reference to nothing.
        """
        return self._resolved(self._values.get(key), key, 0)

    def _resolved(self, value: Any, place: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise refused(self._path, f"{place} refers to itself or is nested too deeply")
        if isinstance(value, str):
            return self._text(value, place, depth)
        if isinstance(value, list):
            return [self._resolved(one, f"{place}#{n}", depth + 1) for n, one in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                str(key): self._resolved(one, f"{place}#{key}", depth + 1)
                for key, one in value.items()
            }
        return value

    def _text(self, value: str, place: str, depth: int) -> Any:
        if value.startswith("%"):
            raise refused(self._path, f"{place} includes another file: {value}")
        if value.startswith("@"):
            return self._resolved(self._named(value[1:], place), place, depth + 1)
        if not value.startswith("$"):
            return value
        if moved := _MOVED.fullmatch(value):
            return self._resolved(self._named(moved[1][1:], place), place, depth + 1)
        try:
            return ast.literal_eval(value[1:].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise refused(
                self._path, f"{place} is an expression, which is not evaluated: {value[:200]}"
            ) from error

    def _named(self, name: str, place: str) -> Any:
        """Return what a reference names; its parts are joined by `::` or the older `#`."""
        found: Any = self._values
        for part in name.replace("::", "#").split("#"):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise refused(self._path, f"{place} refers to {name}, which is not there")
        return found


def refused(path: Path, what: str) -> SetupError:
    """Return the refusal of a bundle, with the file that it is about."""
    return setup_error(
        "import-monai",
        f"This MONAI bundle is not taken: in {path.name}, {what}.",
        where=str(path),
        remedy="docs/models.md lists what is read of a bundle. Import its models/model.pt alone as "
        "a state dict and write the card by hand.",
    )
