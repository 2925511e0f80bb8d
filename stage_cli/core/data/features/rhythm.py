"""Beats and bars of a song from its audio."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from stage_cli.core.data.features.accents import RATE, AccentTrack, onset_strength
from stage_cli.core.data.features.bars import find_bars
from stage_cli.core.data.features.beat_phase import bar_accents, best_beats, delay
from stage_cli.core.data.features.essentia_library import essentia_algorithms
from stage_cli.core.data.features.annotations import Rhythm

# Under −60 dBFS a tracker would follow noise, and in digital silence essentia finds 738 beats a minute.
_SOUND = 0.001
_SHORTEST = 2.0  # seconds in which beats can be counted
_FULL_CONFIDENCE = 5.32  # the highest of RhythmExtractor2013, by its documentation
_UNEVEN = 0.25  # of a beat, by which an interval may differ from a whole number of beats
_TEMPO_SPAN = 8  # intervals that tell a tempo, also that with which beats go on towards the ends of the song
_EDGE = 0.05  # seconds before the first sound in which a beat may lie
_NO_RHYTHM = Rhythm(None, 0.0, (), (), None, 0.0, "essentia")


def track_rhythm(harmonic: np.ndarray, percussive: np.ndarray) -> Rhythm:
    """Find beats, tempo and bars.

    Beats are those of essentia's RhythmExtractor2013 (multifeature; Zapata, Davies and Gómez, "Multi-feature beat
    tracking", 2014), with phase, tempo and delay put right (`beat_phase`); bars come from accents (`bars`).

    Args:
        harmonic: pitched instruments, `[frames]` float32 at 44.1 kHz; may be silent.
        percussive: drums and percussion, as long; may be silent.

    Returns: no beats where nothing sounds, or for less than 2 seconds.

    Raises:
        StageError: essentia is not installed.
    """
    mix = harmonic + percussive
    first, last = sounding_range(mix)
    if last - first < _SHORTEST * RATE:
        return _NO_RHYTHM
    sounding = np.ascontiguousarray(mix[first:last], dtype=np.float32)
    _, ticks, confidence, _, _ = _beat_extractor()(sounding)
    beats = np.asarray(ticks, dtype=np.float64) + first / RATE
    if len(beats) < 2:
        return _NO_RHYTHM
    track = AccentTrack(harmonic, percussive)
    beats = best_beats(track, beats)
    beats += delay(onset_strength(mix), beats)
    beats = _extended(beats, first / RATE, last / RATE)
    bars = find_bars(bar_accents(track.at(beats)))
    times = rounded(beats)
    return Rhythm(
        bpm=tempo(beats),
        confidence=round(min(1.0, float(confidence) / _FULL_CONFIDENCE), 4),
        beats=times,
        downbeats=tuple(times[index] for index in bars.downbeats),
        beats_per_bar=bars.beats_per_bar,
        bars_confidence=round(bars.confidence, 4),
        source="essentia",
    )


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
