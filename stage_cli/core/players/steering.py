"""What can be asked of a player, measured from notes and beats alone.

    bars = bar_features(notes, grid, duration, stem="drums")
    bars.density, bars.loudness, bars.present, bars.fill     # one value a bar
    density_class(bars.density, "drums")                     # 0 unknown, 1 sparse … 5 dense

In training these say what a stem is like; at generation the same classes are asked for. So each is a function of the
notes and the grid and of nothing else, and each has a class for "not known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import Note, notes_to_array, voice_of

UNKNOWN = 0
"""The class of what cannot be measured, or is not asked for."""

DENSITY_EDGES: dict[str, tuple[float, ...]] = {"drums": (2.0, 3.5, 5.0, 7.0)}
"""Strokes a beat that divide the classes from sparse to dense; `_PITCHED_DENSITY_EDGES` for other stems.

Near the quintiles of the Groove MIDI Dataset's bars (3.25, 4.5, 5.5, 7), lower for grooves simpler than theirs."""
_PITCHED_DENSITY_EDGES = (0.5, 1.0, 1.75, 2.5)
LOUDNESS_EDGES = (56.0, 66.0, 76.0, 88.0)
"""Mean velocities that divide the classes from soft to loud: quintiles of the Groove MIDI Dataset's performances."""
SWING_EDGES = (1.2, 1.6)
"""Ratios that divide straight eighths from a light swing, and that from triplets."""

_EARLY = 0.05
"""Seconds by which a stroke may come before a bar that it belongs to, at most a quarter of a beat."""
_TOGETHER = 0.03
"""Seconds in which the notes of a chord begin."""
_USUAL_BEAT = 0.5
"""Seconds between beats where a grid has none."""
_USUAL_BAR = 4
"""Beats in a bar where a grid has no downbeats."""

_ONBEAT = 0.12
"""Parts of a beat within which a stroke is on it."""
_OFFBEAT = (0.42, 0.72)
"""The part of a beat in which the second of two eighths lies, straight or swung."""
_SIXTEENTHS = ((0.15, 0.42), (0.72, 0.85))
"""The parts of a beat in which strokes mean that it is divided into more than two."""
_FEWEST_OFFBEATS = 8
"""Of which swing is told."""

_FILL_VOICES = frozenset({"snare", "high_tom", "mid_tom", "low_tom"})
_TOMS = frozenset({"high_tom", "mid_tom", "low_tom"})
_FILL_NEIGHBOURS = 8
"""Bars on each side that a bar is compared with."""
_FILL_STROKES = 1.25
"""Strokes a beat by which the denser half of a bar has to exceed its neighbours', snare and toms counted."""
_FILL_TOMS = 2
"""Strokes by which a fill's toms exceed its neighbours'; without toms the snare has to exceed them twice as far."""


@dataclass(frozen=True, eq=False)
class BarFeatures:
    """A stem, bar by bar. All arrays are `[bars]`."""

    start: np.ndarray
    """Seconds, float64."""
    end: np.ndarray
    """Seconds, float64; where the next bar starts, or the stem ends."""
    beats: np.ndarray
    """How many beats long each bar is, float64; the first and the last bar may be parts of one."""
    density: np.ndarray
    """Strokes a beat, float64. For stems other than drums, notes that begin within 30 ms of each other are one."""
    loudness: np.ndarray
    """Mean velocity, float64; NaN where no note begins."""
    present: np.ndarray
    """bool: something is struck in the bar, or sounds in half of it. A pause is a run of bars without."""
    fill: np.ndarray
    """bool: a drum fill. All False for other stems."""


def bar_edges(grid: BeatGrid | None, duration: float) -> np.ndarray:
    """Return the bounds of a song's bars in seconds, `[bars + 1]` float64 from 0 to the duration.

    What goes before the first downbeat is a bar of its own, and so is what follows the last one. Without downbeats
    four beats make a bar, without beats 2 s.
    """
    beats = _beat_times(grid, duration)
    downbeats = np.array(grid.downbeats) if grid and grid.downbeats else beats[::_USUAL_BAR]
    inside = downbeats[(downbeats > _EARLY) & (downbeats < duration - _EARLY)]
    return np.concatenate([[0.0], inside, [duration]])


def beat_positions(grid: BeatGrid | None, seconds: np.ndarray) -> np.ndarray:
    """Return times counted in beats, float64: 2.5 is half-way between the third and the fourth beat.

    Before the first beat and after the last one, beats go on as fast as there; without two beats they last 0.5 s.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if grid is None or len(grid.beats) < 2:
        return (times - (grid.beats[0] if grid and grid.beats else 0.0)) / _USUAL_BEAT
    beats = np.array(grid.beats)
    at = np.clip(np.searchsorted(beats, times, side="right") - 1, 0, len(beats) - 2)
    return at + (times - beats[at]) / (beats[at + 1] - beats[at])


def _beat_times(grid: BeatGrid | None, duration: float) -> np.ndarray:
    return np.array(grid.beats) if grid and grid.beats else np.arange(0, duration, _USUAL_BEAT)


def strokes(notes: Sequence[Note], stem: str) -> np.ndarray:
    """Return the onsets of what counts as a stroke, in seconds, rising.

    Of drums that is every note; of other stems notes that begin within 30 ms of the first of them are one.
    """
    onsets = np.sort(notes_to_array(notes)[:, 0])
    if stem == "drums" or len(onsets) == 0:
        return onsets
    kept = [onsets[0]]
    for onset in onsets[1:].tolist():
        if onset - kept[-1] > _TOGETHER:
            kept.append(onset)
    return np.array(kept)


def density(notes: Sequence[Note], grid: BeatGrid | None, start: float, end: float, *, stem: str) -> float:
    """Return how many strokes a beat there are from `start` to `end` in seconds."""
    first, last = beat_positions(grid, np.array([start, end]))
    onsets = strokes(notes, stem)
    return float(((onsets >= start) & (onsets < end)).sum() / max(last - first, 1e-9))


def loudness(notes: Sequence[Note]) -> float:
    """Return the mean velocity of notes; NaN of none."""
    return float(np.mean([note.velocity for note in notes])) if notes else float("nan")


def swing_ratio(notes: Sequence[Note], grid: BeatGrid | None) -> float:
    """Return how long the first eighth of a beat is, compared with the second: 1 straight, 2 triplets.

    It is told from beats that are divided in two: a stroke 0.42 to 0.72 of a beat after it and none where sixteenths or
    a triplet's second note lie. The median of these strokes is taken, counted from where the strokes on the beats are
    (their median): who plays ahead of the beat does not swing less. Swung sixteenths are not measured.

    Returns: NaN where there are fewer than eight such beats.
    """
    if grid is None or len(grid.beats) < 2:
        return float("nan")
    onsets = np.sort(notes_to_array(notes)[:, 0])
    onsets = onsets[(onsets >= grid.beats[0]) & (onsets < grid.beats[-1])]
    positions = beat_positions(grid, onsets)
    off = positions - np.rint(positions)
    on = np.abs(off) < _ONBEAT
    beat, place = np.divmod(positions - (np.median(off[on]) if on.any() else 0.0), 1.0)
    divided = [beat[(place >= low) & (place < high)] for low, high in _SIXTEENTHS]
    offbeat = (place >= _OFFBEAT[0]) & (place < _OFFBEAT[1]) & ~np.isin(beat, np.concatenate(divided))
    # Voices struck together are one stroke, so that a full kit does not count more than a hi-hat.
    numbers, first = np.unique(beat[offbeat], return_index=True)
    if len(numbers) < _FEWEST_OFFBEATS:
        return float("nan")
    middle = float(np.median(place[offbeat][first]))
    return middle / (1 - middle)


def bar_features(notes: Sequence[Note], grid: BeatGrid | None, duration: float, *, stem: str) -> BarFeatures:
    """Measure a stem bar by bar.

    A stroke that comes up to 50 ms before a bar line, and at most a quarter of a beat, belongs to the bar that begins
    there.

    Args:
        notes: in any order.
        grid: the song's beats, or None.
        duration: seconds of the stem.
        stem: its name; "drums" count every stroke, and may have fills.
    """
    edges = bar_edges(grid, duration)
    bars = len(edges) - 1
    positions = beat_positions(grid, edges)
    beats = np.maximum(np.diff(positions), 1e-9)
    early = np.minimum(_EARLY, np.diff(edges) / beats / 4)
    bounds = edges[1:-1] - early[1:]
    rows = notes_to_array(notes)
    bar_of = np.searchsorted(bounds, rows[:, 0], side="right")
    struck = np.bincount(bar_of, minlength=bars)
    total = np.bincount(bar_of, weights=rows[:, 3], minlength=bars)
    mean = np.divide(total, struck, out=np.full(bars, np.nan), where=struck > 0)
    counted = np.bincount(np.searchsorted(bounds, strokes(notes, stem), side="right"), minlength=bars)
    present = struck > 0
    if stem != "drums":
        present |= _sounding(rows, edges) > np.diff(edges) / 2
    fill = _fills(notes, bar_of, grid, positions) if stem == "drums" else np.zeros(bars, dtype=bool)
    return BarFeatures(
        start=edges[:-1],
        end=edges[1:],
        beats=beats,
        density=counted / beats,
        loudness=mean,
        present=present,
        fill=fill,
    )


def _sounding(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return for how many seconds of each bar anything sounds, `[bars]`; notes `[notes, 4]`."""
    spans: list[list[float]] = []
    for onset, length in rows[np.argsort(rows[:, 0], kind="stable")][:, :2].tolist():
        if spans and onset <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], onset + length)
        else:
            spans.append([onset, onset + length])
    if not spans:
        return np.zeros(len(edges) - 1)
    # How much sounds up to a time is a line that rises during the spans; its differences are the bars'.
    points = np.array(spans).reshape(-1)
    sounded = np.zeros_like(points)
    sounded[1::2] = np.cumsum(np.diff(np.array(spans), axis=1)[:, 0])
    sounded[2::2] = sounded[1:-1:2]
    return np.diff(np.interp(edges, points, sounded))


def _fills(notes: Sequence[Note], bar_of: np.ndarray, grid: BeatGrid | None, positions: np.ndarray) -> np.ndarray:
    """Tell which bars hold a fill, `[bars]` bool: more snare and toms in one half than the bars around have.

    A groove that is played on toms, or a bar of rolls among bars of rolls, is none.
    """
    bars = len(positions) - 1
    # Strokes of snare and toms, and toms alone, in each half of each bar.
    busy, toms = np.zeros((bars, 2)), np.zeros((bars, 2))
    places = beat_positions(grid, np.array([note.onset for note in notes]))
    for note, bar, place in zip(notes, bar_of.tolist(), places.tolist(), strict=True):
        voice = voice_of(note.pitch)
        if voice in _FILL_VOICES:
            half = int(place - positions[bar] >= (positions[bar + 1] - positions[bar]) / 2 - 1e-6)
            busy[bar, half] += 1
            toms[bar, half] += voice in _TOMS
    halves = np.maximum(np.diff(positions) / 2, 1e-9)
    struck = np.bincount(bar_of, minlength=bars) > 0
    rates = busy.max(axis=1) / halves
    most_toms = toms.max(axis=1)
    fills = np.zeros(bars, dtype=bool)
    for bar in np.flatnonzero(struck).tolist():
        near = [
            other
            for other in range(max(0, bar - _FILL_NEIGHBOURS), min(bars, bar + _FILL_NEIGHBOURS + 1))
            if other != bar and struck[other]
        ]
        if not near:
            continue
        above = rates[bar] - np.median(rates[near])
        more_toms = most_toms[bar] - np.median(most_toms[near])
        fills[bar] = above >= (_FILL_STROKES if more_toms >= _FILL_TOMS else 2 * _FILL_STROKES)
    return fills


def density_class(values: np.ndarray | float, stem: str) -> np.ndarray:
    """Return the class of strokes a beat: 1 sparse to 5 dense, 0 where it is not a number."""
    return _classes(values, DENSITY_EDGES.get(stem, _PITCHED_DENSITY_EDGES))


def loudness_class(values: np.ndarray | float) -> np.ndarray:
    """Return the class of mean velocities: 1 soft to 5 loud, 0 where it is not a number."""
    return _classes(values, LOUDNESS_EDGES)


def swing_class(values: np.ndarray | float) -> np.ndarray:
    """Return the class of swing ratios: 1 straight, 2 light, 3 swung (triplets), 0 where it is not a number."""
    return _classes(values, SWING_EDGES)


def _classes(values: np.ndarray | float, edges: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(values), UNKNOWN, 1 + np.searchsorted(edges, values, side="right"))
