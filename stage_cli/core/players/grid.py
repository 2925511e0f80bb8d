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
_RATE = 100  # frames a second of the programme
_INTERVALS = 84
_TEMPO_CHANGE = 40.0  # nats that a change of tempo by 100 % costs
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
        confidence: 0 to 1, how much clearer the ears hear beats on the grid than beside it.
    """

    grid: BeatGrid
    bpm: float
    beats_per_bar: int
    confidence: float


def find_grid(activations: np.ndarray, frame_rate: int, seconds: float, *, bpm: float | None = None) -> FoundGrid:
    """Find the beats and downbeats of a song.

    Args:
        activations: `[frames, 2]`, probability of a beat and of a downbeat near each frame.
        frame_rate: frames a second.
        seconds: length of the song; beats lie before its end.
        bpm: of the song, where it is known: the tempo stays within 2 % of it.
    """
    frames = len(activations)
    if frames < frame_rate:
        return FoundGrid(BeatGrid((), ()), 0.0, 0, 0.0)
    times = np.arange(round(frames / frame_rate * _RATE)) / _RATE
    fine = np.stack([np.interp(times, np.arange(frames) / frame_rate, activations[:, n]) for n in range(2)], axis=1)
    fine = np.clip(fine, _CERTAIN, 1 - _CERTAIN)
    rough = _path(fine[:, 0], bpm) / _RATE
    if len(rough) < 3:
        return FoundGrid(BeatGrid((), ()), 0.0, 0, 0.0)
    beats = _refined(rough, fine[:, 0])
    beats = _to_the_ends(beats, seconds)
    heard = np.interp(beats, times, fine[:, 0])
    between = np.interp((beats[1:] + beats[:-1]) / 2, times, fine[:, 0])
    confidence = float(np.clip(heard.mean() - between.mean(), 0, 1))
    near = np.rint(beats * _RATE).astype(np.int64)[:, None] + np.arange(-3, 4)
    bar, downbeats = _bars(beats, fine[near.clip(0, len(fine) - 1), 1].max(axis=1))
    grid = BeatGrid(tuple(map(float, beats)), tuple(map(float, downbeats)))
    return FoundGrid(grid, 60 / float(np.median(np.diff(beats))), bar, confidence)


def _path(heard: np.ndarray, bpm: float | None) -> np.ndarray:
    """Return the frames of the best path's beats."""
    low, high = (SLOWEST, FASTEST) if bpm is None else (bpm / 1.02, bpm * 1.02)
    intervals = np.unique(np.rint(np.geomspace(60 * _RATE / high, 60 * _RATE / low, _INTERVALS)).astype(np.int64))
    count, frames, longest = len(intervals), len(heard), int(intervals[-1])
    # From each interval to itself and the three on either side: more than 10 % from beat to beat is no tempo.
    near = np.arange(count)[:, None] + np.arange(-_NEAR, _NEAR + 1)
    ratio = np.log(intervals[near.clip(0, count - 1)] / intervals[:, None])
    change = np.where((near >= 0) & (near < count), -_TEMPO_CHANGE * np.abs(ratio), -np.inf)
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
    return np.array(path[::-1])


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
