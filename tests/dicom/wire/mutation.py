"""A fuzzer in a hundred lines: damages good inputs, keeps those that had a new effect, repeats.

Deterministic: a seed and a number of cases give the same inputs on every machine. What "a new
effect" is says the target, by what it returns; so inputs that reach further into a decoder become
the ground for the next ones, without an instrument in the interpreter.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Hashable, Sequence

MAX_BYTES = 64 * 1024
"""Longest input that is made."""

_BYTES = (0, 1, 2, 3, 4, 7, 8, 0x10, 0x20, 0x30, 0x40, 0x50, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 255, 256, 4096, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_LONG = (*_NUMBERS, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


class FuzzError(AssertionError):
    """An input that broke a promise, with what is needed to see it again."""


def fuzz(
    target: Callable[[bytes], Hashable],
    corpus: Sequence[bytes],
    words: Sequence[bytes],
    *,
    cases: int,
    seed: int,
) -> int:
    """Feed `cases` damaged inputs to `target`; return how many effects there were.

    Args:
        target: Returns what the input had for an effect; raises for a broken promise.
        corpus: Good inputs to begin with.
        words: What the format is made of: tags, delimiters, names.
        cases: How many inputs.
        seed: Gives the same inputs again.

    Raises:
        FuzzError: The target raised; the message holds seed, case and input.
    """
    rng = random.Random(seed)
    grown = list(corpus)
    effects = {target(one) for one in grown}
    for case in range(cases):
        data = _damaged(rng, grown, words)
        try:
            effect = target(data)
        except Exception as error:
            raise FuzzError(f"seed {seed}, case {case}, {error!r} by {data.hex()}") from error
        if effect not in effects:
            effects.add(effect)
            grown.append(data)
    return len(effects)


def _damaged(rng: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    # Half of the time the ground is a recent find: it is where something new happened.
    recent = rng.random() < 0.5 and len(corpus) > 8
    data = bytearray(rng.choice(corpus[-8:] if recent else corpus))
    for _ in range(1 << rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:
            _overwrite(rng, data, at, rng.choice(words))
        else:
            _reshape(rng, data, at, rng.choice(words), rng.choice(corpus))
        del data[MAX_BYTES:]
    return bytes(data)


def _overwrite(rng: random.Random, data: bytearray, at: int, word: bytes) -> None:
    """Change some bytes at `at`."""
    match rng.randrange(5):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.choice(_BYTES)
        case 2:
            data[at : at + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(_NUMBERS))
        case 3:
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_LONG))
        case _:
            data[at : at + len(word)] = word


def _reshape(rng: random.Random, data: bytearray, at: int, word: bytes, other: bytes) -> None:
    """Take bytes away at `at`, or put some there."""
    size = 1 << rng.randrange(10)
    match rng.randrange(7):
        case 0:
            del data[at : at + size]
        case 1:
            del data[at:]
        case 2:
            data[at:at] = data[at : at + size]
        case 3:
            data[at:at] = word
        case 4:
            # Nesting and counting have limits that no single word reaches.
            data[at:at] = word * (1 << rng.randrange(12))
        case 5:
            data += word
        case _:
            start = rng.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + 2 * size]
