"""Put right what beat trackers get wrong: beats between the beats, half the tempo, and a constant delay."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stage_cli.core.data.features.accents import ACCENTS, HOP, RATE, AccentTrack
from stage_cli.core.data.features.bars import bar_likelihood

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
