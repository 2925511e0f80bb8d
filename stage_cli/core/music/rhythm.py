"""What is known of the beats and the key of a piece of music.

Accents of a piece of music at given times: onsets of drums, bass and chords, and changes of harmony.

Which beats begin a bar: an accent model with a hidden bar position.

Put right what beat trackers get wrong: beats between the beats, half the tempo, and a constant delay.

The one place that imports essentia (AGPL-3.0, https://essentia.upf.edu), and librosa (ISC), which takes its place
where essentia has no wheels.

Beats and bars of a song from its audio.

Beats and downbeats by the neural tracker Beat This, an optional package.

Source: Foscarin, Schlüter and Widmer, "Beat This! Accurate beat tracking without DBN postprocessing", ISMIR 2024.

The key of a song from its audio.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.music import TRACKERS, default_tracker, is_installed, key_finder
from stage_cli.errors import StageError


@dataclass(frozen=True)
class Rhythm:
    """Beats of a song.

    Attributes:
        bpm: beats a minute (mean of the beat intervals, outliers left out), or None where no beat was found.
        confidence: of the beats, 0 to 1; 1 for annotations and where the tracker tells none.
        beats: seconds.
        downbeats: seconds; a subset of the beats.
        beats_per_bar: most common number, or None if unknown.
        bars_confidence: of downbeats and beats_per_bar, 0 to 1.
        source: "annotations", "essentia", "beat-this" or "librosa".
    """

    bpm: float | None
    confidence: float
    beats: tuple[float, ...]
    downbeats: tuple[float, ...]
    beats_per_bar: int | None
    bars_confidence: float
    source: str


@dataclass(frozen=True)
class Key:
    """Key of a song: tonic ("C", "F#", "Bb", …), scale ("major" or "minor"), strength 0 to 1, source."""

    tonic: str
    scale: str
    strength: float
    source: str


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


# Accents by position in the bar, by beats per bar: how far each is expected to lie from the mean of all, in their
# standard deviations. In four-four the third beat is the second strongest.
_ACCENTS: dict[int, tuple[float, ...]] = {
    2: (1.0, -1.0),
    3: (1.0, -0.5, -0.5),
    4: (1.0, -0.55, 0.0, -0.45),
    6: (1.0, -0.4, -0.4, 0.4, -0.3, -0.3),
}
_BELIEF: dict[int, float] = {2: 0.05, 3: 0.25, 4: 0.68, 6: 0.02}  # before anything is heard
_STATES = [(meter, position) for meter in _ACCENTS for position in range(meter)]
_SLIP = 1e-3  # probability that the tracker has lost or invented a beat
_LOUDEST = 3.0  # standard deviations at which an accent is cut off: one crash is no bar
# Accents of neighbouring bars are not independent observations: each counts for a part of one.
_EVIDENCE = 0.5


@dataclass(frozen=True)
class Bars:
    """Downbeats by their index among the beats, beats per bar (None: no accents at all), confidence 0 to 1."""

    downbeats: tuple[int, ...]
    beats_per_bar: int | None
    confidence: float


def find_bars(accents: np.ndarray) -> Bars:
    """Find the bars of a piece whose number of beats per bar does not change.

    A hidden Markov model of (beats per bar, position in the bar), after Whiteley, Cemgil and Godsill, "Bayesian
    modelling of temporal structure in musical audio", ISMIR 2006, with accents instead of audio. The path is the most
    likely one; the confidence is the mean posterior probability of its states, so that an even choice between two
    bar lengths or positions shows.

    Args:
        accents: `[beats]`, of any scale.
    """
    spread = float(accents.std()) if len(accents) else 0.0
    if len(accents) < 4 or spread < 1e-6:
        return Bars((), None, 0.0)
    emissions = _emissions((accents - accents.mean()) / spread)
    path, _ = _viterbi(emissions)
    confidence = float(_posterior(_EVIDENCE * emissions)[np.arange(len(path)), path].mean())
    downbeats = tuple(index for index, state in enumerate(path) if _STATES[state][1] == 0)
    return Bars(downbeats, _STATES[path[0]][0], confidence)


def bar_likelihood(accents: np.ndarray) -> float:
    """Return the log-likelihood a beat of the most likely bars: how regular accents are, in their own scale.

    Args:
        accents: `[beats]`, at least one.
    """
    _, likelihood = _viterbi(_emissions(accents - accents.mean()))
    return likelihood / len(accents)


def _emissions(scores: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of each state at each beat: `[beats, states]` (normal, variance 1)."""
    heard = np.clip(scores, -_LOUDEST, _LOUDEST)[:, None]
    expected = np.array([_ACCENTS[meter][position] for meter, position in _STATES])
    return expected * heard - expected**2 / 2


@functools.cache
def _chain() -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities of the first state, and of transitions `[from, to]`: one on, or a beat is amiss."""
    first = np.log([_BELIEF[meter] / meter for meter, _ in _STATES])
    matrix = np.full((len(_STATES), len(_STATES)), 1e-12)
    for row, (meter, position) in enumerate(_STATES):
        for column, (other, target) in enumerate(_STATES):
            if meter == other:
                matrix[row, column] = 1 - _SLIP if target == (position + 1) % meter else _SLIP / (meter - 1)
    return first, np.log(matrix / matrix.sum(axis=1, keepdims=True))


def _viterbi(emissions: np.ndarray) -> tuple[list[int], float]:
    """Return the most likely states, and their log-likelihood."""
    first, transitions = _chain()
    best = first + emissions[0]
    origins = np.zeros(emissions.shape, dtype=np.int64)
    for index in range(1, len(emissions)):
        candidates = best[:, None] + transitions
        origins[index] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + emissions[index]
    path = [int(best.argmax())]
    for index in range(len(emissions) - 1, 0, -1):
        path.append(int(origins[index, path[-1]]))
    return path[::-1], float(best.max())


def _posterior(emissions: np.ndarray) -> np.ndarray:
    """Return the probability of each state at each beat, `[beats, states]` (forward-backward)."""
    first, transitions = _chain()
    forward, backward = np.zeros_like(emissions), np.zeros_like(emissions)
    forward[0] = first + emissions[0]
    for index in range(1, len(emissions)):
        forward[index] = np.logaddexp.reduce(forward[index - 1][:, None] + transitions, axis=0) + emissions[index]
    for index in range(len(emissions) - 2, -1, -1):
        backward[index] = np.logaddexp.reduce(transitions + (emissions[index + 1] + backward[index + 1]), axis=1)
    joint = forward + backward
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


# Parts of a beat by which a tracker may be late: off-beats, and those of swung or compound time.
_SHIFTS = (0.0, 1 / 3, 1 / 2, 2 / 3)
_GRID = 12  # parts of a beat: the times with which accents are compared
# How much each accent tells of a downbeat; a snare stands on the beats between.
_DOWNBEAT = {"bass": 1.0, "bass_change": 1.0, "chord_change": 1.0, "kick": 0.5, "strum": 0.5, "snare": -0.5}
# How much each tells of a beat: of a song's basses and chords many are syncopated, of its kicks few.
_BEAT = {"kick": 1.0, "hat": 0.4, "strum": 0.4, "bass": 0.2}
_BARS, _BACKBEAT, _AS_TRACKED = 1.5, 1.0, 0.2  # how much else counts: see `best_beats`
_TEMPO, _USUAL_BPM = 2.0, 130.0
_BACKBEAT_SPAN = 8  # beats, over which a lost one does no harm
_FARTHEST_DELAY = 6  # hops, 70 ms


def bar_accents(accents: np.ndarray) -> np.ndarray:
    """Return one accent a beat, `[beats]`, from `AccentTrack.at`: of all that marks a downbeat."""
    return _standardised(accents, accents) @ _weights(_DOWNBEAT)


def best_beats(track: AccentTrack, beats: np.ndarray) -> np.ndarray:
    """Return the beats as they are, later by a third, a half or two thirds of a beat, or twice as many.

    Off-beat hi-hats and syncopated basses lead trackers astray, and fast songs are often heard at half their tempo. Of
    the five, those are taken that score highest by: accents on the beats, bars that repeat, kick and snare that take
    turns from beat to beat, a tempo near 130, and the tracker's own opinion. The weights were set by hand on 100 songs
    of `stage demo-data`, near the middle of a plateau: with them 89 instead of 78 have beats of F ≥ 0.9, and of 40
    other songs 35 instead of 32. Halving the tempo was tried as well, and did not help.

    Args:
        track: of the song.
        beats: seconds, at least two.
    """
    intervals = np.diff(beats, append=2 * beats[-1] - beats[-2])
    choices = [beats + shift * intervals for shift in _SHIFTS]
    accents = [track.at(times) for times in choices]
    # What is strong is strong among all times of the grid, not among the beats of one phase.
    everywhere = np.concatenate(accents)
    onsets = track.onsets_at((beats[:, None] + np.arange(_GRID) / _GRID * intervals[:, None]).ravel())
    half = _SHIFTS.index(1 / 2)
    choices.append(np.column_stack((beats, choices[half])).ravel())
    accents.append(np.stack((accents[0], accents[half]), axis=1).reshape(-1, len(ACCENTS)))
    scores = [
        _score(_standardised(heard, everywhere, onsets), times) for heard, times in zip(accents, choices, strict=True)
    ]
    scores[0] += _AS_TRACKED
    return choices[int(np.argmax(scores))]


def delay(strength: np.ndarray, beats: np.ndarray) -> float:
    """Return the seconds, within ±70 ms, by which onsets come after the beats on average; negative if before.

    Args:
        strength: `onset_strength` of the whole mix, `[hops, bands]`.
        beats: seconds.
    """
    total = strength.sum(axis=1)
    hops = np.arange(len(total))
    lags = np.arange(-_FARTHEST_DELAY, _FARTHEST_DELAY + 1)
    means = np.array([np.interp(beats * RATE / HOP + lag, hops, total).mean() for lag in lags])
    best = int(means.argmax())
    if best in (0, len(lags) - 1):
        return 0.0  # the strongest onsets are no delayed beats
    left, middle, right = means[best - 1 : best + 2]
    return float(lags[best] + (left - right) / (2 * (left - 2 * middle + right))) * HOP / RATE


def _score(accents: np.ndarray, times: np.ndarray) -> float:
    tempo = 60 / float(np.median(np.diff(times)))
    marks = accents @ _weights(_DOWNBEAT)
    spread = float(np.sqrt(sum(weight**2 for weight in _DOWNBEAT.values())))
    return (
        float((accents @ _weights(_BEAT)).mean())
        + _BARS * bar_likelihood(marks / spread)
        + _BACKBEAT * _backbeat(accents)
        - _TEMPO * np.log2(tempo / _USUAL_BPM) ** 2
    )


def _backbeat(accents: np.ndarray) -> float:
    """Return how clearly snare and kick take turns from beat to beat."""
    contrast = accents[:, ACCENTS.index("snare")] - accents[:, ACCENTS.index("kick")]
    turns = contrast * np.where(np.arange(len(contrast)) % 2, 1, -1)
    spans = [*range(0, len(turns) - _BACKBEAT_SPAN + 1, _BACKBEAT_SPAN), len(turns)]
    parts = [turns[start:end].mean() for start, end in pairwise(spans)]
    return float(np.abs(parts).mean()) if parts else 0.0


def _weights(of: dict[str, float]) -> np.ndarray:
    return np.array([of.get(name, 0.0) for name in ACCENTS])


def _standardised(accents: np.ndarray, among: np.ndarray, onsets: np.ndarray | None = None) -> np.ndarray:
    """Return accents in standard deviations from their mean among others; the first of them, `onsets`, among more."""
    mean, spread = among.mean(axis=0), among.std(axis=0)
    if onsets is not None:
        mean[: onsets.shape[1]], spread[: onsets.shape[1]] = onsets.mean(axis=0), onsets.std(axis=0)
    heard = spread > 1e-9
    return np.where(heard, (accents - mean) / np.where(heard, spread, 1.0), 0.0)


@functools.cache
def essentia_algorithms() -> Any:
    """Return essentia's standard algorithms, without its messages on stdout and stderr.

    Raises:
        StageError: essentia is not installed.
    """
    try:
        import essentia
    except ImportError as error:
        raise StageError(
            "beats and keys by essentia need the package essentia, which is not installed",
            why=f"{error}; it has wheels for Linux on x86-64 alone",
            next_step="use librosa, which is installed with stage-cli elsewhere; here, install stage-cli again",
        ) from None
    essentia.log.infoActive = False
    essentia.log.warningActive = False
    import essentia.standard

    return essentia.standard


@functools.cache
def _librosa() -> Any:
    """Return librosa. Its first use takes some seconds: it compiles what it runs.

    Raises:
        StageError: librosa is not installed.
    """
    try:
        import librosa
    except ImportError as error:
        raise StageError(
            "beats and keys by librosa need the package librosa, which is not installed",
            why=str(error),
            next_step="install it: pip install librosa",
        ) from None
    return librosa


def load_tracker(name: str) -> None:
    """Find out now whether a beat tracker, and what finds keys, can be used here.

    Args:
        name: one of `TRACKERS`.

    Raises:
        StageError: a library is not installed, or weights cannot be loaded.
    """
    if name == "beat-this":
        tracker(CHECKPOINT)
    for library in {name, key_finder()} - {"beat-this"}:
        {"essentia": essentia_algorithms, "librosa": _librosa}[library]()


# Under −60 dBFS a tracker would follow noise, and in digital silence essentia finds 738 beats a minute.
_SOUND = 0.001
_SHORTEST = 2.0  # seconds in which beats can be counted
_FULL_CONFIDENCE = 5.32  # the highest of RhythmExtractor2013, by its documentation
_UNEVEN = 0.25  # of a beat, by which an interval may differ from a whole number of beats
_TEMPO_SPAN = 8  # intervals that tell a tempo, also that with which beats go on towards the ends of the song
_EDGE = 0.05  # seconds before the first sound in which a beat may lie


def track_rhythm(harmonic: np.ndarray, percussive: np.ndarray, tracker: str | None = None) -> Rhythm:
    """Find beats, tempo and bars.

    Beats are those of a tracker, with phase, tempo and delay put right (`best_beats`, `delay`); bars come from accents
    (`find_bars`). Trackers: essentia's RhythmExtractor2013 (multifeature; Zapata, Davies and Gómez, "Multi-feature beat
    tracking", 2014); librosa's `beat_track` (Ellis, "Beat tracking by dynamic programming", 2007), which tells no
    confidence.

    Args:
        harmonic: pitched instruments, `[frames]` float32 at 44.1 kHz; may be silent.
        percussive: drums and percussion, as long; may be silent.
        tracker: one of `TRACKERS`; None is `default_tracker()`. "beat-this" hears the mix, and nothing is put right.

    Returns: no beats where nothing sounds, or for less than 2 seconds.

    Raises:
        StageError: the tracker is not installed, or its weights cannot be loaded.
    """
    tracker = default_tracker() if tracker is None else tracker
    if tracker == "beat-this":
        return track_with_beat_this(harmonic + percussive)
    none = Rhythm(None, 0.0, (), (), None, 0.0, tracker)
    mix = harmonic + percussive
    first, last = sounding_range(mix)
    if last - first < _SHORTEST * RATE:
        return none
    find_ticks = {"essentia": _ticks_by_essentia, "librosa": _ticks_by_librosa}[tracker]
    ticks, confidence = find_ticks(np.ascontiguousarray(mix[first:last], dtype=np.float32))
    beats = ticks + first / RATE
    if len(beats) < 2:
        return none
    track = AccentTrack(harmonic, percussive)
    beats = best_beats(track, beats)
    beats += delay(onset_strength(mix), beats)
    beats = _extended(beats, first / RATE, last / RATE)
    bars = find_bars(bar_accents(track.at(beats)))
    times = rounded(beats)
    return Rhythm(
        bpm=tempo(beats),
        confidence=round(confidence, 4),
        beats=times,
        downbeats=tuple(times[index] for index in bars.downbeats),
        beats_per_bar=bars.beats_per_bar,
        bars_confidence=round(bars.confidence, 4),
        source=tracker,
    )


def _ticks_by_essentia(sounding: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the beats of audio `[frames]` in seconds, and how sure they are, 0 to 1."""
    _, ticks, confidence, _, _ = _beat_extractor()(sounding)
    return np.asarray(ticks, dtype=np.float64), min(1.0, float(confidence) / _FULL_CONFIDENCE)


def _ticks_by_librosa(sounding: np.ndarray) -> tuple[np.ndarray, float]:
    """As `_ticks_by_essentia`; the onsets are this module's, which know bass drums from hats."""
    strength = onset_strength(sounding).sum(axis=1)
    _, hops = _librosa().beat.beat_track(onset_envelope=strength, sr=RATE, hop_length=HOP, trim=False)
    return np.asarray(hops, dtype=np.float64) * HOP / RATE, 1.0


@functools.cache
def _beat_extractor() -> Any:
    # Making it takes as long as 10 s of music; it forgets a song when the next one comes.
    return essentia_algorithms().RhythmExtractor2013(method="multifeature")


def sounding_range(audio: np.ndarray) -> tuple[int, int]:
    """Return the first frame that sounds (−60 dBFS or more), and the one after the last; (0, 0) for silence."""
    sounding = np.abs(audio) >= _SOUND
    if not sounding.any():
        return 0, 0
    return int(sounding.argmax()), len(sounding) - int(sounding[::-1].argmax())


def tempo(beats: Sequence[float] | np.ndarray) -> float | None:
    """Return beats a minute of beat times in seconds; None for fewer than two.

    The median over all spans of eight intervals. The median of single intervals would be wrong by 3 % at 180 bpm, as
    trackers round times to a grid of some 10 ms, and for trackers that run a little fast and catch up now and then; the
    mean of a whole song is between its tempos, where it has several. An interval counts as many beats as fit, where
    some were missed; spans with an interval that is no whole number of beats (a pause, an offbeat) are left out.
    """
    intervals = np.diff(np.asarray(beats, dtype=np.float64))
    if not len(intervals):
        return None
    passed = intervals / float(np.median(intervals))
    counts = np.rint(passed)
    is_whole = (counts >= 1) & (np.abs(passed - counts) <= _UNEVEN)
    span = np.ones(min(_TEMPO_SPAN, len(intervals)))
    spans = np.convolve(is_whole, span, "valid") >= len(span)
    if spans.any():
        seconds = np.convolve(intervals, span, "valid")[spans] / np.convolve(counts, span, "valid")[spans]
    else:
        seconds = intervals[is_whole] / counts[is_whole]
    return round(60 / float(np.median(seconds)), 3)


def rounded(times: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Return times to a tenth of a millisecond."""
    return tuple(round(float(time), 4) for time in times)


def _extended(beats: np.ndarray, start: float, end: float) -> np.ndarray:
    """Fit the beats to what sounds (seconds): trackers need some time to begin, stop early, or beat in silence."""
    intervals = np.diff(beats)
    opening, closing = np.median(intervals[:_TEMPO_SPAN]), np.median(intervals[-_TEMPO_SPAN:])
    before = np.arange(beats[0] - opening, start - _EDGE, -opening)[::-1]
    after = np.arange(beats[-1] + closing, end - _EDGE, closing)
    joined = np.concatenate((before, beats, after))
    return np.maximum(joined[joined >= start - _EDGE], 0.0)


CHECKPOINT = "final0"
"""The published checkpoint, which is fetched once into torch's cache."""

_SHORTEST_FOR_BEAT_THIS = 2.0  # seconds; the network needs a window of audio


def track_with_beat_this(mix: np.ndarray, checkpoint: str = CHECKPOINT) -> Rhythm:
    """Find beats, tempo and bars of a mix, `[frames]` float32 at 44.1 kHz.

    The tracker tells no confidence: it is 1 where it has found beats.

    Raises:
        StageError: the package is not installed, or its weights cannot be loaded.
    """
    first, last = sounding_range(mix)
    if last - first < _SHORTEST_FOR_BEAT_THIS * RATE:
        return Rhythm(None, 0.0, (), (), None, 0.0, "beat-this")
    beats, downbeats = tracker(checkpoint)(np.asarray(mix, dtype=np.float32), RATE)
    times, starts = rounded(beats), rounded(downbeats)
    # The network may see a downbeat a frame from its beat, or one without a beat.
    on_beats = tuple(sorted({min(times, key=lambda beat, start=start: abs(beat - start)) for start in starts}))
    counts = np.diff([times.index(start) for start in on_beats]) if times else np.array([])
    return Rhythm(
        bpm=tempo(times),
        confidence=1.0 if times else 0.0,
        beats=times,
        downbeats=on_beats if times else (),
        beats_per_bar=int(np.bincount(counts).argmax()) if len(counts) else None,
        bars_confidence=1.0 if len(counts) else 0.0,
        source="beat-this",
    )


@functools.lru_cache(maxsize=1)
def tracker(checkpoint: str = CHECKPOINT) -> Any:
    """Return the tracker with its weights: a callable of (audio, Hz) that gives beats and downbeats in seconds.

    Args:
        checkpoint: name of a published one, or the path of a local one.

    Raises:
        StageError: the package is not installed, or its weights cannot be loaded.
    """
    try:
        inference = importlib.import_module("beat_this.inference")
    except ImportError as error:
        raise StageError(
            "the tracker beat-this needs the package beat-this, which cannot be imported",
            why=str(error),
            next_step=f'install it: pip install "stage-cli[beat-this]"; or use {_other_tracker()}',
        ) from None
    try:
        path = _local(checkpoint, inference.CHECKPOINT_URL)
        return inference.Audio2Beats(checkpoint_path=str(path), device="cpu", dbn=False)
    except (OSError, ValueError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise StageError(
            f"the weights {checkpoint!r} of Beat This cannot be loaded",
            why=str(error).partition("\n")[0],
            next_step="they are fetched once: run it with a connection to the internet (see docs/data.md)",
        ) from error


def _other_tracker() -> str:
    return next((name for name in TRACKERS if name != "beat-this" and is_installed(name)), TRACKERS[0])


def _local(checkpoint: str, url: str) -> Path:
    """Return a checkpoint's file, fetched if need be: what the package fetches itself it unpickles without limits."""
    import torch

    if Path(checkpoint).is_file():
        return Path(checkpoint)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"beat_this-{checkpoint}.ckpt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{url}/{checkpoint}.ckpt", str(path), progress=False)
    return path


_SHORTEST_FOR_KEY = 0.5  # seconds
_CHROMA_RATE, _CHROMA_HOP = 22_050, 2048  # Hz, and samples
_TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # as essentia spells them
# How much each degree of the scale tells of a key: D. Temperley, "What's key for key?", Music Perception 17, 1999.
_PROFILES = {
    "major": (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
    "minor": (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
}


def find_key(harmonic: np.ndarray, library: str | None = None) -> Key | None:
    """Find the key; None where nothing sounds.

    By essentia's KeyExtractor (profiles "bgate"), or by librosa's chroma, whose mean is compared with Temperley's
    profiles of the 24 keys.

    Args:
        harmonic: what has pitch, without drums and percussion, `[frames]` float32 at 44.1 kHz.
        library: "essentia" or "librosa"; None is `key_finder()`.

    Raises:
        StageError: the library is not installed.
    """
    library = key_finder() if library is None else library
    first, last = sounding_range(harmonic)
    if last - first < _SHORTEST_FOR_KEY * RATE:
        return None
    sounding = np.ascontiguousarray(harmonic[first:last], dtype=np.float32)
    if library == "librosa":
        tonic, scale, strength = _key_by_librosa(sounding)
    else:
        tonic, scale, strength = essentia_algorithms().KeyExtractor(sampleRate=RATE)(sounding)
    strength = round(min(1.0, max(0.0, float(strength))), 4)
    return Key(str(tonic), str(scale), strength, library) if strength > 0 else None


def _key_by_librosa(sounding: np.ndarray) -> tuple[str, str, float]:
    """Return tonic, scale, and the correlation of the chroma with the profile of that key."""
    import soxr

    audio = soxr.resample(sounding, RATE, _CHROMA_RATE, quality="HQ")
    # An A4 of 440 Hz is taken for granted, as everywhere here.
    chroma = _librosa().feature.chroma_cqt(y=audio, sr=_CHROMA_RATE, hop_length=_CHROMA_HOP, tuning=0.0)
    heard = chroma.mean(axis=1)
    if heard.std() < 1e-6:
        return _TONICS[0], "major", 0.0
    found = {
        (tonic, scale): float(np.corrcoef(heard, np.roll(profile, tonic))[0, 1])
        for scale, profile in _PROFILES.items()
        for tonic in range(12)
    }
    tonic, scale = max(found, key=lambda key: found[key])
    return _TONICS[tonic], scale, found[tonic, scale]
