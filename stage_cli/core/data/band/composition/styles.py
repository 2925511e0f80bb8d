"""The styles that the band plays: tempo, meter, swing, harmony, grooves, and who plays what in which manner.

The table itself is `styles.toml`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Role:
    """A player of a style.

    Attributes:
        name: "bass", "rhythm guitar", …
        instruments: to choose from.
        manners: ways of playing to choose from (see `bass_lines.py`, `comping.py`, `melody.py`, `hand_percussion.py`).
        probability: that a song of the style has this player.
        late_entry: probability that the player rests in an intro or a verse.
    """

    name: str
    instruments: tuple[str, ...]
    manners: tuple[str, ...]
    probability: float = 1.0
    late_entry: float = 0.3


@dataclass(frozen=True)
class Style:
    """What the songs of a style share.

    Attributes:
        name: of the style.
        genre: in MoisesDB's spelling.
        weight: how often it is chosen.
        tempo: lowest and highest bpm.
        grooves: names of `GROOVES` to choose from.
        harmony: family of `PROGRESSIONS`.
        modes: to choose from; repeated ones are likelier.
        kits: drum kits to choose from.
        roles: all players but the drummer.
        meter: name of the time signature.
        swing: lowest and highest place of the second of a pair; 0.5 is straight, 2/3 a triplet.
        swing_unit: beats in the pair that swings: 1 for eighths, 0.5 for sixteenths.
        form: "song", "club", "blues".
        freedom: probability of a chord progression that is none of the known ones.
    """

    name: str
    genre: str
    weight: float
    tempo: tuple[float, float]
    grooves: tuple[str, ...]
    harmony: str
    modes: tuple[str, ...]
    kits: tuple[str, ...]
    roles: tuple[Role, ...] = field(repr=False)
    meter: str = "4/4"
    swing: tuple[float, float] = (0.5, 0.5)
    swing_unit: float = 1.0
    form: str = "song"
    freedom: float = 0.3


@cache
def styles() -> tuple[Style, ...]:
    """Return all styles."""
    text = resources.files("stage_cli.core.data.band.composition").joinpath("styles.toml").read_text(encoding="utf-8")
    return tuple(_read(entry) for entry in tomllib.loads(text)["style"])


def _read(entry: dict[str, Any]) -> Style:
    roles = tuple(Role(**_with_tuples(role)) for role in entry.pop("roles"))
    return Style(roles=roles, **_with_tuples(entry))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
