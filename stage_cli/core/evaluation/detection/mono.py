"""Audio as the detectors take it."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.audio_chunks import resample


def mono(audio: np.ndarray, sample_rate: int, target_rate: int | None = None) -> np.ndarray:
    """Check audio, `[samples]` within any level, and return it in float32, at another rate if one is given (Hz).

    Raises:
        ValueError: it is not one-dimensional, holds NaN or infinity, or its rate is not above 0.
    """
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"audio must be mono, [samples], not {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("audio must be finite")
    if sample_rate <= 0:
        raise ValueError(f"the sample rate must be above 0 Hz, not {sample_rate}")
    if target_rate is None or target_rate == sample_rate or not len(samples):
        return samples
    return resample(samples, sample_rate, target_rate)
