"""Mel filters, in numpy, as the networks here were trained with them."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

MelScale = Literal["slaney", "htk"]

_LINEAR_HZ = 200 / 3  # Slaney's scale: Hz a mel, up to 1 kHz …
_CORNER_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27  # … and of the logarithm of the frequency a mel, above


def frames(audio: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Return the whole overlapping frames of audio `[samples]`, `[frames, length]`, as a view."""
    return np.lib.stride_tricks.sliding_window_view(audio, length)[::hop]


def hann(length: int) -> np.ndarray:
    """Return the periodic Hann window, `[length]`."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@functools.cache
def mel_filters(*, sample_rate: int, fft: int, bands: int, low: float, high: float, scale: MelScale) -> np.ndarray:
    """Return triangular filters, `[fft // 2 + 1, bands]`.

    `slaney` (librosa's default): triangles in Hz on Slaney's mel scale, each of area 1. `htk` (VGGish): triangles in
    mels on HTK's scale, each of height 1, and nothing at 0 Hz.

    Args:
        sample_rate: Hz.
        fft: length of the Fourier transform.
        bands: filters.
        low: Hz, where the first begins.
        high: Hz, where the last ends.
        scale: see above.
    """
    hertz = np.fft.rfftfreq(fft, 1 / sample_rate)
    if scale == "htk":
        axis, ends = _htk_mels(hertz), _htk_mels(np.array([low, high]))
        corners = np.linspace(ends[0], ends[1], bands + 2)
    else:
        ends = _slaney_mels(np.array([low, high]))
        axis, corners = hertz, _slaney_hertz(np.linspace(ends[0], ends[1], bands + 2))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (axis[:, None] - left) / (centre - left), (right - axis[:, None]) / (right - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    if scale == "slaney":
        return triangles * (2 / (right - left))
    triangles[0] = 0
    return triangles


def _htk_mels(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log(1 + hertz / 700.0)


def _slaney_mels(hertz: np.ndarray) -> np.ndarray:
    above = _CORNER_HZ / _LINEAR_HZ + np.log(np.maximum(hertz, _CORNER_HZ) / _CORNER_HZ) / _LOG_STEP
    return np.where(hertz < _CORNER_HZ, hertz / _LINEAR_HZ, above)


def _slaney_hertz(mels: np.ndarray) -> np.ndarray:
    corner = _CORNER_HZ / _LINEAR_HZ
    above = _CORNER_HZ * np.exp((np.maximum(mels, corner) - corner) * _LOG_STEP)
    return np.where(mels < corner, mels * _LINEAR_HZ, above)
