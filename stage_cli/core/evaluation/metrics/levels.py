"""Levels of a stem: loudness, its difference from the true stem, silence and clipping.

- Loudness: integrated, LUFS, ITU-R BS.1770-4 (`core.loudness`); nan for what is silent or shorter than 0.4 s.
- Loudness difference: absolute, in LU (dB), to the true stem; nan where one of them has no loudness.
- Silent: 1 for a stem whose peak is below 0.01 (−40 dBFS), the limit below which training takes a chunk as silent
  (docs/model.md); else 0.
- Clipped: share of the samples that stand at full scale, 0.9999 or more.
"""

from __future__ import annotations

import math

import numpy as np

from stage_cli.core.data.features.levels import ACTIVE_PEAK
from stage_cli.core.loudness import LoudnessMeter

FULL_SCALE = 0.9999
"""Just below the highest sample of 16-bit audio."""


def loudness(audio: np.ndarray, sample_rate: int) -> float:
    """Return the integrated loudness in LUFS; nan for what is silent or shorter than 0.4 s.

    Args:
        audio: `[samples]`.
        sample_rate: Hz.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    meter = LoudnessMeter(sample_rate, 1)
    meter.push(_mono(audio))
    return meter.integrated if math.isfinite(meter.integrated) else math.nan


def loudness_difference(loudness: float, reference: float) -> float:
    """Return how far two loudnesses (LUFS) are apart, in LU, not negative; nan where one is nan."""
    return abs(loudness - reference)


def silent(audio: np.ndarray) -> float:
    """Return 1 where the peak of `[samples]` is below −40 dBFS, else 0.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    return float(np.abs(_mono(audio)).max(initial=0.0) < ACTIVE_PEAK)


def clipped(audio: np.ndarray) -> float:
    """Return the share of `[samples]` that stand at full scale; nan for no samples.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    levels = np.abs(_mono(audio))
    return float((levels >= FULL_SCALE).mean()) if len(levels) else math.nan


def _mono(audio: np.ndarray) -> np.ndarray:
    if audio.ndim != 1:
        raise ValueError(f"audio must be mono, [samples], not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise ValueError("audio must be finite")
    return audio
