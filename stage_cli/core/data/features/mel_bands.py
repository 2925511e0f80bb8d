"""The log-mel front end of MusiCNN and Discogs-EffNet, in numpy.

Equal to essentia's TensorflowInputMusiCNN within 1e-4, without its licence. Source of the filters: M. Slaney,
"Auditory toolbox", 1998 (mel scale: linear to 1 kHz, logarithmic above); Pons and Serra, "musicnn", ISMIR 2019
(frames, bands, compression).
"""

from __future__ import annotations

import functools

import numpy as np

RATE = 16_000
"""Hz of the audio."""

FRAME = 512
HOP = 256
BANDS = 96

_LINEAR_HZ = 200 / 3  # Hz a mel, up to 1 kHz
_CORNER_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27  # of the logarithm of the frequency a mel, above
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
    corners = _hertz(np.linspace(_mel(0.0), _mel(RATE / 2), BANDS + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.fft.rfftfreq(FRAME, 1 / RATE)[:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (high - low))).astype(np.float32)


def _mel(hertz: float) -> float:
    if hertz < _CORNER_HZ:
        return hertz / _LINEAR_HZ
    return _CORNER_HZ / _LINEAR_HZ + float(np.log(hertz / _CORNER_HZ)) / _LOG_STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    corner = _CORNER_HZ / _LINEAR_HZ
    return np.where(mels < corner, mels * _LINEAR_HZ, _CORNER_HZ * np.exp((mels - corner) * _LOG_STEP))
