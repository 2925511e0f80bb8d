"""Random generators by name: what one part of a song draws never changes what another part gets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")


def generator(*key: int | str) -> np.random.Generator:
    """Return the generator that belongs to a key, such as (seed, index, "bass", 3).

    Equal keys give equal streams; different keys give independent ones.
    """
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def pick(rng: np.random.Generator, items: Sequence[_Item], weights: Sequence[float] | None = None) -> _Item:
    """Return one of the items, by weight (any positive scale; equal if left out)."""
    if weights is None:
        return items[int(rng.integers(len(items)))]
    total = 0.0
    threshold = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        total += weight
        if threshold < total:
            return item
    return items[-1]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with a probability."""
    return bool(rng.random() < probability)
