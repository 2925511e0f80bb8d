"""How loud a stem is, and for how long it can be heard."""

from __future__ import annotations

import math

import numpy as np

from stage_cli.core.loudness import LoudnessMeter

ACTIVE_PEAK = 0.01
"""A hop with this peak (−40 dBFS) or more can be heard; the training data's limit of silence (docs/model.md)."""


class StemLevels:
    """Measure a stem as a stream of blocks.

    Args:
        sample_rate: Hz.
        channels: of every block.
        hop: frames in which one peak decides; every block but the last holds a whole number of hops.
    """

    def __init__(self, sample_rate: int, channels: int, hop: int) -> None:
        self._sample_rate = sample_rate
        self._hop = hop
        self._meter = LoudnessMeter(sample_rate, channels)
        self._active_frames = 0

    def push(self, block: np.ndarray) -> None:
        """Take the next block, `[frames, channels]`."""
        self._meter.push(block)
        levels = np.abs(block)
        whole = len(levels) - len(levels) % self._hop
        # All channels of a hop in one row: numpy is slow along rows of two.
        peaks = levels[:whole].reshape(-1, self._hop * block.shape[1]).max(axis=1)
        self._active_frames += self._hop * int((peaks >= ACTIVE_PEAK).sum())
        if whole < len(levels) and levels[whole:].max() >= ACTIVE_PEAK:
            self._active_frames += len(levels) - whole

    @property
    def active(self) -> float:
        """Seconds in which the stem can be heard."""
        return self._active_frames / self._sample_rate

    @property
    def loudness(self) -> float | None:
        """Integrated loudness in LUFS; None if it is silent."""
        loudness = self._meter.integrated
        return loudness if math.isfinite(loudness) else None
