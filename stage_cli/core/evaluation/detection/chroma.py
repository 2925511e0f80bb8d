"""Chroma of one stem: how much of each pitch class sounds, ten times a second.

Peaks of the spectrum, their frequencies interpolated (a bin is 3 Hz wide, a semitone of a low bass 2.5 Hz), each shared
between the two pitch classes that it lies between. An A4 of 440 Hz is taken for granted. Overtones count as what they
are: the fifth of a loud note is there, in both of the stems that are compared.
"""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.features.levels import ACTIVE_PEAK
from stage_cli.core.evaluation.detection.mono import mono

CHROMA_RATE = 12_000
"""Hz at which stems are analysed."""

CHROMA_HOP = 1200
"""Samples from one frame to the next: 0.1 s."""

WINDOW = 4096
"""Samples of a frame: 0.34 s."""

PITCH_CLASSES = 12

_CHROMA_LOWEST, _CHROMA_HIGHEST = 38.0, 2000.0  # Hz
_FLOOR = 10 ** (-50 / 20)  # of the strongest peak of a frame: below it, peaks are side lobes and noise


def chroma(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the pitch classes of a stem, `[frames, 12]` from C, unit vectors; all 0 where a frame is silent.

    Frame f is centred on f · 0.1 s. A frame is silent whose peak is below −40 dBFS.

    Args:
        audio: `[samples]`.
        sample_rate: Hz.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    import scipy.fft

    samples = mono(audio, sample_rate, CHROMA_RATE)
    padded = np.pad(samples, (WINDOW // 2, WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::CHROMA_HOP]
    magnitudes = np.abs(scipy.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1))
    magnitudes[np.abs(frames).max(axis=1) < ACTIVE_PEAK] = 0
    first, last = (round(hertz * WINDOW / CHROMA_RATE) for hertz in (_CHROMA_LOWEST, _CHROMA_HIGHEST))
    left, middle, right = (magnitudes[:, first + shift : last + shift] for shift in (-1, 0, 1))
    strongest = middle.max(axis=1, keepdims=True)
    rows, bins = np.nonzero((middle > left) & (middle >= right) & (middle > _FLOOR * strongest))
    # A parabola through the logarithms of three bins is exact for a Gaussian window, and near enough for Hann's.
    low, here, high = (np.log(part[rows, bins] + 1e-12) for part in (left, middle, right))
    offsets = 0.5 * (low - high) / (low - 2 * here + high)
    pitches = 69 + 12 * np.log2((first + bins + offsets) * CHROMA_RATE / WINDOW / 440)
    below = np.floor(pitches).astype(np.int64)
    share = pitches - below
    table = np.zeros((len(frames), PITCH_CLASSES))
    for classes, parts in ((below, 1 - share), (below + 1, share)):
        np.add.at(table, (rows, classes % PITCH_CLASSES), parts * middle[rows, bins])
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    return np.divide(table, lengths, out=np.zeros_like(table), where=lengths > 0)
