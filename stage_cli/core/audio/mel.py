"""Scales of pitch in mels, and the triangular filters that are laid out on them.

What differs from use to use stays there: which corners, on which axis, and what a filter's height, area or sum is.
"""

from __future__ import annotations

import numpy as np

_MELS_A_DECADE, _KNEE_HZ = 2595.0, 700.0  # HTK's scale: logarithmic far above the knee, linear far below
_LINEAR_HZ = 200 / 3  # Slaney's scale: Hz a mel, up to 1 kHz …
_CORNER_HZ = 1000.0
_CORNER_MELS = _CORNER_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27  # … and of the logarithm of the frequency a mel, above


def htk_mels(hertz: np.ndarray) -> np.ndarray:
    """Return frequencies in mels, 2595 · log10(1 + f / 700).

    Source: D. O'Shaughnessy, "Speech communication", 1987; the scale of the HTK toolkit.
    """
    return _MELS_A_DECADE * np.log10(1 + hertz / _KNEE_HZ)


def htk_hertz(mels: np.ndarray) -> np.ndarray:
    """Return frequencies in Hz, the inverse of `htk_mels`."""
    return _KNEE_HZ * (10 ** (mels / _MELS_A_DECADE) - 1)


def slaney_mels(hertz: np.ndarray) -> np.ndarray:
    """Return frequencies in mels: linear to 1 kHz, which is 15 mels, and logarithmic above.

    Source: M. Slaney, "Auditory toolbox", 1998; the default of librosa.
    """
    above = _CORNER_MELS + np.log(np.maximum(hertz, _CORNER_HZ) / _CORNER_HZ) / _LOG_STEP
    return np.where(hertz < _CORNER_HZ, hertz / _LINEAR_HZ, above)


def slaney_hertz(mels: np.ndarray) -> np.ndarray:
    """Return frequencies in Hz, the inverse of `slaney_mels`."""
    above = _CORNER_HZ * np.exp((np.maximum(mels, _CORNER_MELS) - _CORNER_MELS) * _LOG_STEP)
    return np.where(mels < _CORNER_MELS, mels * _LINEAR_HZ, above)


def triangles(axis: np.ndarray, low: np.ndarray, centre: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return triangles of height 1, `[points, bands]`.

    Args:
        axis: `[points]`, where they are sampled; in Hz or mels, as the corners are.
        low: `[bands]`, where each begins.
        centre: `[bands]`, where each is 1; above `low`.
        high: `[bands]`, where each ends; above `centre`.
    """
    rising, falling = (axis[:, None] - low) / (centre - low), (high - axis[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))
