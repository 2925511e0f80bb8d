"""Onsets of one stem: when notes and strokes begin.

Log-compressed spectral flux over quarter-tone bands with a maximum filter, so that vibrato is no onset (Böck and
Widmer, "Maximum filter vibrato suppression for onset detection", DAFx 2013), seen through two windows. The long one (70
ms) decides what is an onset: it holds two periods of the lowest bass, whose periods a shorter one would count as
onsets. The short one (23 ms) tells when: the hop of 5 ms at which its flux is highest.

Measured on 10 s clips of 40 songs of `stage demo-data` that no setting was chosen on, against the composer's notes
within ±30 ms (notes less than 25 ms apart count as one, the quietest ghost notes count too): precision 0.995 and recall
0.975 for drums, 0.96 and 0.99 for basses; over 99 % of the drums' times are within 10 ms of the notes, and 96 % of the
basses'. On the same clips essentia's OnsetRate has 0.99 and 0.95, 0.92 and 0.98, is 8 to 10 ms early, and has half of
the times within 10 ms; that is why it is not used here.
"""

from __future__ import annotations

import functools

import numpy as np

from stage_cli.core.data.features.levels import ACTIVE_PEAK
from stage_cli.core.evaluation.detection.mono import mono

ONSET_RATE = 22_050
"""Hz at which stems are analysed, whatever their own rate: all systems are heard alike."""

ONSET_HOP = 110
"""Samples from one flux value to the next: 5 ms."""

_LONG, _SHORT = 1536, 512  # samples of the windows
_ONSET_LOWEST, _ONSET_HIGHEST = 30.0, 10_000.0  # Hz
_BANDS_PER_OCTAVE = 24
_COMPRESSION = 2000.0  # magnitudes 66 dB below a full-scale sine count as much as silence
_LAG = 2  # hops between the spectra that are compared
_THRESHOLD = 0.01  # above the mean flux of the neighbourhood
_NEIGHBOURHOOD = 20  # hops (0.1 s) on either side
_APART = 6  # hops (30 ms) between two onsets
_BEFORE, _AFTER = 3, 8  # hops around a peak of the long window in which the short one's lies
_LEAD = 10  # hops of silence put before the audio, so that an onset may be its first sample
_EDGE = 0.01  # seconds of the beginning in which an onset may be but the cut
_RISE, _FALL = 10 ** (10 / 20), 10 ** (20 / 20)


def find_onsets(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the onsets of a stem in seconds, rising, at least 25 ms apart: `[onsets]`; none where it is silent.

    A sound that rings on from before a clip's beginning is no onset; one in its first 10 ms is, where the sound rises
    there or is over at once.

    Args:
        audio: `[samples]`; loudness does not matter, as long as the peak is not below −40 dBFS.
        sample_rate: Hz.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    import scipy.ndimage

    samples = mono(audio, sample_rate, ONSET_RATE)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < ACTIVE_PEAK:
        return np.zeros(0)
    samples = samples / np.float32(peak)
    coarse, fine = _flux(samples, _LONG), _flux(samples, _SHORT)
    usual = scipy.ndimage.uniform_filter1d(coarse, 2 * _NEIGHBOURHOOD + 1, mode="nearest")
    highest = scipy.ndimage.maximum_filter1d(coarse, 2 * _APART + 1)
    peaks = np.flatnonzero((coarse == highest) & (coarse >= usual + _THRESHOLD))
    around = np.clip(peaks[:, None] + np.arange(-_BEFORE, _AFTER + 1), 0, len(fine) - 1)
    hops = np.unique(around[np.arange(len(peaks)), fine[around].argmax(axis=1)])
    hops = hops[np.diff(hops, prepend=-_APART) >= _APART - 1]
    times = np.maximum(hops - _LEAD, 0) * ONSET_HOP / ONSET_RATE
    return times if _begins_with_onset(samples) else times[times > _EDGE]


def _flux(samples: np.ndarray, window: int) -> np.ndarray:
    """Return how much louder the bands have become on average: `[hops]`, not negative.

    Hop h is centred on sample (h − `_LEAD`) · `HOP`.
    """
    import scipy.fft
    import scipy.ndimage

    padded = np.pad(samples, (window // 2 + _LEAD * ONSET_HOP, window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::ONSET_HOP]
    hann = np.hanning(window).astype(np.float32)
    magnitudes = np.abs(scipy.fft.rfft(frames * hann, axis=1)) * np.float32(2 / hann.sum())
    levels = np.log10(1 + _COMPRESSION * (magnitudes @ _filterbank(window)))
    before = scipy.ndimage.maximum_filter1d(levels, 3, axis=1)
    rises = np.zeros(len(levels))
    rises[_LAG:] = np.maximum(levels[_LAG:] - before[:-_LAG], 0).mean(axis=1)
    return rises


@functools.lru_cache(maxsize=2)
def _filterbank(window: int) -> np.ndarray:
    """Return triangular bands, `[bins, bands]`, each of sum 1; at the low end one bin wide at least."""
    steps = np.arange(int(np.log2(_ONSET_HIGHEST / _ONSET_LOWEST) * _BANDS_PER_OCTAVE) + 1)
    corners = np.unique(np.rint(_ONSET_LOWEST * 2 ** (steps / _BANDS_PER_OCTAVE) * window / ONSET_RATE))
    low, centre, high = (corners[first : len(corners) - 2 + first] for first in range(3))
    bins = np.arange(window // 2 + 1)[:, None]
    bands = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return (bands / bands.sum(axis=0)).astype(np.float32)


def _begins_with_onset(samples: np.ndarray) -> bool:
    """Return whether the first sound of a clip begins with it."""

    def level(start: float, end: float) -> float:
        return float(np.sqrt(np.square(samples[round(start * ONSET_RATE) : round(end * ONSET_RATE)]).mean()))

    if len(samples) < 0.12 * ONSET_RATE:
        return True
    opening = level(0, 0.03)
    return opening >= _RISE * level(0, 0.002) or opening >= _FALL * level(0.06, 0.12)
