"""Anchors that need no model: a plain click drum on the beats, and silence."""

from __future__ import annotations

import numpy as np

from stage_cli.core.evaluation.metrics.times import Times, rising_times
from stage_cli.core.rhythm import BeatGrid, metronome

_LEVEL = np.float32(0.5)


def click_drum(beats: Times, seconds: float, sample_rate: int) -> np.ndarray:
    """Return a click on every beat, all alike, `[samples]` float32: as much rhythm as a list of beats holds.

    The clicks are those of the metronome track, at half its level; beats at or after the end are left out. Whichever
    stem it stands beside, listen to it as to drums: a tracker of pitched stems finds the clicks' tempo, not always
    their phase.

    Args:
        beats: seconds, rising.
        seconds: length.
        sample_rate: Hz.

    Raises:
        ValueError: beats are negative or not finite, or do not rise.
        UsageError: the length is not above 0 and up to 24 hours.
    """
    times = rising_times(beats, "beats")
    return _LEVEL * metronome(BeatGrid(tuple(times.tolist()), ()), seconds, sample_rate)


def silence(seconds: float, sample_rate: int) -> np.ndarray:
    """Return silence, `[samples]` float32.

    Args:
        seconds: length, not negative.
        sample_rate: Hz.
    """
    return np.zeros(round(seconds * sample_rate), dtype=np.float32)
