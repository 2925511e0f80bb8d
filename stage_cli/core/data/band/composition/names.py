"""Titles and bands that do not exist."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.randomness import chance, pick

_ADJECTIVES = (
    "Blue",
    "Silver",
    "Quiet",
    "Burning",
    "Electric",
    "Paper",
    "Golden",
    "Broken",
    "Distant",
    "Velvet",
    "Hollow",
    "Neon",
    "Salted",
    "Wooden",
    "Midnight",
    "Second",
    "Slow",
    "Crooked",
    "Northern",
    "Borrowed",
    "Plastic",
    "Lucky",
)
_NOUNS = (
    "Harbour",
    "Lantern",
    "River",
    "Engine",
    "Garden",
    "Window",
    "Signal",
    "Summer",
    "Mirror",
    "Highway",
    "Orchard",
    "Satellite",
    "Kitchen",
    "Winter",
    "Telephone",
    "Ocean",
    "Balcony",
    "Thunder",
    "Bicycle",
    "Archive",
    "Compass",
    "Avenue",
)
_PLURALS = (
    "Foxes",
    "Transistors",
    "Neighbours",
    "Sparrows",
    "Postmen",
    "Lighthouses",
    "Cousins",
    "Antennas",
    "Gardeners",
    "Pilots",
    "Umbrellas",
    "Drifters",
    "Librarians",
    "Tides",
    "Mechanics",
    "Owls",
    "Receivers",
    "Strangers",
)


def invent_names(rng: np.random.Generator) -> tuple[str, str]:
    """Return (title, artist)."""
    title = f"{pick(rng, _ADJECTIVES)} {pick(rng, _NOUNS)}"
    if chance(rng, 0.3):
        title = f"{pick(rng, _NOUNS)} in {pick(rng, _NOUNS)}"
    article = "The " if chance(rng, 0.7) else ""
    return title, f"{article}{pick(rng, _ADJECTIVES)} {pick(rng, _PLURALS)}"
