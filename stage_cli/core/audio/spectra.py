"""Scales of pitch in mels, and the triangular filters that are laid out on them.

What differs from use to use stays there: which corners, on which axis, and what a filter's height, area or sum is.

The log-mel front end of MusiCNN and Discogs-EffNet, in numpy.

Equal to essentia's TensorflowInputMusiCNN within 1e-4, without its licence. Source: Pons and Serra, "musicnn",
ISMIR 2019 (frames, bands on Slaney's scale, compression).

Mel filters, in numpy, as the networks here were trained with them.

Mel spectrograms for pictures.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

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


RATE = 16_000
"""Hz of the audio."""

FRAME = 512
HOP = 256
BANDS = 96

_FRAMES_AT_ONCE = 4096


def mel_bands(audio: np.ndarray) -> np.ndarray:
    """Return log10(1 + 10000 · power) of 96 mel bands: `[frames, 96]` float32.

    Frame f is centred on sample 256 · f; the audio is padded with zeros on both sides.

    Args:
        audio: `[samples]` at 16 kHz.
    """
    import scipy.fft

    count = -(-len(audio) // HOP) + 1
    padded = np.zeros((count - 1) * HOP + FRAME, dtype=np.float32)
    padded[FRAME // 2 :][: len(audio)] = audio[: len(padded) - FRAME // 2]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    bands = np.empty((len(frames), BANDS), dtype=np.float32)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        spectra = np.abs(scipy.fft.rfft(frames[first : first + _FRAMES_AT_ONCE] * window, axis=1))
        bands[first : first + len(spectra)] = (spectra**2) @ filters()
    return np.log10(1 + 10_000 * bands)


@functools.cache
def filters() -> np.ndarray:
    """Return the triangular filters `[FRAME // 2 + 1, BANDS]`, float32, each of area 1 over its frequencies in Hz."""
    corners = slaney_hertz(np.linspace(*slaney_mels(np.array([0, RATE / 2])), BANDS + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    shapes = triangles(np.fft.rfftfreq(FRAME, 1 / RATE), low, centre, high)
    return (shapes * (2 / (high - low))).astype(np.float32)


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
