"""Levels as the ears take them; no import of anything heavy, for training and writing share it."""

from __future__ import annotations

import numpy as np

from stage_cli.core.players.features import FLOOR_DB

LOWEST = -7.0
"""Tens of dB below the mean: what the ears hear of silence."""


def normalized(level: np.ndarray, reference: float) -> np.ndarray:
    """Return levels (dB) as the ears take them: tens of dB above a reference, −7 at least, float32."""
    return np.maximum((level - np.float32(reference)) / np.float32(10), np.float32(LOWEST)).astype(np.float32)


def mean_power(level: np.ndarray) -> float:
    """Return the mean over frames of the power of all bands, dB; the floor for silence."""
    power = float(np.exp(level * (np.log(10) / 10)).sum(axis=-1).mean())
    return 10 * float(np.log10(max(power, 10 ** (FLOOR_DB / 10))))
