"""Drum grooves: families of patterns, a song's own two bars drawn from them, and what players of a section see.

In a pattern one character is one sixteenth: X always and accented, x likely (3 in 4), o sometimes (1 in 3), . rarely
(1 in 10), f always but feathered, - never. A bar of 4/4 has 16 of them, of 3/4 and 6/8 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stage_cli.core.band.instruments import (
    CHINA,
    CLAP,
    CLOSED_HAT,
    CRASH,
    KICK,
    LOW_TOM,
    OPEN_HAT,
    PEDAL_HAT,
    RIDE,
    RIDE_BELL,
    SECOND_CRASH,
    SIDE_STICK,
    SNARE,
)
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.score import ChordSpan, Event, ScoreMeter, Section
from stage_cli.core.band.theory import Chord, ScoreKey

LIKELIHOOD = {"X": 1.0, "f": 1.0, "x": 0.75, "o": 0.35, ".": 0.1, "-": 0.0}

_BACKBEAT = "----X-------X---"
_GHOSTS = ".--o--.o-o-o--.o"
_FEW_GHOSTS = "-------.-o-----o"
_NONE = "----------------"


@dataclass(frozen=True)
class GroovePattern:
    """A family of grooves.

    Attributes:
        kicks: patterns to choose from.
        snares: likewise.
        ghosts: soft snare strokes.
        cymbals: manners of the leading hand to choose from, repeated ones are likelier (see `leading_hand`).
        snare_keys: what plays the snare's pattern: "snare", "rim", "clap", "snare+clap".
        toms: patterns of a low tom under it all; empty for none.
    """

    kicks: tuple[str, ...]
    snares: tuple[str, ...] = (_BACKBEAT,)
    ghosts: str = _NONE
    cymbals: tuple[str, ...] = ("eighths",)
    snare_keys: tuple[str, ...] = ("snare",)
    toms: tuple[str, ...] = ()


GROOVES: dict[str, GroovePattern] = {
    "rock": GroovePattern(
        (
            "X---.-o-X-x---o-",
            "X-o-----X-X---.o",
            "X-----x-x-X---o-",
            "X--o--x---X--o--",
            "X-X---o-o-X-x-.-",
            "X------oX-X----o",
        ),
        (_BACKBEAT, _BACKBEAT, _BACKBEAT, "----X-------X-.o"),
        _FEW_GHOSTS,
        ("eighths", "eighths", "loose eighths", "quarters", "ride eighths"),
    ),
    "pop": GroovePattern(
        (
            "X-----o-X-o---o-",
            "X-----x---X---.-",
            "X---X---X---X---",
            "X--x--o-o-X--o--",
            "X--X---oX--o---.",
            "X-----X-o---X-o-",
        ),
        (_BACKBEAT,),
        _FEW_GHOSTS,
        ("eighths", "eighths", "sixteenths", "offbeats", "ride eighths", "pushed sixteenths"),
        ("snare", "snare", "clap", "snare+clap"),
    ),
    "funk": GroovePattern(
        ("X-o---o--ox--o--", "X-X---o---X--x-.", "X--x--X--o-o--o-", "X------x-xX---o-", "X-o--x----X-o--o"),
        (_BACKBEAT, "----X--o-o--X---", "----X-----o-x--o", "----X--X-o--X--o"),
        _GHOSTS,
        ("sixteenths", "pushed sixteenths", "eighths", "loose eighths"),
    ),
    "house": GroovePattern(
        ("X---X---X---X---", "X---X---X---X--o", "X---X---X--oX---"),
        (_BACKBEAT, _BACKBEAT, _NONE, "----X--.----X--o"),
        _NONE,
        ("offbeats", "offbeats", "offbeats with sixteenths", "pushed sixteenths", "sixteenths"),
        ("clap", "clap", "snare+clap", "snare"),
    ),
    "disco": GroovePattern(
        ("X---X---X---X---", "X---X---X---X-o-", "X---X--oX---X--."),
        (_BACKBEAT,),
        "-------.-------o",
        ("offbeats with sixteenths", "offbeats", "sixteenths", "barking eighths"),
        ("snare", "snare+clap"),
    ),
    "hip-hop": GroovePattern(
        (
            "X--o--.o--X--o--",
            "X-.o---x--X-.---",
            "X------X-oX----o",
            "X--X---o-ox---.-",
            "X-o----o--Xx----",
            "Xo-----x-Xo---o-",
        ),
        (_BACKBEAT, "----X-------X--o", "----X--.-o--X---"),
        _FEW_GHOSTS,
        ("eighths", "sixteenths", "pushed sixteenths", "loose eighths", "sparse"),
        ("snare", "clap", "snare", "rim"),
    ),
    "trap": GroovePattern(
        ("X-----o---Xo--o-", "X--o--X----o-o--", "X------o--X--x--", "X--X--o--o----X-"),
        ("--------X-------", "--------X------o", "--------X--.---o"),
        _NONE,
        ("rolling", "rolling", "eighths", "sixteenths"),
        ("clap", "snare+clap", "snare"),
    ),
    "half-time": GroovePattern(
        ("X--o--o---x---o-", "X-----X----o--o-", "X-o----oo-x----o", "X--X-----o----x-"),
        ("--------X-------",),
        "---.--o---o--.-o",
        ("eighths", "quarters", "sixteenths", "ride eighths", "loose eighths"),
    ),
    "ballad": GroovePattern(
        ("X-------o-x-----", "X-----o-X-------", "X------oX-----o-", "X---------X---.-"),
        (_BACKBEAT, _BACKBEAT, "--------X-------"),
        "---------.-----o",
        ("eighths", "eighths", "sixteenths", "ride eighths", "quarters"),
        ("rim", "snare", "snare"),
    ),
    "one drop": GroovePattern(
        ("--------X-------", "--------X------o", "----X-------X---"),
        ("--------X-------", "--------X--o--o-", "--o-----X-----o-"),
        "---.--o----o--.o",
        ("eighths", "loose eighths", "offbeats", "sixteenths"),
        ("rim", "rim", "snare"),
    ),
    "steppers": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X---X---X---X-o-"),
        ("--------X-------", "--------X-----o-", "----X-------X--."),
        "------o----o---.",
        ("eighths", "offbeats", "loose eighths"),
        ("rim", "snare"),
    ),
    "shuffle": GroovePattern(
        ("X-----o-X-----o-", "X---o---X---o---", "X-o---x-X-o---o-", "X-----X---X---o-"),
        (_BACKBEAT,),
        "--o---o---o---o-",
        ("eighths", "eighths", "ride eighths", "loose eighths", "spang-a-lang"),
    ),
    "bossa": GroovePattern(
        ("X-----x-X-----x-", "X-----x-X-----x-", "X-----o-X-----o-", "X-------X-----x-"),
        ("X--X--X---X--X--", "X-----X---X--X--", "X---X-----X-X---", "X--X---X--X---X-"),
        _NONE,
        ("eighths", "ride eighths", "sixteenths"),
        ("rim",),
    ),
    "metal": GroovePattern(
        (
            "XxXxXxXxXxXxXxXx",
            "X-xxX-xxX-xxX-xx",
            "X-XX--o-X-XX--o-",
            "X--X--X-X--X--X-",
            "X-o---X-X-X---oo",
            "XXX-X-o-XXX-X-o-",
        ),
        (_BACKBEAT, _BACKBEAT, _BACKBEAT, "--------X-------", "--------X-------", "--X---X---X---X-"),
        _NONE,
        ("quarters", "loose eighths", "ride quarters", "china quarters", "crashes", "eighths"),
    ),
    "punk": GroovePattern(
        ("X-----X-X-----X-", "X---X---X---X---", "X-----x-X-X---x-"),
        ("----X-------X---", "--X---X---X---X-"),
        _NONE,
        ("eighths", "loose eighths", "ride eighths", "crashes"),
    ),
    "motown": GroovePattern(
        ("X-----X-X-----X-", "X-----x-o-x---o-", "X---X---X---X---"),
        ("X---X---X---X---", "----X---X---X---", _BACKBEAT),
        _FEW_GHOSTS,
        ("eighths", "quarters", "sixteenths"),
        ("snare", "snare+clap"),
    ),
    "train": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X-----o-X-----o-"),
        (_BACKBEAT, "----X-----x-X---"),
        "xxx-xxxxxxx-xxxx",
        ("pedal", "offbeats", "sparse"),
        ("snare", "snare", "rim"),
    ),
    "tribal": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X--X----X--X----"),
        (_NONE, "----X-------X---", "------------X---"),
        _NONE,
        ("sparse", "quarters", "pedal"),
        ("snare",),
        ("X--X--X-X--X--X-", "--X--X--X-X---XX", "X-xxX-x-X-xxX-xX", "X--x--X--x--X-x-"),
    ),
    "dembow": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X---X---X---X--o"),
        ("---X--X----X--X-", "---X--X----X--X.", "---X--o----X--X-"),
        _NONE,
        ("eighths", "offbeats", "sparse", "sixteenths"),
        ("snare", "rim", "clap", "snare+clap"),
    ),
    "drum'n'bass": GroovePattern(
        ("X---------X-----", "X--o------X--o--", "X-x-------X---o-", "X---------X--x.-"),
        (_BACKBEAT, "----X--o-o--X---", "----X-------X--o"),
        ".--.-o-o-o-.-o.o",
        ("eighths", "sixteenths", "ride eighths", "pushed sixteenths", "loose eighths"),
    ),
    "breakbeat": GroovePattern(
        ("X-X-------Xx----", "X-X---o---X--x--", "X--o--X---Xo--o-", "X-----x--XX---o-"),
        ("----X--o-o--X--o", "----X--X-X--X---", "----X--.-o----X-", "----X-------X-o-"),
        ".--o---o-o-o---o",
        ("eighths", "loose eighths", "ride eighths", "sixteenths"),
    ),
    "swing": GroovePattern(
        ("f---f---f---f---", "f-----.-o-----o-", _NONE, "X-----.-----o---"),
        ("------.---o---o-", "--o-----------x-", "---------------o", "----o-----.---x-"),
        "--.---o---.---o-",
        ("spang-a-lang", "spang-a-lang", "spang-a-lang", "quarters"),
    ),
    "waltz": GroovePattern(
        ("X-----------", "X-----o-----", "X-------o-o-", "X---------x-"),
        ("----X---X---", "----x---X---", "--------X---", "----X-------"),
        "------.---.o",
        ("quarters", "eighths", "ride quarters", "ride eighths", "sparse"),
        ("snare", "rim", "snare"),
    ),
    "rock waltz": GroovePattern(
        ("X-----o---x-", "X---o-x-----", "X-o---X-----", "X-----X---o-"),
        ("----X---X---", "--------X---", "----X-----o-", "----X---x--o"),
        "--.--o-.--.o",
        ("eighths", "loose eighths", "ride eighths", "quarters"),
    ),
    "six-eight": GroovePattern(
        ("X-------o-x-", "X---o-------", "X---x-----o-", "X-----.-x---", "X-o-----o-o-"),
        ("------X-----", "------X-----", "------X---o-"),
        "--.-.---.-o-",
        ("eighths", "eighths", "ride eighths", "loose eighths", "sixteenths"),
        ("snare", "snare", "rim"),
    ),
    "jig": GroovePattern(
        ("X-----X-----", "X---x-X---o-", "X-----X---x-"),
        ("------x-----", "----X-----X-", "------X---x-"),
        "--o-.---o-.-",
        ("eighths", "beats", "ride eighths", "sixteenths"),
        ("rim", "snare"),
    ),
}


GROOVE_BARS = 2
_SNARES = {"snare": (SNARE,), "rim": (SIDE_STICK,), "clap": (CLAP,), "snare+clap": (SNARE, CLAP)}
_ACCENT, _LIKELY, _FEATHERED, _GHOST = 0.92, 0.74, 0.42, 0.28


@dataclass(frozen=True, slots=True)
class Hit:
    """One stroke: its step in the bar (sixteenths; halves are thirty-seconds), General MIDI key and velocity."""

    step: float
    key: int
    velocity: float


@dataclass(frozen=True)
class Groove:
    """Bars of strokes (two, or as many as a section has), and the manner of the leading hand."""

    bars: tuple[tuple[Hit, ...], ...]
    cymbals: str
    family: str

    def steps_of(self, key: int, bar: int) -> list[float]:
        """Steps on which a key is struck in a bar."""
        return [hit.step for hit in self.bars[bar % len(self.bars)] if hit.key == key]

    @property
    def signature(self) -> frozenset[tuple[int, int]]:
        """What tells it from another: (key, step in two bars) of its strokes, ghost notes left out."""
        steps_per_bar = 16 if any(hit.step >= 12 for bar in self.bars for hit in bar) else 12
        return frozenset(
            (hit.key, round(hit.step) + number * steps_per_bar)
            for number, bar in enumerate(self.bars[:GROOVE_BARS])
            for hit in bar
            if hit.velocity > 0.4
        )


def invent_groove(rng: np.random.Generator, family: str, meter: ScoreMeter) -> Groove:
    """Return a groove of a family of `GROOVES`: the second bar answers the first."""
    pattern = GROOVES[family]
    kick, snare = pick(rng, pattern.kicks), pick(rng, pattern.snares)
    toms = pick(rng, pattern.toms) if pattern.toms else ""
    snare_keys = _SNARES[pick(rng, pattern.snare_keys)]
    cymbals = pick(rng, pattern.cymbals)
    ghosts = float(pick(rng, (0.0, 0.5, 1.0, 1.4)))
    first = _draw(rng, kick, (KICK,)) + _draw(rng, snare, snare_keys) + _draw(rng, toms, (LOW_TOM,))
    first += _draw_ghosts(rng, pattern, ghosts, snare_keys[0], first)
    if chance(rng, 0.45):
        second = list(first)
    else:
        second = _draw(rng, kick, (KICK,)) + _draw(rng, snare, snare_keys) + _draw(rng, toms, (LOW_TOM,))
        second += _draw_ghosts(rng, pattern, ghosts, snare_keys[0], second)
    hands = leading_hand(rng, cymbals, meter)
    return Groove(tuple(_bar(hits, hand) for hits, hand in zip((first, second), hands, strict=True)), cymbals, family)


def lift(rng: np.random.Generator, groove: Groove, meter: ScoreMeter) -> Groove:
    """Return a chorus's version of a verse's groove: a louder leading hand, and often another kick."""
    pattern = GROOVES[groove.family]
    louder = {
        "eighths": ("ride eighths", "loose eighths", "crashes", "eighths", "sixteenths"),
        "sixteenths": ("loose eighths", "ride eighths", "sixteenths"),
        "quarters": ("eighths", "ride eighths", "loose eighths"),
        "sparse": ("eighths", "offbeats", "loose eighths"),
    }
    options = louder.get(groove.cymbals, (*pattern.cymbals, groove.cymbals))
    if meter.beats_per_bar == 2:
        options = tuple(option for option in options if option != "crashes")
    cymbals = pick(rng, options)
    hands = leading_hand(rng, cymbals, meter)
    template = pick(rng, pattern.kicks)
    extra = [hit for hit in _draw(rng, template, (KICK,)) if chance(rng, 0.35)]
    bars = []
    for number, bar in enumerate(groove.bars):
        kept = [hit for hit in bar if hit.key in (KICK, SNARE, SIDE_STICK, CLAP, LOW_TOM)]
        kept = [replace(hit, key=SNARE) if hit.key == SIDE_STICK and cymbals != "sparse" else hit for hit in kept]
        bars.append(_bar(kept + extra, hands[number]))
    return Groove(tuple(bars), cymbals, groove.family)


def leading_hand(rng: np.random.Generator, manner: str, meter: ScoreMeter) -> list[list[Hit]]:
    """Return two bars of hi-hat or cymbal strokes in a manner, with the accents and open hats of one player."""
    steps, beat = meter.steps_per_bar, meter.steps_per_beat
    soft = float(rng.uniform(0.45, 0.85))  # of what is off the beat, relative to what is on it
    push = chance(rng, 0.08)  # accents off the beat
    opened = (
        {float(rng.integers(steps // 2) * 2) for _ in range(int(rng.integers(0, 3)))} if chance(rng, 0.5) else set()
    )
    sparse = sorted({float(step) for step in rng.integers(0, steps, size=int(rng.integers(2, 6)))})
    rolls = {float(rng.integers(steps // 2) * 2): int(pick(rng, (2, 3, 4))) for _ in range(int(rng.integers(1, 4)))}

    def accent(step: float, unit: int = beat) -> float:
        on_beat = step % unit == 0
        return 0.75 if on_beat != push else 0.75 * soft

    def on(key: int, every: int, start: int = 0, unit: int = beat) -> list[Hit]:
        return [Hit(float(step), key, accent(step, unit)) for step in range(start, steps, every)]

    bar: list[Hit]
    if manner in ("eighths", "loose eighths", "ride eighths"):
        key = {"eighths": CLOSED_HAT, "loose eighths": OPEN_HAT, "ride eighths": RIDE}[manner]
        bar = on(key, 2)
        if manner == "ride eighths" and chance(rng, 0.3):
            bar = [replace(hit, key=RIDE_BELL) if hit.step % beat == 0 else hit for hit in bar]
        if manner == "ride eighths" and meter.name == "4/4" and chance(rng, 0.4):
            bar += [Hit(4.0, PEDAL_HAT, 0.5), Hit(12.0, PEDAL_HAT, 0.5)]
    elif manner == "sixteenths":
        bar = on(CLOSED_HAT, 1, unit=2)
    elif manner == "pushed sixteenths":
        gap = pick(rng, (1, 3, 2))
        bar = [hit for hit in on(CLOSED_HAT, 1) if hit.step % 4 != gap]
    elif manner in ("quarters", "ride quarters", "china quarters", "crashes"):
        options = {"quarters": (CLOSED_HAT, OPEN_HAT), "ride quarters": (RIDE, RIDE_BELL), "china quarters": (CHINA,)}
        bar = on(pick(rng, options.get(manner, (CRASH, SECOND_CRASH))), 4)
    elif manner == "beats":
        bar = on(CLOSED_HAT, beat)
    elif manner == "offbeats":
        bar = [Hit(float(step), OPEN_HAT, 0.68) for step in range(2, steps, 4)]
    elif manner in ("offbeats with sixteenths", "barking eighths"):
        every = 1 if manner.startswith("offbeats") else 2
        bar = [Hit(h.step, OPEN_HAT, 0.68) if h.step % 4 == 2 else h for h in on(CLOSED_HAT, every)]
    elif manner == "spang-a-lang":
        skips = [step for step in range(2, steps, 4) if (step // 4) % 2 == 1]
        bar = [*on(RIDE, 4), *(Hit(float(step), RIDE, 0.55) for step in skips)]
        bar += [Hit(float(step), PEDAL_HAT, 0.5) for step in range(4, steps, 8)]
    elif manner == "rolling":
        bar = []
        for hit in on(CLOSED_HAT, 2):
            count = rolls.get(hit.step, 1)
            bar += [
                Hit(hit.step + 2 * i / count, CLOSED_HAT, hit.velocity * (0.7 + 0.3 * i / count)) for i in range(count)
            ]
    elif manner == "pedal":
        bar = [Hit(float(step), PEDAL_HAT, 0.6) for step in range(4, steps, 8)]
    else:  # sparse
        bar = [Hit(step, CLOSED_HAT, 0.6) for step in sparse]
    if manner in ("eighths", "sixteenths", "pushed sixteenths", "rolling"):
        bar = [replace(hit, key=OPEN_HAT) if hit.step in opened and hit.step > 0 else hit for hit in bar]
    second = list(bar)
    if manner in ("eighths", "sixteenths", "ride eighths") and chance(rng, 0.4):
        last = float(steps - 2)
        second = [replace(hit, key=OPEN_HAT) if hit.step == last and hit.key == CLOSED_HAT else hit for hit in bar]
    return [bar, second]


def _draw(rng: np.random.Generator, pattern: str, keys: tuple[int, ...]) -> list[Hit]:
    """Decide each step of a pattern once."""
    hits = []
    for step, symbol in enumerate(pattern):
        if chance(rng, LIKELIHOOD[symbol]):
            velocity = {"X": _ACCENT, "f": _FEATHERED}.get(symbol, _LIKELY)
            hits += [Hit(float(step), key, velocity) for key in keys]
    return hits


def _draw_ghosts(
    rng: np.random.Generator, pattern: GroovePattern, amount: float, key: int, taken: list[Hit]
) -> list[Hit]:
    occupied = {hit.step for hit in taken if hit.key == key}
    return [
        Hit(float(step), key, _GHOST * float(rng.uniform(0.7, 1.3)))
        for step, symbol in enumerate(pattern.ghosts)
        if step not in occupied and chance(rng, LIKELIHOOD[symbol] * amount)
    ]


def _bar(*groups: list[Hit]) -> tuple[Hit, ...]:
    """Join strokes in order; of two strokes of one drum at one moment the louder stays."""
    loudest: dict[tuple[float, int], Hit] = {}
    for hit in (hit for group in groups for hit in group):
        place = (hit.step, hit.key)
        if place not in loudest or hit.velocity > loudest[place].velocity:
            loudest[place] = hit
    return tuple(loudest[place] for place in sorted(loudest))


@dataclass(frozen=True)
class DrumTiming:
    """When a drummer really plays, which the band leans on.

    Attributes:
        kicks: beat on paper (from the song's first) → beats by which the kick drum is behind its swung place.
        strokes: the same of the loudest stroke at each place.
    """

    kicks: Mapping[float, float]
    strokes: Mapping[float, float]


@dataclass(frozen=True)
class Passage:
    """One section as its players see it. Beats count from the song's first.

    `timing` is a human drummer's; None where the groove is an invented one.
    """

    section: Section
    meter: ScoreMeter
    key: ScoreKey
    chords: tuple[ChordSpan, ...]
    groove: Groove
    timing: DrumTiming | None = None

    @property
    def first_beat(self) -> float:
        """Beat on which the section begins."""
        return float(self.section.first_bar * self.meter.beats_per_bar)

    @property
    def beats(self) -> float:
        """Length in beats."""
        return float(self.section.bars * self.meter.beats_per_bar)

    @property
    def loudness(self) -> float:
        """Factor of every velocity."""
        return 0.72 + 0.28 * self.section.intensity

    def bars(self) -> Iterator[tuple[int, float]]:
        """Yield (number of the bar in the section, its first beat)."""
        for bar in range(self.section.bars):
            yield bar, self.first_beat + bar * self.meter.beats_per_bar

    def chord_at(self, beat: float) -> Chord:
        """Return the chord that sounds on a beat."""
        current = self.chords[0]
        for span in self.chords:
            if span.beat > beat + 1e-6:
                break
            current = span
        return current.chord

    def next_chord(self, beat: float) -> Chord:
        """Return the first chord after the one that sounds on a beat; the section's first if it was the last."""
        for span in self.chords:
            if span.beat > beat + 1e-6:
                return span.chord
        return self.chords[0].chord

    def kick_beats(self, bar: int) -> list[float]:
        """Beats within a bar (0 is its first) on which the kick is struck."""
        return [step / self.meter.steps_per_beat for step in self.groove.steps_of(KICK, bar)]

    def grid(self, pattern: str) -> Iterator[tuple[float, str]]:
        """Yield (beat, symbol) for a pattern of one bar of sixteenths, repeated; "-" is a rest."""
        for _, first in self.bars():
            for step in range(self.meter.steps_per_bar):
                symbol = pattern[step % len(pattern)]
                if symbol != "-":
                    yield first + step / self.meter.steps_per_beat, symbol


def lean_on_drums(
    events: Sequence[Event], passage: Passage, beat: float, *, on_kick: float, elsewhere: float
) -> list[Event]:
    """Return notes that take a share of the drummer's timing: what is played together sounds together.

    Args:
        events: notes on paper.
        passage: the section, with the drummer's timing.
        beat: seconds of a beat.
        on_kick: share of the kick's deviation that a note on its place takes.
        elsewhere: share of the loudest stroke's deviation, where there is no kick.
    """
    if passage.timing is None:
        return list(events)
    kicks, strokes = passage.timing.kicks, passage.timing.strokes
    leaning = []
    for event in events:
        place = round(event.beat, 4)
        late = on_kick * kicks[place] if place in kicks else elsewhere * strokes.get(place, 0.0)
        leaning.append(replace(event, late=event.late + late * beat))
    return leaning
