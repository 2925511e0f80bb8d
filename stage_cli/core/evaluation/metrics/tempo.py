"""Tempo of a stem against that of its song, whatever octave it is heard in.

The tempo error is the smallest relative distance |bpm − f · reference| / (f · reference) over the factors f = ⅓, ½, 1,
2 and 3: people tap one piece at half or double the tempo, and in threes. A tempo is right if its error is at most 4 %.
Both are what the field calls Accuracy 2 (Gouyon et al., "An experimental comparison of audio tempo induction
algorithms", 2006). No tempo is far from all factors: between a third and three times the reference the error is ⅓ at
most. Of two tempi drawn at random from 70 to 180 (even in the logarithm) 13 % are right, and the mean error is 0.16.
"""

from __future__ import annotations

import math

FACTORS = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)

TEMPO_TOLERANCE = 0.04
"""Relative error of a tempo that is right."""


def tempo_error(bpm: float | None, reference: float | None) -> float:
    """Return the octave-aware relative error of a tempo; nan where the stem or the reference has none (None).

    Args:
        bpm: beats a minute of the stem.
        reference: of its song.

    Raises:
        ValueError: a tempo is not finite or not above 0.
    """
    for name, value in (("bpm", bpm), ("reference", reference)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be above 0, not {value}")
    if bpm is None or reference is None:
        return math.nan
    return min(abs(bpm - factor * reference) / (factor * reference) for factor in FACTORS)


def tempo_right(bpm: float | None, reference: float | None) -> float:
    """Return 1 where the tempo error is at most 4 %, else 0; nan without a reference. No tempo at all is not right.

    Args:
        bpm: beats a minute of the stem.
        reference: of its song.

    Raises:
        ValueError: a tempo is not finite or not above 0.
    """
    error = tempo_error(bpm, reference)
    return math.nan if reference is None else float(error <= TEMPO_TOLERANCE)
