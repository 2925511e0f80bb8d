"""Mel filters, in numpy, as the networks here were trained with them."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from stage_cli.core.audio.mel import slaney_hertz, slaney_mels, triangles

MelScale = Literal["slaney", "htk"]


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
        axis, ends = _vggish_mels(hertz), _vggish_mels(np.array([low, high]))
        corners = np.linspace(ends[0], ends[1], bands + 2)
    else:
        ends = slaney_mels(np.array([low, high]))
        axis, corners = hertz, slaney_hertz(np.linspace(ends[0], ends[1], bands + 2))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    filters = triangles(axis, left, centre, right)
    if scale == "slaney":
        return filters * (2 / (right - left))
    filters[0] = 0
    return filters


def _vggish_mels(hertz: np.ndarray) -> np.ndarray:
    # HTK's scale but for a factor of 1.00001, which the triangles do not see: but written as VGGish was trained with
    # it, they are the same to the last bit.
    return 1127.0 * np.log(1 + hertz / 700.0)
