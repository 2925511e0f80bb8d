"""The styles that the band plays, the form of a song, and names of songs and bands that do not exist.

The table of styles is `styles.toml`: tempo, meter, swing, harmony, grooves, and who plays what in which manner.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import ScoreMeter, Section


@dataclass(frozen=True)
class Role:
    """A player of a style.

    Attributes:
        name: "bass", "rhythm guitar", …
        instruments: to choose from.
        manners: ways of playing to choose from (see `bass.py`, `comping.py`, `melody.py`, `drumming.py`).
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
    text = resources.files("stage_cli.core.band").joinpath("styles.toml").read_text(encoding="utf-8")
    return tuple(_read(entry) for entry in tomllib.loads(text)["style"])


def _read(entry: dict[str, Any]) -> Style:
    roles = tuple(Role(**_with_tuples(role)) for role in entry.pop("roles"))
    return Style(roles=roles, **_with_tuples(entry))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


INTENSITY = {
    "intro": 0.35,
    "verse": 0.55,
    "pre-chorus": 0.65,
    "chorus": 0.9,
    "bridge": 0.6,
    "break": 0.25,
    "build": 0.5,
    "drop": 1.0,
    "solo": 0.8,
    "outro": 0.5,
}

_FORMS = {
    "song": (
        "intro verse chorus verse chorus bridge chorus chorus outro",
        "intro verse verse chorus verse chorus solo chorus outro",
        "intro verse pre-chorus chorus verse pre-chorus chorus break chorus outro",
        "chorus verse chorus verse chorus break verse chorus outro",
        "intro verse chorus break verse chorus solo chorus outro",
    ),
    "club": (
        "intro verse build drop break build drop outro",
        "intro drop verse drop break build drop drop outro",
        "intro verse chorus break build drop verse chorus outro",
    ),
    "blues": (
        "intro verse verse solo solo verse outro",
        "verse verse solo verse solo outro",
        "intro verse solo break verse verse outro",
    ),
}
_BARS = {
    "intro": (2, 4, 4, 4, 8),
    "verse": (8, 8, 16),
    "pre-chorus": (4,),
    "chorus": (8,),
    "bridge": (4, 8),
    "break": (2, 4, 4, 8),
    "build": (4,),
    "drop": (8, 16),
    "solo": (8,),
    "outro": (4, 8),
}


def sections(key: tuple[int | str, ...], style: Style, cycle: int, meter: ScoreMeter) -> Iterator[Section]:
    """Yield the sections of a song without end; a long song goes round its form again.

    What is asked for later never changes what came before: a song for 20 s is the beginning of the song for 200 s.

    Args:
        key: the song's.
        style: what is played.
        cycle: bars of the chord progression; a section of a blues is a whole number of them.
        meter: short bars come in larger numbers.
    """
    rng = generator(*key, "form")
    names = pick(rng, _FORMS[style.form]).split()
    # Half of the songs begin where an excerpt might: with the band already playing.
    start = 0 if chance(rng, 0.5) else int(rng.integers(0, max(1, len(names) // 2)))
    lengths = {kind: pick(rng, options) * (2 if meter.beats_per_bar == 2 else 1) for kind, options in _BARS.items()}
    bar = 0
    played = names[start:]
    while True:
        for number, kind in enumerate(played):
            bars = lengths[kind]
            if cycle > 8 or style.form == "blues":
                chorus = cycle * max(1, 8 // cycle)
                bars = chorus if kind not in ("intro", "break", "outro") else max(2, chorus // 3)
            intensity = INTENSITY[kind] + float(rng.uniform(-0.1, 0.1))
            if kind == "chorus" and number == len(played) - 2:
                intensity += 0.1
            yield Section(kind, bar, bars, float(np.clip(intensity, 0.1, 1.0)))
            bar += bars
        played = [name for name in names if name not in ("intro", "outro")]


_DRUM_MANNERS = {
    "intro": (("full", 4), ("hats", 2), ("out", 1.5), ("kick", 1), ("no kick", 1), ("rim", 1)),
    "verse": (("full", 12), ("rim", 1.5), ("no kick", 0.3)),
    "pre-chorus": (("full", 8), ("build", 1), ("hats", 1)),
    "break": (("out", 2), ("hats", 2), ("kick", 2), ("full", 2), ("rim", 1.5)),
    "build": (("build", 3), ("full", 1), ("hats", 1)),
    "outro": (("full", 6), ("hats", 1), ("rim", 1)),
}


def drum_manner(rng: np.random.Generator, kind: str) -> str:
    """Return how the drummer plays a kind of section: see `play_drums`."""
    options = _DRUM_MANNERS.get(kind, (("full", 1.0),))
    return pick(rng, [name for name, _ in options], [weight for _, weight in options])


def plays(rng: np.random.Generator, role: str, kind: str, late_entry: float, *, leads: bool = False) -> bool:
    """Decide whether a player takes part in a kind of section; who leads the harmony seldom rests."""
    if leads:
        return not chance(rng, 0.05)
    if role == "singer":
        return kind in ("verse", "chorus", "pre-chorus", "bridge") or (kind in ("drop", "outro") and chance(rng, 0.3))
    if role == "solo":
        return kind in ("solo", "intro") or (kind in ("chorus", "drop", "outro", "bridge") and chance(rng, 0.5))
    if role == "bass":
        return kind not in ("intro", "break", "build") or not chance(rng, 0.4)
    if kind in ("chorus", "drop", "solo"):
        return not chance(rng, 0.08)
    if kind in ("intro", "break", "build", "outro"):
        return not chance(rng, 0.25 + 0.5 * late_entry)
    return not chance(rng, late_entry)


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
