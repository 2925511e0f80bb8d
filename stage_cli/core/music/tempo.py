"""Tempo maps: the ticks of a MIDI file as seconds, and the beats of a song laid out on quarter notes and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from stage_cli.core.music.beats import MOST_BEATS_PER_BAR, BeatGrid

DEFAULT_TEMPO = 500_000
"""Microseconds a quarter note that MIDI means where a file says nothing: 120 a minute."""
_SLOWEST_TEMPO = 2**24 - 1
"""Microseconds a quarter note: what the three bytes of a tempo event hold."""
_FASTEST_TEMPO = 1_000

_RESOLUTIONS = (960, 1920, 3840, 7680, 15_360)
"""Ticks a quarter note; all can be divided by 16, the finest part of a beat before the first one."""
_COARSEST_TICK = 0.6e-3
"""Seconds: half of it is the most by which a note's time is rounded."""
_BEAT_TOLERANCE = 0.1e-3
"""Seconds by which a beat may be off its quarter note, so that a constant tempo stays one tempo."""
_USUAL_BEAT = 0.5
"""Seconds."""
_LONGEST_BEAT = 4.0
"""Seconds."""
_SHORTEST_LEAD_IN = 0.004
"""Seconds: a first beat that is nearer to the start is put on it."""
_LEAD_IN_UNITS = (1, 2, 4, 8, 16)
"""Parts of a beat in which the time before the first beat may be counted, the fewest that fit."""
_LEAD_IN_STRETCH = 1.25
"""How many times as fast, or as slow, as the first beat the time before it may go."""
_USUAL_BAR = 4
"""Beats."""


@dataclass(frozen=True, eq=False)
class TempoMap:
    """When each tick of a MIDI file sounds. The tempo is constant between changes.

    The arrays have one entry a change, the first at tick 0.
    """

    ticks: np.ndarray
    """`[changes]` int64, rising."""
    seconds: np.ndarray
    """`[changes]` float64, rising: when these ticks sound."""
    seconds_per_tick: np.ndarray
    """`[changes]` float64, above 0: from each change on."""
    ticks_per_quarter: int | None
    """None where ticks divide film frames (SMPTE), so that the file has no beats."""

    def to_seconds(self, ticks: np.ndarray) -> np.ndarray:
        """Return the seconds, float64, at which ticks (whole or fractional, not negative) sound."""
        at = np.searchsorted(self.ticks, ticks, side="right") - 1
        return self.seconds[at] + (ticks - self.ticks[at]) * self.seconds_per_tick[at]

    def to_ticks(self, seconds: np.ndarray) -> np.ndarray:
        """Return the nearest ticks, int64, of seconds that are not negative."""
        at = np.searchsorted(self.seconds, seconds, side="right") - 1
        return self.ticks[at] + np.rint((seconds - self.seconds[at]) / self.seconds_per_tick[at]).astype(np.int64)

    @classmethod
    def of(cls, tempos: Mapping[int, int], ticks_per_quarter: int) -> TempoMap:
        """Make the map of microseconds a quarter note that hold from their ticks on, rising, the first at tick 0."""
        ticks = np.array(list(tempos), dtype=np.int64)
        per_tick = np.array(list(tempos.values())) / (1e6 * ticks_per_quarter)
        seconds = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * per_tick[:-1])])
        return cls(ticks, seconds, per_tick, ticks_per_quarter)


@dataclass(frozen=True, eq=False)
class TempoLayout:
    """Where a song's beats lie in a MIDI file. All places are ticks."""

    ticks_per_quarter: int
    tempos: dict[int, int]
    """Tick → microseconds a quarter note from there on."""
    signatures: tuple[tuple[int, int, int], ...]
    """Tick, numerator and denominator of each time signature; the first is at tick 0."""
    first_beat: int
    first_downbeat: int
    """The first beat, where no downbeat is given."""
    last_beat: int
    tempo: TempoMap
    """The map that the tempos make."""


def lay_out(grid: BeatGrid | None) -> TempoLayout:
    """Lay a song's beats on the quarter notes of a MIDI file, its downbeats on bar lines.

    Each beat is within 0.1 ms of its quarter note, and there are as few tempos as that allows: a constant tempo stays
    one. The time before the first beat is counted in quarter notes, or in the fewest parts of one (down to a
    sixteenth) that keep its tempo within 5:4 of the first beat's. It fills whole bars up to the first downbeat; what
    is left makes a shorter bar at the start. A downbeat means the beat that is nearest to it.

    What a grid may lack: a first beat within 4 ms of the start is put on it; a gap of more than 4 s between beats gets
    quarter notes in between; a bar of more than 32 beats gets bar lines in between; without beats the tempo is 120
    quarter notes a minute, and without downbeats four beats make a bar.
    """
    beats = _filled(grid.beats) if grid and grid.beats else None
    if grid is None or beats is None:
        tempos = {0: DEFAULT_TEMPO}
        return TempoLayout(_RESOLUTIONS[0], tempos, ((0, 4, 4),), 0, 0, 0, TempoMap.of(tempos, _RESOLUTIONS[0]))
    lead_in = _lead_in(beats)
    if not lead_in:
        beats[0] = 0.0
    # Quarter notes; sixteenths of them are exact in floats.
    places = float(lead_in) + np.arange(len(beats))
    start = [0.0] if lead_in else []
    tempos = _tempos(np.concatenate([start, places]), np.concatenate([start, beats]))
    slowest = max(tempos.values()) / 1e6
    resolution = next((ticks for ticks in _RESOLUTIONS if slowest / ticks <= _COARSEST_TICK), _RESOLUTIONS[-1])
    at_ticks = {round(place * resolution): micros for place, micros in tempos.items()}
    downbeats = _nearest(beats, grid.downbeats)
    signatures = _signatures(lead_in, len(beats), downbeats)
    return TempoLayout(
        ticks_per_quarter=resolution,
        tempos=at_ticks,
        signatures=tuple((round(place * resolution), over, under) for place, over, under in signatures),
        first_beat=round(lead_in * resolution),
        first_downbeat=round(places[downbeats[0] if downbeats else 0] * resolution),
        last_beat=round(places[-1] * resolution),
        tempo=TempoMap.of(at_ticks, resolution),
    )


def _filled(beats: Sequence[float]) -> np.ndarray:
    """Return beats, float64, with more in gaps that are too long for one tempo, as far apart as beats usually are."""
    times = np.array(beats, dtype=np.float64)
    gaps = np.diff(times)
    if not np.any(gaps > _LONGEST_BEAT):
        return times
    usual = float(np.median(gaps[gaps <= _LONGEST_BEAT])) if np.any(gaps <= _LONGEST_BEAT) else _USUAL_BEAT
    pieces = [
        np.linspace(begin, end, max(2, round((end - begin) / max(usual, _USUAL_BEAT))), endpoint=False)
        if end - begin > _LONGEST_BEAT
        else np.array([begin])
        for begin, end in pairwise(times)
    ]
    return np.concatenate([*pieces, times[-1:]])


def _nearest(beats: np.ndarray, times: Sequence[float]) -> list[int]:
    """Return the numbers of the beats that are nearest to some times, each once, rising."""
    if not times:
        return []
    middles = (beats[1:] + beats[:-1]) / 2
    return np.unique(np.searchsorted(middles, times)).tolist()


def _lead_in(beats: np.ndarray) -> Fraction:
    """Return how many quarter notes go before the first beat."""
    first = float(beats[0])
    if first < _SHORTEST_LEAD_IN:
        return Fraction(0)
    length = first / (float(beats[1] - beats[0]) if len(beats) > 1 else _USUAL_BEAT)
    lead_in = Fraction(1)
    for unit in _LEAD_IN_UNITS:
        lead_in = Fraction(max(1, round(length * unit)), unit)
        if 1 / _LEAD_IN_STRETCH <= length / lead_in <= _LEAD_IN_STRETCH:
            break
    return lead_in


def _tempos(places: np.ndarray, seconds: np.ndarray) -> dict[float, int]:
    """Return quarter note → microseconds a quarter note, such that each place comes within 0.1 ms of its seconds.

    A tempo holds as long as one straight line meets all places since it began (within the tolerance). It is counted
    from where the rounded tempos before have really led, so that rounding errors do not add up.
    """
    tempos: dict[float, int] = {}
    begin, reached = 0, float(seconds[0])
    while begin < len(places) - 1 or not tempos:
        low, high, end, tempo = 0.0, math.inf, begin, DEFAULT_TEMPO
        while end < len(places) - 1:
            length = places[end + 1] - places[begin]
            aim = (seconds[end + 1] - reached) / length * 1e6
            low = max(low, aim - _BEAT_TOLERANCE / length * 1e6)
            high = min(high, aim + _BEAT_TOLERANCE / length * 1e6)
            if math.ceil(low) > math.floor(high) and end > begin:
                break
            end += 1
            tempo = min(max(round(aim), math.ceil(low), _FASTEST_TEMPO), max(math.floor(high), _FASTEST_TEMPO))
            tempo = min(tempo, _SLOWEST_TEMPO)
        tempos[float(places[begin])] = tempo
        reached += (places[end] - places[begin]) * tempo / 1e6
        if end == begin:
            break
        begin = end
    return tempos


def _signatures(lead_in: Fraction, beats: int, downbeats: Sequence[int]) -> list[tuple[float, int, int]]:
    """Return (quarter note, numerator, denominator) of the time signatures.

    Args:
        lead_in: quarter notes before the first beat.
        beats: how many there are.
        downbeats: numbers of beats, rising.
    """
    if not downbeats:
        downbeats = range(0, beats, _USUAL_BAR)
    lengths = [after - before for before, after in pairwise(downbeats)] or [_USUAL_BAR]
    usual = lengths[0] if lengths[0] <= MOST_BEATS_PER_BAR else _USUAL_BAR
    whole = int(lead_in)
    part = lead_in - whole
    bars: list[tuple[float, int, int]] = []
    if part:
        bars.append((0.0, part.numerator, 4 * part.denominator))
    before = whole + downbeats[0]
    if before % usual:
        bars.append((float(part), before % usual, 4))
    if before >= usual:
        bars.append((float(part) + before % usual, usual, 4))
    place = float(lead_in) + downbeats[0]
    for length in lengths:
        rest = length
        if length > MOST_BEATS_PER_BAR:
            bars.append((place, usual, 4))
            rest = length % usual
        if rest:
            bars.append((place + length - rest, rest, 4))
        usual = length if length <= MOST_BEATS_PER_BAR else usual
        place += length
    return [bar for number, bar in enumerate(bars) if number == 0 or bar[1:] != bars[number - 1][1:]]
