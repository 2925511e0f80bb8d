"""A beat grid as the ears take it."""

from __future__ import annotations

import numpy as np

from stage_cli.core.players.config import GRID_CHANNELS

_HARMONICS = 4


def grid_channels(
    beats: np.ndarray | None, downbeats: np.ndarray | None, frames: int, frame_rate: int, *, start: float = 0.0
) -> np.ndarray:
    """Return a grid's channels, `[frames, GRID_CHANNELS]` float32; zeros where nothing is known.

    Channels: pulses at beats and at downbeats (shared between the two frames that a time lies between); cosine and
    sine of the place in the beat, of its 1st to 4th harmonic; of the place in the bar, of the first; and two that say
    that beats and that downbeats are shown.

    Args:
        beats: seconds, rising; None or fewer than two: not known. The first and last tempo go on beyond them.
        downbeats: seconds, rising; None or fewer than two: not known. Not used without beats.
        frames: how many.
        frame_rate: frames a second.
        start: seconds of the first frame.
    """
    channels = np.zeros((frames, GRID_CHANNELS), dtype=np.float32)
    times = start + np.arange(frames) / frame_rate
    if beats is None or len(beats) < 2:
        return channels
    channels[:, 0] = pulses(beats - start, frames, frame_rate)
    _add_turns(channels[:, 2 : 2 + 2 * _HARMONICS], phase(beats, times), _HARMONICS)
    channels[:, 12] = 1
    if downbeats is not None and len(downbeats) >= 2:
        channels[:, 1] = pulses(downbeats - start, frames, frame_rate)
        _add_turns(channels[:, 10:12], phase(downbeats, times), 1)
        channels[:, 13] = 1
    return channels


def pulses(times: np.ndarray, frames: int, frame_rate: int, *, width: float = 1.0) -> np.ndarray:
    """Return triangles of height 1 and half width `width` frames around times (seconds), `[frames]` float32."""
    result = np.zeros(frames, dtype=np.float32)
    places = np.asarray(times) * frame_rate
    reach = int(np.ceil(width))
    near = np.floor(places).astype(np.int64)
    for offset in range(-reach, reach + 1):
        at = near + offset
        height = 1 - np.abs(at - places) / width
        inside = (at >= 0) & (at < frames) & (height > 0)
        np.maximum.at(result, at[inside], height[inside].astype(np.float32))
    return result


def phase(marks: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return how many marks (and parts of the way to the next) lie before each time, going on evenly beyond the ends.

    Args:
        marks: two or more, rising.
        times: of any order.
    """
    numbers = np.arange(len(marks))
    inside = np.interp(times, marks, numbers)
    before = np.minimum(times - marks[0], 0) / (marks[1] - marks[0])
    after = np.maximum(times - marks[-1], 0) / (marks[-1] - marks[-2])
    return inside + before + after


def _add_turns(channels: np.ndarray, turns: np.ndarray, harmonics: int) -> None:
    for harmonic in range(harmonics):
        angle = 2 * np.pi * (harmonic + 1) * turns
        channels[:, 2 * harmonic] = np.cos(angle)
        channels[:, 2 * harmonic + 1] = np.sin(angle)
