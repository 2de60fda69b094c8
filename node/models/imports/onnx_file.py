"""Read an ONNX file as data: its initialisers, and what its graph is made of.

ONNX is a protocol buffer (onnx.proto3). Only the fields that are needed are walked, every length
is held against what is left, and the graph is looked at but never run. A node of another domain
than ONNX's own, or tensors in a file outside, end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from node.models.imports.torch_file import Refused

_STANDARD: Final = ("", "ai.onnx")
_LARGEST_TENSOR: Final = 1 << 30  # numbers
_DTYPES: Final = {1: "<f4", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
"""TensorProto.DataType: float, int32, int64, float16, double."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP, _NODE_DOMAIN, _NODE_ATTRIBUTE = 1, 4, 7, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_DIMS, _TYPE, _FLOATS, _INTS32, _INTS64, _NAME, _RAW, _DOUBLES = 1, 2, 4, 5, 7, 8, 9, 10
_EXTERNAL, _LOCATION = 13, 14


def read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the initialisers by name, and the operators that the graph uses.

    Raises:
        Refused: A custom operator, a function, or tensors in another file.
        ValueError: It is no ONNX file.
    """
    model = memoryview(source.read_bytes())
    graph: memoryview | None = None
    for number, value in _fields(model):
        if number == _MODEL_FUNCTIONS:
            raise Refused("it defines functions of its own")
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            graph = value
    if graph is None:
        raise ValueError("the file holds no ONNX graph")
    tensors: dict[str, torch.Tensor] = {}
    operators: set[str] = set()
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER and isinstance(value, memoryview):
            name, tensor = _tensor(value)
            tensors[name] = tensor
        elif number == _GRAPH_NODE and isinstance(value, memoryview):
            operators.add(_operator(value))
    weights = {name: value for name, value in tensors.items() if value.is_floating_point()}
    return weights, {"operators": sorted(operators)}


def _operator(node: memoryview) -> str:
    operator, domain = "", ""
    for number, value in _fields(node):
        if number == _NODE_OP:
            operator = _text(value)
        elif number == _NODE_DOMAIN:
            domain = _text(value)
        elif number == _NODE_ATTRIBUTE and _holds_graph(value):
            raise Refused("a node holds a graph of its own")
    if domain not in _STANDARD:
        raise Refused(f"it uses the operator {operator} of the domain {domain}")
    return operator


def _holds_graph(attribute: int | memoryview) -> bool:
    if isinstance(attribute, int):
        return False
    return any(number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) for number, _ in _fields(attribute))


def _tensor(proto: memoryview) -> tuple[str, torch.Tensor]:
    found: dict[int, list[int | memoryview]] = {}
    for number, value in _fields(proto):
        found.setdefault(number, []).append(value)
    name = "".join(_text(value) for value in found.get(_NAME, []))
    if found.get(_EXTERNAL) or found.get(_LOCATION, [0]) != [0]:
        raise Refused(f"the tensor {name} lies in another file")
    dims = [side for value in found.get(_DIMS, []) for side in _varints(value)]
    kind = found.get(_TYPE, [0])[-1]
    if not isinstance(kind, int) or kind not in _DTYPES:
        raise ValueError(f"the tensor {name} has the data type {kind!r}")
    if min(dims, default=0) < 0 or prod(dims) > _LARGEST_TENSOR:
        raise Refused(f"the tensor {name} has {prod(dims)} numbers, at most {_LARGEST_TENSOR}")
    numbers = _numbers(found, np.dtype(_DTYPES[kind]))
    if numbers.size != prod(dims):
        raise ValueError(f"the tensor {name} holds {numbers.size} numbers, its shape {prod(dims)}")
    return name, torch.from_numpy(numbers.reshape(dims))


def _numbers(
    found: dict[int, list[int | memoryview]], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Return a tensor's numbers, which stand in one of five fields."""
    parts: list[np.ndarray[Any, Any]] = [np.array([], dtype)]
    for field, layout in ((_RAW, dtype), (_FLOATS, np.dtype("<f4")), (_DOUBLES, np.dtype("<f8"))):
        for value in found.get(field, []):
            if isinstance(value, int):
                raise ValueError("a number where a list of them belongs")  # noqa: TRY004  bad data
            parts.append(np.frombuffer(value, layout))
    for field in (_INTS32, _INTS64):
        parts += [np.array(_varints(value), np.int64) for value in found.get(field, [])]
    return np.concatenate(parts).astype(dtype)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value of a message; every length is checked against what is left."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"not a protocol buffer: wire type {wire}")
        if length > len(message) - at:
            raise ValueError(f"a field of {length} bytes where {len(message) - at} are left")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not a protocol buffer: a number does not end")


def _varints(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number - (1 << 64) if number >= 1 << 63 else number)
    return numbers


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("not ONNX: a number where a name belongs")  # noqa: TRY004  bad data
    return bytes(value).decode("utf-8", errors="strict")
