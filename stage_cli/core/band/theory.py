"""Keys, modes, chords and chord progressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from stage_cli.core.band.randomness import chance, pick

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
"""Semitones above the tonic."""

PENTATONIC: dict[str, tuple[int, ...]] = {"major": (0, 2, 4, 7, 9), "minor": (0, 3, 5, 7, 10)}

CHORD_INTERVALS: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "sus4": (0, 5, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "9": (0, 4, 7, 10, 14),
    "add9": (0, 4, 7, 14),
    "min9": (0, 3, 7, 10, 14),
    "m7b5": (0, 3, 6, 10),
}
"""Semitones above the root."""

_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
_NUMERAL = re.compile(r"^([b#]?)([iv]+|[IV]+)(maj7|m7b5|sus4|add9|dim|7|9|6|5)?$")


@dataclass(frozen=True)
class ScoreKey:
    """A tonic (pitch class 0 to 11, C is 0) and a mode of `MODES`."""

    tonic: int
    mode: str

    @property
    def scale(self) -> str:
        """By the third of the mode: "major" or "minor"."""
        return "minor" if 3 in MODES[self.mode] else "major"

    @property
    def name(self) -> str:
        """Such as "Bb dorian"."""
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """The mode's seven pitch classes."""
        return tuple((self.tonic + step) % 12 for step in MODES[self.mode])

    @property
    def pentatonic(self) -> tuple[int, ...]:
        """The five pitch classes that fit nearly every chord of the key."""
        return tuple((self.tonic + step) % 12 for step in PENTATONIC[self.scale])


@dataclass(frozen=True)
class Chord:
    """A root (pitch class) and a quality of `CHORD_INTERVALS`."""

    root: int
    quality: str

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """From the root upwards."""
        return tuple((self.root + interval) % 12 for interval in CHORD_INTERVALS[self.quality])

    @property
    def third(self) -> int:
        """Semitones from the root to the third; the fourth of a sus4, the fifth of a power chord."""
        return CHORD_INTERVALS[self.quality][1]

    @property
    def fifth(self) -> int:
        """Semitones from the root to the fifth."""
        return 6 if self.quality in ("dim", "m7b5") else 7

    @property
    def name(self) -> str:
        """Such as "F#min7"."""
        return PITCH_CLASSES[self.root] + ("" if self.quality == "maj" else self.quality)


def chord(numeral: str, tonic: int) -> Chord:
    """Return the chord of a Roman numeral over the major scale of a tonic: "bVII", "ii7", "Imaj7", "iv".

    Raises:
        ValueError: no such numeral.
    """
    match = _NUMERAL.match(numeral)
    if match is None or match[2].lower() not in _DEGREES:
        raise ValueError(f"not a chord's numeral: {numeral!r}")
    accidental, degree, suffix = match[1], match[2], match[3] or ""
    root = tonic + _DEGREES[degree.lower()] + {"": 0, "b": -1, "#": 1}[accidental]
    minor = {"": "min", "7": "min7", "9": "min9"}
    quality = minor.get(suffix, suffix) if degree.islower() else suffix or "maj"
    return Chord(root % 12, quality)


def progression(text: str, tonic: int) -> list[list[Chord]]:
    """Return the chords of each bar of "I | V | vi IV": bars between strokes, chords between spaces."""
    return [[chord(numeral, tonic) for numeral in bar.split()] for bar in text.split("|")]


def nearest_pitch(pitch_class: int, target: int) -> int:
    """Return the MIDI note of a pitch class that lies nearest to a target note."""
    return target + (pitch_class - target + 6) % 12 - 6


def snap(pitch: int, pitch_classes: tuple[int, ...]) -> int:
    """Return the nearest MIDI note whose pitch class is among those given."""
    return min((nearest_pitch(pc, pitch) for pc in pitch_classes), key=lambda note: (abs(note - pitch), note))


def voicing(tones: Chord, previous: tuple[int, ...], center: int, voices: int) -> tuple[int, ...]:
    """Return a chord in close position near a center, as near as possible to the voicing before.

    Args:
        tones: the chord.
        previous: MIDI notes of the chord before; empty at the beginning.
        center: MIDI note around which it lies.
        voices: at most so many notes; the root goes first where a bass plays it anyway.
    """
    classes = list(tones.pitch_classes)
    if len(classes) > voices:
        classes = classes[1:] if len(classes) - 1 <= voices else [classes[1], *classes[3:]]
    best: tuple[int, ...] = ()
    best_cost = float("inf")
    for rotation in range(len(classes)):
        order = classes[rotation:] + classes[:rotation]
        for start in (center - 12, center - 6, center):
            notes = [start + (order[0] - start) % 12]
            for pitch_class in order[1:]:
                notes.append(notes[-1] + ((pitch_class - notes[-1]) % 12 or 12))
            mean = sum(notes) / len(notes)
            cost = 0.6 * abs(mean - center)
            if previous:
                cost += abs(mean - sum(previous) / len(previous)) + 0.5 * abs(notes[-1] - previous[-1])
            if cost < best_cost:
                best, best_cost = tuple(notes), cost
    return best


PROGRESSIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "pop": {
        "major": (
            "I | V | vi | IV",
            "vi | IV | I | V",
            "I | vi | IV | V",
            "IV | I | V | vi",
            "I | IV | vi | V",
            "I | iii | IV | V",
            "IV | V | vi | I",
            "I | I | IV | V",
            "I | V | IV | IV",
            "ii | IV | I | V",
            "I | V | vi | iii | IV | I | IV | V",
            "vi | V | IV | V",
            "I | IV | ii | V",
            "I Vsus4 | vi | IV | I V",
        ),
        "minor": (
            "i | bVI | bIII | bVII",
            "i | bVII | bVI | bVII",
            "i | iv | bVI | V",
            "bVI | bVII | i | i",
            "i | bIII | bVII | iv",
            "i | v | bVI | bVII",
            "i | bVI | iv | V",
            "iv | bVI | i | bVII",
        ),
        "mixolydian": ("I | bVII | IV | I", "I | I | bVII | IV", "I | v | IV | I"),
    },
    "rock": {
        "major": (
            "I | IV | I | V",
            "I | I | IV | V",
            "I | V | IV | IV",
            "I | IV | V | IV",
            "vi | IV | I | V",
            "I V | IV | I V | IV",
        ),
        "minor": (
            "i | bVII | bVI | bVII",
            "i | i | bVI | bVII",
            "i | bIII | iv | bVI",
            "i | bVI | bVII | i",
            "i5 | bIII5 | IV5 | i5",
        ),
        "mixolydian": (
            "I | bVII | IV | I",
            "I5 | I5 | bVII5 | IV5",
            "I | IV | bVII | I",
            "I bVII | IV I | I bVII | IV",
        ),
        "dorian": ("i | IV | i | IV", "i | bVII | IV | i", "i | i | IV | bVII"),
    },
    "soul": {
        "major": (
            "Imaj7 | vi7 | ii7 | V7",
            "ii7 | V7 | Imaj7 | Imaj7",
            "Imaj7 | iii7 | IVmaj7 | Vsus4",
            "IVmaj7 | iii7 | ii7 | Imaj7",
            "IVmaj7 | III7 | vi7 | v7 I7",
            "Imaj7 | IVmaj7 | Imaj7 | IVmaj7",
        ),
        "minor": (
            "i7 | iv7 | i7 | iv7",
            "i9 | bVImaj7 | iv7 | V7",
            "bVImaj7 | V7 | i7 | bIII7",
            "i7 | bVII | bVImaj7 | V7",
            "iv7 | v7 | i7 | i7",
        ),
        "dorian": (
            "i7 | IV7",
            "i9 | i9 | IV9 | IV9",
            "i7 | IV7 | i7 | IV7",
            "i7 | ii7 | i7 | ii7",
            "i7 IV7 | i7 IV7 | i7 IV7 | bVII",
        ),
        "mixolydian": ("I9 | I9 | IV9 | I9", "I7 | I7 | I7 | bVII IV", "I7 | IV7"),
    },
    "jazz": {
        "major": (
            "ii7 | V7 | Imaj7 | Imaj7",
            "Imaj7 vi7 | ii7 V7 | Imaj7 vi7 | ii7 V7",
            "Imaj7 | II7 | ii7 | V7",
            "Imaj7 | ii7 V7 | iii7 VI7 | ii7 V7",
            "Imaj7 | bVII7 | Imaj7 | VI7 | ii7 | V7 | Imaj7 | V7",
            "ii7 | V7 | iii7 | VI7",
        ),
        "minor": (
            "i7 | iim7b5 V7 | i7 | i7",
            "iv7 | bVII7 | bIIImaj7 | bVImaj7 | iim7b5 | V7 | i7 | i7",
            "i7 | iv7 | iim7b5 | V7",
        ),
    },
    "blues": {
        "mixolydian": (
            "I7 | I7 | I7 | I7 | IV7 | IV7 | I7 | I7 | V7 | IV7 | I7 | V7",
            "I7 | IV7 | I7 | I7 | IV7 | IV7 | I7 | VI7 | ii7 | V7 | I7 | V7",
            "I7 | I7 | IV7 | IV7 | I7 | V7 | I7 | V7",
        ),
        "minor": ("i7 | i7 | i7 | i7 | iv7 | iv7 | i7 | i7 | bVI7 | V7 | i7 | V7",),
    },
    "club": {
        "minor": (
            "i | i | bVI | bVII",
            "i | bVI | bIII | bVII",
            "i | i | i | i",
            "i7 | v7 | bVI | bVII",
            "i | bVII | iv | bVI",
            "bVI | bVII | i | v",
        ),
        "major": ("vi | IV | I | V", "IV | V | vi | vi", "I | I | vi | IV", "IVmaj7 | V | vi7 | iii7"),
        "dorian": ("i7 | i7 | IV | IV", "i9 | IV9", "i | bVII | IV | i"),
    },
    "reggae": {
        "major": ("I | IV", "I | V | vi | IV", "I | ii", "I | IV | V | IV", "I | V | ii | IV"),
        "minor": ("i | iv", "i | bVII", "i | i | iv | v", "i | bVI | bVII | i", "i | bVII | bVI | v"),
    },
    "metal": {
        "minor": (
            "i5 | i5 | bVI5 | bVII5",
            "i5 | bIII5 | bVI5 | V5",
            "i5 | i5 | i5 bVII5 | bVI5",
            "i5 | bVI5 | iv5 | bVII5",
            "i5 | bII5 | i5 | bVII5",
        ),
    },
    "folk": {
        "major": (
            "I | IV | V | I",
            "I | I | V | I",
            "I | V | I | IV | I | V | I | I",
            "I | IV | I | V",
            "I | vi | IV | V",
            "I | iii | vi | IV",
        ),
        "minor": ("i | bVII | i | V", "i | iv | V | i", "i | bVII | bVI | V", "i | bIII | bVII | i"),
        "mixolydian": ("I | bVII | I | bVII", "I | I | bVII | I"),
        "dorian": ("i | bVII | i | bVII", "i | IV | bVII | i"),
    },
}
"""By family and mode, in Roman numerals over the major scale: bars between strokes."""

# Where a triad tends to go, by scale degree: tonic chords anywhere, subdominants to dominants, dominants home.
_MAJOR_MOVES = {
    "I": "IV V vi ii iii",
    "ii": "V IV",
    "iii": "vi IV",
    "IV": "I V ii",
    "V": "I vi IV",
    "vi": "IV ii V iii",
}
_MINOR_MOVES = {
    "i": "bVI bVII iv bIII v",
    "bIII": "bVII bVI iv",
    "iv": "V bVII i bVI",
    "v": "bVI i iv",
    "V": "i bVI",
    "bVI": "bVII iv bIII V",
    "bVII": "i bIII bVI",
}


def invent(rng: np.random.Generator, mode: str) -> str:
    """Return a new progression of four bars: a walk through the chords of the key that begins near home."""
    moves = _MINOR_MOVES if mode in ("minor", "dorian") else _MAJOR_MOVES
    current = "i" if moves is _MINOR_MOVES else "I"
    bars = [current]
    while len(bars) < 4:
        current = pick(rng, moves[current].split())
        bars.append(current)
    if chance(rng, 0.3):
        bars[-1] += f" {pick(rng, moves[bars[-1]].split())}"
    return " | ".join(bars)


def settle(rng: np.random.Generator, bars: list[list[Chord]], tonic: Chord) -> list[list[Chord]]:
    """Return a progression that shows its key: most songs begin at home, stay there a little, and lead back to it.

    Four chords that go round and round may be heard in two keys; these small changes decide for one.
    """
    at_home = [number for number, bar in enumerate(bars) if bar[0].root == tonic.root]
    if not at_home:
        bars = [[tonic], *bars[1:]]
    elif chance(rng, 0.95):
        bars = bars[at_home[0] :] + bars[: at_home[0]]
    share = sum(bar[0].root == tonic.root for bar in bars) / len(bars)
    if len(bars) == 4 and share < 0.5 and chance(rng, 0.65):
        bars = [bars[0], bars[0], bars[1] if chance(rng, 0.5) else bars[2], bars[3]]
    dominant = Chord((tonic.root + 7) % 12, "7" if len(bars[-1][-1].pitch_classes) > 3 else "maj")
    if bars[-1][-1].root not in (tonic.root, dominant.root) and chance(rng, 0.5):
        bars = [*bars[:-1], [*bars[-1][:1], dominant]]
    return bars


def choose(rng: np.random.Generator, family: str, mode: str, freedom: float) -> str:
    """Return a progression of a family in a mode; a new one with probability `freedom`."""
    known = PROGRESSIONS[family].get(mode, ())
    if family not in ("blues", "jazz", "metal") and (not known or chance(rng, freedom)):
        return invent(rng, mode)
    return pick(rng, known)
