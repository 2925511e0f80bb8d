"""The log-mel front end of MusiCNN and Discogs-EffNet, in numpy.

Equal to essentia's TensorflowInputMusiCNN within 1e-4, without its licence. Source: Pons and Serra, "musicnn",
ISMIR 2019 (frames, bands on Slaney's scale, compression).
"""

from __future__ import annotations

import functools

import numpy as np

from stage_cli.core.audio.mel import slaney_hertz, slaney_mels, triangles

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
