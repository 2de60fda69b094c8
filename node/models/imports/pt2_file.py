"""Read a `.pt2` archive of torch.export as data: its weights alone.

The archive is a zip file whose weights are raw numbers beside a JSON table of names, types and
shapes. The graph in it, its constants and its sample inputs are not opened, and nothing that was
stored as a pickle is.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from node.models.imports.torch_file import Refused, without_copies, without_prefixes

_DTYPES: Final = {
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    13: torch.bfloat16,
}
"""Numbers of torch._export.serde.schema.ScalarType."""
_LARGEST_TENSOR: Final = 1 << 30  # numbers
_LARGEST_TABLE: Final = 64 << 20


def read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights by name.

    Raises:
        Refused: A weight is stored as a pickle, or is too large.
        ValueError: It is no archive of torch.export in the format of torch 2.8 and later.
    """
    if not zipfile.is_zipfile(source):
        raise ValueError("the file is not a zip archive")
    with zipfile.ZipFile(source) as archive:
        names = archive.namelist()
        tables = [name for name in names if name.endswith("data/weights/model_weights_config.json")]
        if len(tables) != 1:
            raise ValueError(
                "the archive has no table of weights; export it with torch 2.8 or later"
            )
        if archive.getinfo(tables[0]).file_size > _LARGEST_TABLE:
            raise Refused("its table of weights is too large")
        table = json.loads(archive.read(tables[0]))
        folder = tables[0].rpartition("/")[0]
        try:
            tensors = {
                str(name): _tensor(archive, folder, str(name), entry)
                for name, entry in table["config"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its table of weights lacks {error}") from error
    return without_copies(without_prefixes(tensors)), {}


def _tensor(
    archive: zipfile.ZipFile, folder: str, name: str, entry: dict[str, Any]
) -> torch.Tensor:
    if entry["use_pickle"]:
        raise Refused(f"the weight {name} is stored as a pickle")
    meta = entry["tensor_meta"]
    shape = [int(size["as_int"]) for size in meta["sizes"]]
    count: int = math.prod(shape)
    if min(shape, default=0) < 0 or count > _LARGEST_TENSOR:
        raise Refused(f"the weight {name} has {count} numbers, at most {_LARGEST_TENSOR}")
    if meta["dtype"] not in _DTYPES:
        raise ValueError(f"the weight {name} has the data type {meta['dtype']}")
    dtype = _DTYPES[meta["dtype"]]
    strides = [int(stride["as_int"]) for stride in meta["strides"]]
    begin = int(meta["storage_offset"]["as_int"])
    info = archive.getinfo(f"{folder}/{entry['path_name']}")
    last = begin + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min([begin, *strides]) < 0 or (count and (last + 1) * dtype.itemsize > info.file_size):
        raise ValueError(f"the weight {name} reaches outside its bytes")
    flat = torch.frombuffer(bytearray(archive.read(info)), dtype=dtype)
    return flat.as_strided(shape, strides, begin).clone()
