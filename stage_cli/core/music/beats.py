"""Beat grids, and the metronome tracks that a model accompanies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stage_cli.errors import UsageError

SLOWEST_BPM = 20.0
FASTEST_BPM = 400.0
MOST_BEATS_PER_BAR = 32
LONGEST_DURATION = 24 * 3600.0
"""Seconds."""

CLICK_FREQUENCY = 1000.0
"""Hz."""
CLICK_DURATION = 0.1
"""Seconds; a click fades by a factor of 2 every hundredth of a second."""
_CLICK_HALVINGS = 10

BLOCK_FRAMES = 65_536


@dataclass(frozen=True)
class BeatGrid:
    """The times of beats and downbeats (first beats of bars) in seconds, rising.

    A downbeat is a beat too, and stands in both.

    Raises:
        ValueError: a time is negative or not finite, or times do not rise.
    """

    beats: tuple[float, ...]
    downbeats: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, times in (("beats", self.beats), ("downbeats", self.downbeats)):
            if not all(math.isfinite(time) and time >= 0 for time in times):
                raise ValueError(f"{name} must be finite and not negative")
            if not all(before < after for before, after in pairwise(times)):
                raise ValueError(f"{name} must rise")


def constant_grid(bpm: float, beats_per_bar: int = 4, duration: float = 30.0, offset: float = 0.0) -> BeatGrid:
    """Return the grid of a constant tempo; the first beat is a downbeat.

    Args:
        bpm: beats a minute, 20 to 400.
        beats_per_bar: 1 to 32.
        duration: seconds, above 0, up to 24 hours; beats lie before it.
        offset: seconds of the first beat, from 0 to below `duration`.

    Raises:
        UsageError: a value is out of range; the error names the field.
    """
    _check("bpm", bpm, SLOWEST_BPM <= bpm <= FASTEST_BPM, f"{SLOWEST_BPM:g} to {FASTEST_BPM:g}")
    _check(
        "beats_per_bar",
        beats_per_bar,
        1 <= beats_per_bar <= MOST_BEATS_PER_BAR and beats_per_bar == int(beats_per_bar),
        f"a whole number from 1 to {MOST_BEATS_PER_BAR}",
    )
    _check_duration(duration)
    _check("offset", offset, 0 <= offset < duration, f"seconds from 0 to below the duration ({duration:g})")
    # Each beat from its number, not from the beat before: rounding errors do not add up.
    count = math.ceil((duration - offset) * bpm / 60) + 1
    times = (offset + beat * 60 / bpm for beat in range(count))
    beats = tuple(time for time in times if time < duration)
    return BeatGrid(beats=beats, downbeats=beats[:: int(beats_per_bar)])


def metronome(grid: BeatGrid, duration: float, sample_rate: int) -> np.ndarray:
    """Return a metronome track `[samples]`, float32, within ±1; `metronome_blocks` in one piece."""
    return np.concatenate(list(metronome_blocks(grid, duration, sample_rate)))


def metronome_blocks(
    grid: BeatGrid, duration: float, sample_rate: int, *, block_frames: int = BLOCK_FRAMES
) -> Iterator[np.ndarray]:
    """Yield a metronome track block by block; memory does not grow with its length.

    As STAGE was trained: the sum of `librosa.clicks` on the beats and `librosa.clicks` on the downbeats, clipped
    to ±1. So a downbeat has two clicks at once and is twice as loud as a beat, as far as ±1 allows. The samples are
    the same for every `block_frames`. One difference: a click starts at the sample nearest to its time, librosa's
    at the one before. Clicks that begin at or after `duration` are left out, those that cross it are cut.

    Args:
        grid: the beats.
        duration: seconds; the track has round(duration · sample_rate) samples, at least one.
        sample_rate: Hz.
        block_frames: samples of every block but the last.

    Yields: `[samples]` float32 within ±1.

    Raises:
        UsageError: the duration is not above 0 and up to 24 hours.
    """
    _check_duration(duration)
    total = max(1, round(duration * sample_rate))
    click = _click(sample_rate)
    tracks = [np.rint(np.asarray(times) * sample_rate).astype(np.int64) for times in (grid.beats, grid.downbeats)]
    for first in range(0, total, block_frames):
        block = np.zeros(min(block_frames, total - first), dtype=np.float32)
        for starts in tracks:
            # Clicks that reach into this block: they begin before its end, and less than a click before its start.
            begin, end = np.searchsorted(starts, (first - len(click) + 1, first + len(block)))
            for start in starts[begin:end]:
                at = int(start) - first
                part = click[max(0, -at) : len(block) - at]
                block[max(0, at) : max(0, at) + len(part)] += part
        yield np.clip(block, -1.0, 1.0)


def _click(sample_rate: int) -> np.ndarray:
    """Return librosa's click: a 1 kHz sine that fades from 1 to 2^-10 in 100 ms."""
    frames = round(CLICK_DURATION * sample_rate)
    fade = np.logspace(0, -_CLICK_HALVINGS, num=frames, base=2.0)
    return (fade * np.sin(2 * np.pi * CLICK_FREQUENCY / sample_rate * np.arange(frames))).astype(np.float32)


def _check_duration(duration: float) -> None:
    _check("duration", duration, 0 < duration <= LONGEST_DURATION, "seconds above 0, up to 24 hours (86400)")


def _check(field: str, value: float, allowed: bool, range_text: str) -> None:
    """Raise a UsageError unless the value is allowed; NaN, which fails every comparison, never is."""
    if not allowed:
        raise UsageError(f"`{field}` cannot be {value:g}", next_step=f"allowed: {range_text}")
