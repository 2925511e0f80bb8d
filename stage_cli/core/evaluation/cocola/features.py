"""What COCOLA hears: the mel spectra of the harmonic and of the percussive part of 5 s, side by side as two channels.

16 kHz mono. Spectra: frames of 1024 samples every 160, centred on samples 0, 160 … with silence around, under a
periodic Hann window of 400. Parts: medians over 31 frames (harmonic) and over 31 frequencies (percussive), mirrored at
the edges; each bin is shared in proportion to their squares (Fitzgerald, DAFx 2010; librosa's defaults). Powers of both
go through 64 Slaney mel bands from 60 to 7800 Hz, into dB below the loudest band of that part, 80 dB deep. So each
channel is between −80 and 0, and loudness does not count.

The numbers are those of the published code (github.com/gladia-research-group/cocola), which calls librosa 0.10.
"""

from __future__ import annotations

import numpy as np

from stage_cli.core.evaluation.embeddings.spectra import frames, hann, mel_filters

RATE = 16_000
SECONDS = 5.0
SAMPLES = round(SECONDS * RATE)
"""Samples of a window."""

HOP = 160
BANDS = 64
FRAMES = SAMPLES // HOP + 1
"""Frames of a window: 501."""

_FFT = 1024
_WINDOW = 400
_MEDIAN = 31
_FLOOR = 1e-10
_DEPTH = 80.0  # dB


def features(window: np.ndarray) -> np.ndarray:
    """Return the features of audio `[samples]` at 16 kHz: `[2, 64, 1 + samples // 160]` float32, harmonic first.

    Silence gives zeros.
    """
    spectrum = magnitudes(window)
    filters = mel_filters(sample_rate=RATE, fft=_FFT, bands=BANDS, low=60.0, high=7800.0, scale="slaney")
    return np.stack([_decibels(filters.T @ np.square(part)) for part in separate(spectrum)]).astype(np.float32)


def magnitudes(window: np.ndarray) -> np.ndarray:
    """Return the magnitudes of the spectra of audio `[samples]`: `[513, frames]` float64."""
    shape = np.zeros(_FFT)
    shape[(_FFT - _WINDOW) // 2 :][:_WINDOW] = hann(_WINDOW)
    audio = np.pad(np.asarray(window, dtype=np.float64), _FFT // 2)
    return np.abs(np.fft.rfft(frames(audio, _FFT, HOP) * shape)).T


def separate(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split magnitudes `[frequencies, frames]` into a harmonic and a percussive part of the same shape."""
    harmonic, percussive = _medians(spectrum) ** 2, _medians(spectrum.T).T ** 2
    both = harmonic + percussive
    share = np.divide(harmonic, both, out=np.full_like(both, 0.5), where=both > 0)
    return spectrum * share, spectrum * (1 - share)


def _medians(table: np.ndarray) -> np.ndarray:
    """Return the running medians along the rows. One long row: scipy's filter is ten times as fast on one dimension."""
    from scipy.ndimage import median_filter

    edge = _MEDIAN // 2
    mirrored = np.pad(table, ((0, 0), (edge, edge)), mode="symmetric")
    return median_filter(mirrored.ravel(), size=_MEDIAN).reshape(mirrored.shape)[:, edge:-edge]


def _decibels(powers: np.ndarray) -> np.ndarray:
    levels = 10 * np.log10(np.maximum(powers, _FLOOR))
    return np.maximum(levels - levels.max(), -_DEPTH)
