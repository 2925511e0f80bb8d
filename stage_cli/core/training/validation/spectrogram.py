"""Mel spectrograms for pictures."""

from __future__ import annotations

import numpy as np

from stage_cli.core.audio.mel import htk_hertz, htk_mels, triangles

WINDOW_SECONDS = 0.064
HOP_SECONDS = 0.01
PICTURE_BANDS = 96
LOWEST_HZ = 30.0

_PICTURE_FRAMES = 2048


def mel_power(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the power in mel bands: `[frames, BANDS]` float32, frame f centred on `HOP_SECONDS` · f seconds.

    Hann windows; triangular filters with a peak of 1 from `LOWEST_HZ` to half the sample rate.

    Args:
        audio: `[samples]`, mono.
        sample_rate: Hz.
    """
    import scipy.fft

    hop = max(1, round(HOP_SECONDS * sample_rate))
    window = 2 * round(WINDOW_SECONDS * sample_rate / 2)
    padded = np.pad(audio.astype(np.float32), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    # The periodic Hann window: its first sample is zero, its last is not.
    shape = np.hanning(window + 1)[:-1].astype(np.float32)
    bands = np.empty((len(frames), PICTURE_BANDS), dtype=np.float32)
    filters = picture_filters(window, sample_rate)
    for first in range(0, len(frames), _PICTURE_FRAMES):
        spectra = np.abs(scipy.fft.rfft(frames[first : first + _PICTURE_FRAMES] * shape, axis=1))
        bands[first : first + len(spectra)] = (spectra**2) @ filters
    return bands


def picture_filters(window: int, sample_rate: int) -> np.ndarray:
    """Return the triangles `[window // 2 + 1, BANDS]`, float32."""
    corners = band_corners(sample_rate)
    frequencies = np.fft.rfftfreq(window, 1 / sample_rate)
    return triangles(frequencies, corners[:-2], corners[1:-1], corners[2:]).astype(np.float32)


def band_corners(sample_rate: int) -> np.ndarray:
    """Return the corners of the triangles in Hz, `[BANDS + 2]`: band b rises from b, peaks at b + 1, ends at b + 2.

    They are evenly spaced on HTK's scale.
    """
    ends = htk_mels(np.array([LOWEST_HZ, sample_rate / 2]))
    return htk_hertz(np.linspace(*ends, PICTURE_BANDS + 2))
