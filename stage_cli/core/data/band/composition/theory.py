"""Keys, modes, chords and progressions: what a musician would call theory."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
class Key:
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
