"""Chord progressions: those that everyone knows, and new ones that follow the same habits."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.composition.theory import Chord
from stage_cli.core.data.band.randomness import chance, pick

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
