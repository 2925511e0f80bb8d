"""The beats of a whole song from what the ears make of it: a dynamic programme over tempo and phase.

A beat may follow another after any of 84 intervals (30 to 240 bpm); how probable a path is decide the ears' beats at
its beats, their silence between them, and how much the tempo changes from beat to beat. As in bar-pointer models
(Krebs, Böck, Widmer, "An efficient state-space model for joint tempo and meter tracking", ISMIR 2015), but a step of
the programme is a beat, not a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.music.beats import BeatGrid

SLOWEST, FASTEST = 30.0, 240.0
"""bpm."""
UNSURE = 0.15
"""Confidence below which a grid that was found is not played to."""
_USUAL_BEATS = 20
_RATE = 100  # frames a second of the programme
_INTERVALS = 84
_TEMPO_CHANGE = 40.0  # nats that a change of tempo by 100 % costs
_STEADY = 20.0  # likewise, where the tempo is known to within 3 %
_CANDIDATES = 5
_MARGIN = 0.15  # nats a beat by which a free tempo must be better than a steady one
_NEAR = 3  # intervals to either side that may follow
_BASE, _LEAST = 2.5, 0.15  # of the mean activation: what a beat must exceed to be worth something; of that: the least
_CERTAIN = 1e-3  # activations are kept this far from 0 and 1
_USUAL_BPM, _OCTAVES, _PREFERENCE = 112.0, 0.7, 0.6  # nats a beat that a tempo far from usual costs
_BARS = (4, 3, 2, 6)
_BAR_PRIOR = (0.0, -1.0, -1.5, -2.0)
_BAR_CHANGE = -9.0
_CONSTANT = 0.02
"""Seconds: the tempo is constant if beats lie this close to an even grid (root mean square)."""


@dataclass(frozen=True)
class FoundGrid:
    """Beats that were found.

    Attributes:
        grid: times in seconds.
        bpm: of the median interval; 0 without beats.
        beats_per_bar: of most bars; 0 without downbeats.
        confidence: 0 to 1, how much clearer the ears hear beats on the grid than beside it, in how many beats.
    """

    grid: BeatGrid
    bpm: float
    beats_per_bar: int
    confidence: float

    @property
    def trusted(self) -> BeatGrid:
        """The grid to play to: no beats at all where it may be anywhere, for the ears then do better alone."""
        return self.grid if self.confidence >= UNSURE else BeatGrid((), ())


def find_grid(activations: np.ndarray, frame_rate: int, seconds: float, *, bpm: float | None = None) -> FoundGrid:
    """Find the beats and downbeats of a song.

    Args:
        activations: `[frames, 2]`, probability of a beat and of a downbeat near each frame.
        frame_rate: frames a second.
        seconds: length of the song; beats lie before its end.
        bpm: of the song, where it is known: the tempo stays within 3 % of it.
    """
    frames = len(activations)
    if frames < frame_rate:
        return FoundGrid(BeatGrid((), ()), 0.0, 0, 0.0)
    times = np.arange(round(frames / frame_rate * _RATE)) / _RATE
    fine = np.stack([np.interp(times, np.arange(frames) / frame_rate, activations[:, n]) for n in range(2)], axis=1)
    fine = np.clip(fine, _CERTAIN, 1 - _CERTAIN)
    rough = _best_path(fine[:, 0], bpm) / _RATE
    if len(rough) < 3:
        return FoundGrid(BeatGrid((), ()), 0.0, 0, 0.0)
    beats = _refined(rough, fine[:, 0])
    beats = _to_the_ends(beats, seconds)
    heard = np.interp(beats, times, fine[:, 0])
    between = np.interp((beats[1:] + beats[:-1]) / 2, times, fine[:, 0])
    # Half as sure of a few beats, twice as sure of many that agree.
    sureness = float(np.clip(np.sqrt(len(beats) / _USUAL_BEATS), 0.5, 2))
    confidence = float(np.clip(sureness * (heard.mean() - between.mean()), 0, 1))
    near = np.rint(beats * _RATE).astype(np.int64)[:, None] + np.arange(-3, 4)
    bar, downbeats = _bars(beats, fine[near.clip(0, len(fine) - 1), 1].max(axis=1))
    grid = BeatGrid(tuple(map(float, beats)), tuple(map(float, downbeats)))
    return FoundGrid(grid, 60 / float(np.median(np.diff(beats))), bar, confidence)


def _best_path(heard: np.ndarray, bpm: float | None) -> np.ndarray:
    """Return the frames of the best path's beats: at a steady tempo, unless a free one is much better."""
    if bpm is not None:
        return _path(heard, bpm)[0]
    free, most = _path(heard, None)
    steady = [
        (path, score + len(path) * _preference(tempo))
        for tempo in _tempi(heard)
        for path, score in [_path(heard, tempo)]
    ]
    best, score = max(steady, key=lambda found: found[1], default=(free, most))
    return free if most > score + _MARGIN * len(free) else best


def _tempi(heard: np.ndarray) -> list[float]:
    """Return the tempi (bpm) that the song most probably has, from the spectra of what is heard, 20 s at a time."""
    length = min(len(heard), 20 * _RATE)
    tempi = np.geomspace(40, 230, 700)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(length) / _RATE, tempi / 60))
    change = np.log(np.maximum(heard, _CERTAIN))
    starts = range(0, len(heard) - length + 1, max(1, length // 2))
    power = np.zeros(len(tempi))
    for start in starts:
        part = change[start : start + length]
        power += np.abs((part - part.mean()) * np.hanning(length) @ turns)
    power *= np.exp(np.array([_preference(tempo) for tempo in tempi]))
    peaks = [n for n in range(1, len(tempi) - 1) if power[n] >= max(power[n - 1], power[n + 1])]
    return [float(tempi[n]) for n in sorted(peaks, key=lambda n: -power[n])[:_CANDIDATES]]


def _preference(bpm: float) -> float:
    return -_PREFERENCE * min((np.log2(bpm / _USUAL_BPM) / _OCTAVES) ** 2, 4.0)


def _path(heard: np.ndarray, bpm: float | None) -> tuple[np.ndarray, float]:
    """Return the frames of the best path's beats, and its worth."""
    low, high = (SLOWEST, FASTEST) if bpm is None else (bpm / 1.03, bpm * 1.03)
    intervals = np.unique(np.rint(np.geomspace(60 * _RATE / high, 60 * _RATE / low, _INTERVALS)).astype(np.int64))
    count, frames, longest = len(intervals), len(heard), int(intervals[-1])
    # From each interval to itself and the three on either side: more than 10 % from beat to beat is no tempo.
    near = np.arange(count)[:, None] + np.arange(-_NEAR, _NEAR + 1)
    ratio = np.log(intervals[near.clip(0, count - 1)] / intervals[:, None])
    change = np.where(
        (near >= 0) & (near < count), -(_TEMPO_CHANGE if bpm is None else _STEADY) * np.abs(ratio), -np.inf
    )
    near = near.clip(0, count - 1)
    usual = np.log2(60 * _RATE / intervals / _USUAL_BPM) / _OCTAVES
    preference = -_PREFERENCE * np.minimum(usual**2, 4.0) if bpm is None else np.zeros(count)
    # A beat is worth how much more is heard there than on average.
    base = max(_BASE * float(heard.mean()), _CERTAIN)
    gain = np.log(np.maximum(heard, _LEAST * base) / base)
    score = np.full((longest + frames, count), -np.inf)
    came = np.full((frames, count), -1, dtype=np.int16)
    flat, rows = score.reshape(-1), np.arange(count)
    before = (longest - intervals)[:, None] * count + near
    for frame in range(frames):
        options = flat[before + frame * count]
        options += change
        best = options.argmax(axis=1)
        value = options[rows, best]
        value += preference
        own = score[longest + frame]
        if frame < longest:
            first = np.where(frame < intervals, 0.0, -np.inf)
            came[frame] = np.where(value > first, near[rows, best], -1)
            np.maximum(value, first, out=own)
        else:
            came[frame] = near[rows, best]
            own[:] = value
        own += gain[frame]
    ending = np.where(frames - np.arange(frames)[:, None] <= intervals, score[longest:], -np.inf)
    frame, column = (int(place) for place in np.unravel_index(int(ending.argmax()), ending.shape))
    path = [frame]
    while came[frame, column] >= 0:
        frame, column = frame - int(intervals[column]), int(came[frame, column])
        path.append(frame)
    return np.array(path[::-1]), float(ending.max())


def _refined(rough: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Move beats to the centre of what is heard around them, and smooth them by lines through their neighbours."""
    moved, weight = rough.copy(), np.zeros(len(rough))
    reach = 4
    for number, time in enumerate(rough):
        middle = round(time * _RATE)
        first, last = max(0, middle - reach), min(len(heard), middle + reach + 1)
        near = heard[first:last]
        weight[number] = near.max() + 0.01
        moved[number] = (near**2 * np.arange(first, last)).sum() / (near**2).sum() / _RATE
    numbers = np.arange(len(rough))
    slope, offset = np.polyfit(numbers, moved, 1, w=weight)
    even = slope * numbers + offset
    if np.sqrt(np.average((moved - even) ** 2, weights=weight)) < _CONSTANT and len(rough) >= 8:
        return even
    smooth = np.empty(len(rough))
    for number in numbers:
        near = slice(max(0, number - 4), number + 5)
        if len(rough) < 4:
            smooth[number] = moved[number]
            continue
        line = np.polyfit(numbers[near] - number, moved[near], 1, w=weight[near])
        smooth[number] = line[1]
    return np.maximum.accumulate(smooth + 1e-6 * numbers)


def _to_the_ends(beats: np.ndarray, seconds: float) -> np.ndarray:
    """Carry beats on to both ends of the song."""
    opening, closing = beats[1] - beats[0], beats[-1] - beats[-2]
    before = beats[0] - opening * np.arange(int((beats[0] + 0.02) / opening), 0, -1)
    after = beats[-1] + closing * np.arange(1, max(0, int((seconds - beats[-1]) / closing)) + 1)
    whole = np.concatenate([before, beats, after])
    return whole[(whole >= -0.02) & (whole < seconds)].clip(0)


def _bars(beats: np.ndarray, heard: np.ndarray) -> tuple[int, np.ndarray]:
    """Return beats per bar and the downbeats' times."""
    # A downbeat is worth how much more is heard there than at beats on average, as beats are.
    gain = np.clip(np.log(heard / max(_BASE * float(heard.mean()), _CERTAIN)), -2, 2)
    starts = np.cumsum([0, *_BARS[:-1]])
    states = sum(_BARS)
    place = np.concatenate([np.arange(bar) for bar in _BARS])
    length = np.repeat(_BARS, _BARS)
    prior = np.repeat(_BAR_PRIOR, _BARS)
    previous = np.arange(states) - 1
    for start, bar in zip(starts, _BARS, strict=True):
        previous[start] = start + bar - 1
    score = prior.copy()
    came = np.zeros((len(beats), states), dtype=np.int16)
    for number in range(len(beats)):
        if number:
            stay = score[previous]
            change = score.max() + _BAR_CHANGE + np.where(place == 0, 0.0, -np.inf)
            came[number] = np.where(stay >= change, previous, score.argmax())
            score = np.maximum(stay, change)
        score = score + np.where(place == 0, gain[number], 0.0)
    path = [int(score.argmax())]
    for number in range(len(beats) - 1, 0, -1):
        path.append(int(came[number, path[-1]]))
    path = np.array(path[::-1])
    numbers = np.flatnonzero(place[path] == 0)
    bar = int(np.bincount(length[path]).argmax())
    return bar, beats[numbers]
