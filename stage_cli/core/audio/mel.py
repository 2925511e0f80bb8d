"""Scales of pitch in mels, and the triangular filters that are laid out on them.

What differs from use to use stays there: which corners, on which axis, and what a filter's height, area or sum is.
"""

from __future__ import annotations

import math

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


def semitones(size: int, sample_rate: int, notes: range) -> np.ndarray:
    """Return triangular filters around MIDI notes, float32 `[size / 2 + 1, notes]`, each with sum 1.

    Equal temperament, A4 is 440 Hz. A filter reaches to the notes beside its own, and at least one bin to each side.

    Args:
        size: samples of the window whose spectrum is filtered.
        sample_rate: Hz.
        notes: MIDI numbers, one after the other.

    Raises:
        ValueError: one of them lies above half the sample rate.
    """
    hertz = 440 * 2 ** ((np.arange(notes.start - 1, notes.stop + 1) - 69) / 12)
    width = sample_rate / size
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    if centre[-1] >= sample_rate / 2:
        raise ValueError(f"{sample_rate} Hz hold no note of {centre[-1]:.0f} Hz")
    low, high = np.minimum(low, centre - width), np.maximum(high, centre + width)
    filters = triangles(np.fft.rfftfreq(size, 1 / sample_rate), low, centre, high)
    return (filters / filters.sum(axis=0)).astype(np.float32)


def notes_below(hertz: float, notes: range) -> range:
    """Return those of some MIDI notes that lie below a frequency."""
    return range(notes.start, min(notes.stop, math.ceil(69 + 12 * math.log2(hertz / 440))))


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
