"""Whose stem a shuffled pair takes: for each item, an item of another song."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def other_songs(songs: Sequence[str], *, seed: int) -> list[int]:
    """Return for each item the index of an item of another song.

    Where no song has more than half of the items, every item is used exactly once, so shuffled sets hold the same stems
    as true ones. Otherwise items may be used more than once.

    Args:
        songs: the song of each item.
        seed: of the shuffle.

    Raises:
        ValueError: there are not two songs.
    """
    counts = Counter(songs)
    if len(counts) < 2:
        raise ValueError("shuffled pairs need items of at least two songs")
    generator = np.random.default_rng(seed)
    largest = max(counts.values())
    if 2 * largest > len(songs):
        others = {song: [i for i, other in enumerate(songs) if other != song] for song in counts}
        return [int(generator.choice(others[song])) for song in songs]
    # Songs in random order, their items side by side: a step of the largest song's size always leaves the song.
    names = list(counts)
    place = {names[name]: position for position, name in enumerate(generator.permutation(len(names)))}
    order = sorted(generator.permutation(len(songs)).tolist(), key=lambda item: place[songs[item]])
    partner = {item: order[(i + largest) % len(order)] for i, item in enumerate(order)}
    return [partner[item] for item in range(len(songs))]
