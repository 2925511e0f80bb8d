"""Times of beats and onsets, as the music metrics take them: `[times]` in seconds, rising."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Times = Sequence[float] | np.ndarray


def rising_times(times: Times, name: str) -> np.ndarray:
    """Check times and return them in float64, `[times]`; there may be none.

    Raises:
        ValueError: they are no list of finite seconds from 0 on that rise.
    """
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.ndim != 1:
        raise ValueError(f"{name} must be a list of times, not of shape {list(seconds.shape)}")
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise ValueError(f"{name} must be finite and not negative")
    if (np.diff(seconds) <= 0).any():
        raise ValueError(f"{name} must rise")
    return seconds
