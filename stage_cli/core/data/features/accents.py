"""Accents of a piece of music at given times: onsets of drums, bass and chords, and changes of harmony."""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

RATE = 44_100
"""Hz that every analysis of a song expects."""

HOP = 512
"""Frames of audio from one onset value to the next."""

_WINDOW = 2048
_FRAMES_AT_ONCE = 4096  # spectra held in memory: 17 MB
_LOW_TOP, _MIDDLE_TOP = 150.0, 2500.0  # Hz: kick and bass; snare and chords; above: hats and cymbals
_REACH = 3  # hops (35 ms) around a time in which its onset may lie
_HARMONY_RATE = 6300  # Hz: enough for chords, and a seventh of the work
_CHORDS, _BASS = (200.0, 2000.0), (40.0, 200.0)  # Hz
_SPAN = 2  # beats on either side between which harmony is compared


ACCENTS: tuple[str, ...] = ("kick", "snare", "hat", "bass", "strum", "chord_change", "bass_change")
"""What could mark a beat or a downbeat: onsets of drums and percussion below 150 Hz, up to 2.5 kHz, and above; onsets
of pitched instruments below 150 Hz, and up to 2.5 kHz; how much the pitches of the chords, and of the bass, from here
on differ from those of the two beats before (0 to 1)."""


class AccentTrack:
    """The accents of a song, to be asked for at any times.

    Args:
        harmonic: pitched instruments, `[frames]` float32 at `RATE`.
        percussive: drums and percussion, as long.
    """

    def __init__(self, harmonic: np.ndarray, percussive: np.ndarray) -> None:
        import soxr

        self._harmonic = onset_strength(harmonic)
        self._percussive = onset_strength(percussive)
        self._low = soxr.resample(harmonic, RATE, _HARMONY_RATE, quality="HQ")

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the accents at beats, or times between them, in seconds, at least two, rising: `[times, ACCENTS]`."""
        chords, bass = self._chroma(times)
        return np.column_stack((self.onsets_at(times), _change(chords), _change(bass)))

    def onsets_at(self, times: np.ndarray) -> np.ndarray:
        """Return the first five accents, those that need no beats, at any times in seconds: `[times, 5]`."""
        return np.column_stack((strength_at(self._percussive, times), strength_at(self._harmonic, times)[:, :2]))

    def _chroma(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pitch classes of chords and bass from each time to the next: unit vectors `[times, 12]`, or 0."""
        import scipy.fft

        edges = np.rint(np.append(times, 2 * times[-1] - times[-2]) * _HARMONY_RATE).astype(np.int64)
        chroma = np.zeros((2, len(times), 12))
        for index, (start, end) in enumerate(pairwise(edges)):
            segment = self._low[max(0, start) : end]
            if len(segment) < _HARMONY_RATE // 50:
                continue
            # Segments are of unequal length: padded, their transforms share the frequencies of a power of two.
            size = 1 << (len(segment) - 1).bit_length()
            spectrum = np.abs(scipy.fft.rfft(segment * _hann(len(segment)), size))
            for part, (lowest, highest) in enumerate((_CHORDS, _BASS)):
                bins, pitches = _pitch_classes(size, lowest, highest)
                chroma[part, index] = np.bincount(pitches, spectrum[bins], minlength=12)
        lengths = np.linalg.norm(chroma, axis=2, keepdims=True)
        chords, bass = np.divide(chroma, lengths, out=np.zeros_like(chroma), where=lengths > 0)
        return chords, bass


def onset_strength(audio: np.ndarray) -> np.ndarray:
    """Return how much louder each band has become: `[hops, 3]`, low, middle and high, not negative.

    Log-compressed spectral flux (Böck and Widmer, "Maximum filter vibrato suppression for onset detection", DAFx
    2013, section 2.1). Hop h is centred on frame h · `HOP`.

    Args:
        audio: `[frames]` at `RATE`.
    """
    import scipy.fft

    window = _hann(_WINDOW)
    padded = np.pad(audio, (_WINDOW // 2, _WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    edges = np.searchsorted(np.fft.rfftfreq(_WINDOW, 1 / RATE), (0, _LOW_TOP, _MIDDLE_TOP))
    strength = np.zeros((len(frames), 3), dtype=np.float32)
    before = np.zeros((1, _WINDOW // 2 + 1), dtype=np.float32)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        spectra = np.log1p(np.abs(scipy.fft.rfft(frames[first : first + _FRAMES_AT_ONCE] * window, axis=1)))
        rises = np.maximum(np.diff(spectra, axis=0, prepend=before), 0)
        strength[first : first + len(spectra)] = np.add.reduceat(rises, edges, axis=1)
        before = spectra[-1:]
    return strength


def strength_at(strength: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the strongest onset within 35 ms of each time (seconds): `[times, bands]`."""
    hops = np.rint(times * RATE / HOP).astype(np.int64)
    around = np.clip(hops[:, None] + np.arange(-_REACH, _REACH + 1), 0, len(strength) - 1)
    return strength[around].max(axis=1)


def _change(chroma: np.ndarray) -> np.ndarray:
    """Return 1 − the cosine between the sums of the two beats before and the two from here on: `[beats]`."""
    sums = np.cumsum(np.concatenate((np.zeros((1, 12)), chroma)), axis=0)
    here = np.arange(len(chroma))
    before = sums[here] - sums[np.maximum(here - _SPAN, 0)]
    after = sums[np.minimum(here + _SPAN, len(chroma))] - sums[here]
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    similarity = np.divide((before * after).sum(axis=1), lengths, out=np.ones(len(chroma)), where=lengths > 1e-9)
    return 1 - similarity


@functools.lru_cache(maxsize=256)  # beats have few different lengths
def _hann(frames: int) -> np.ndarray:
    return np.hanning(frames).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _pitch_classes(size: int, lowest: float, highest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bins of a transform between two frequencies, and the pitch class (C = 0) of each."""
    bins = np.arange(max(1, int(lowest * size / _HARMONY_RATE)), int(highest * size / _HARMONY_RATE))
    pitches = 9 + 12 * np.log2(bins * _HARMONY_RATE / size / 440)
    return bins, np.rint(pitches).astype(np.int64) % 12
