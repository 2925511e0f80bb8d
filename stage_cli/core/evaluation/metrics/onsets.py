"""Onsets of a stem against the time grid of its context: onset F.

- Grid: the 8th notes of the context, that is its beats and the points midway between them, carried on to both ends of
  the clip at the tempo of the first and the last beats. Straight 8ths are meant: swung 8ths, triplets and 16ths lie
  beside the grid, so a true stem is not at 1. Compare with the true stem, not with 1. Where a beat is a dotted quarter
  (6/8) the points midway are no 8ths, and precision is low for the true stem too.
- Precision: share of the stem's onsets within ±30 ms of the grid; nan for a stem without onsets.
- Recall: share of the context's beats within ±50 ms of which the stem has an onset.
- Onset F: their harmonic mean; 0 for a stem without onsets, and where both are 0.

All are 0 to 1, and nan where there is no grid: fewer than two beats. A limit holds for times that lie exactly on it.
Chance is not 0: at 120 bpm the grid takes 24 % of all times, and onsets at random reach 0.24 (three a second) to 0.31
(six). A stem that is late by a constant 0.1 s may well be below that.
"""

from __future__ import annotations

import math

import numpy as np

from stage_cli.core.evaluation.metrics.times import Times, rising_times

GRID_TOLERANCE = 0.03
"""Seconds, of precision."""

BEATS_PLAYED_TOLERANCE = 0.05
"""Seconds, of recall."""

_ROUNDING = 1e-9


def eighth_grid(beats: Times, seconds: float) -> np.ndarray:
    """Return the 8th notes of a clip, `[times]` in seconds from 0 to its end; none for fewer than two beats.

    Args:
        beats: seconds.
        seconds: length of the clip.

    Raises:
        ValueError: beats are negative or not finite, or do not rise, or the length is not above 0.
    """
    times = rising_times(beats, "beats")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a clip's length must be above 0 seconds, not {seconds}")
    if len(times) < 2:
        return np.zeros(0)
    opening, closing = (times[1] - times[0]) / 2, (times[-1] - times[-2]) / 2
    before = times[0] - opening * np.arange(math.floor(times[0] / opening + _ROUNDING), 0, -1)
    steps = max(0, math.floor((seconds - times[-1]) / closing + _ROUNDING))
    after = times[-1] + closing * np.arange(1, steps + 1)
    inside = np.interp(np.arange(2 * len(times) - 1) / 2, np.arange(len(times)), times)
    grid = np.concatenate((before, inside, after))
    return np.clip(grid[grid <= seconds + _ROUNDING], 0, seconds)


def onset_precision(onsets: Times, grid: Times) -> float:
    """Return the share of onsets within ±30 ms of a grid; nan without onsets or grid.

    Args:
        onsets: of the stem, seconds.
        grid: of the context, from `eighth_grid`.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    heard, times = rising_times(onsets, "onsets"), rising_times(grid, "the grid")
    return _share_near(heard, times, GRID_TOLERANCE) if len(heard) and len(times) else math.nan


def onset_recall(onsets: Times, beats: Times) -> float:
    """Return the share of beats within ±50 ms of which there is an onset; nan for fewer than two beats.

    Args:
        onsets: of the stem, seconds.
        beats: of the context.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    heard, times = rising_times(onsets, "onsets"), rising_times(beats, "beats")
    return _share_near(times, heard, BEATS_PLAYED_TOLERANCE) if len(times) > 1 else math.nan


def onset_f(onsets: Times, beats: Times, seconds: float) -> float:
    """Return onset F of a clip; nan for fewer than two beats.

    Args:
        onsets: of the stem, seconds.
        beats: of the context.
        seconds: length of the clip.

    Raises:
        ValueError: times are negative or not finite, or do not rise, or the length is not above 0.
    """
    grid = eighth_grid(beats, seconds)
    recall = onset_recall(onsets, beats)
    if not len(grid):
        return math.nan
    precision = onset_precision(onsets, grid)
    if math.isnan(precision) or precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _share_near(times: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """Return the share of times that have one of the others within a tolerance."""
    if not len(others):
        return 0.0
    after = np.searchsorted(others, times)
    distances = np.minimum(
        np.abs(times - others[np.maximum(after - 1, 0)]), np.abs(times - others[np.minimum(after, len(others) - 1)])
    )
    return float((distances <= tolerance + _ROUNDING).mean())
