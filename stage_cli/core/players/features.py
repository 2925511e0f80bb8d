"""What players listen to: log-mel power, 50 frames a second, at any sample rate and in any pieces.

Power is in dB re a full-scale signal of power 1, so that the power of incoherent stems adds and one store of them
serves every mix: a sine of amplitude A gives 10 · log10(A² / 2) in its band, whatever the sample rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from stage_cli.core.audio.spectra import htk_hertz, htk_mels, triangles
from stage_cli.core.players.config import FeatureSettings

FLOOR_DB = -100.0
"""Of silence."""
_FLOOR_POWER = 10 ** (FLOOR_DB / 10)
_BLOCK_FRAMES = 512


class LogMel:
    """Turns mono audio into frames of log-mel power, piece by piece; pieces of any size give the same frames.

    Args:
        sample_rate: Hz. Bands above half of it hear nothing.
        settings: of the frames.
    """

    def __init__(self, sample_rate: int, settings: FeatureSettings | None = None) -> None:
        self.settings = settings or FeatureSettings()
        self.sample_rate = sample_rate
        self._window, self._size, self._filters = _filters(sample_rate, self.settings)
        self._half = len(self._window) // 2
        self._waiting = np.zeros(self._half, dtype=np.float32)
        self._first = -self._half  # place of the first waiting sample
        self._samples = 0
        self._frame = 0

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Take mono samples `[n]`; return the frames that are complete, `[frames, bands]` float32, dB."""
        self._samples += len(audio)
        self._waiting = np.concatenate([self._waiting, np.asarray(audio, dtype=np.float32)])
        return self._take(self._first + len(self._waiting))

    def finish(self) -> np.ndarray:
        """Return the last frames, `[frames, bands]`; silence follows the signal."""
        self._waiting = np.concatenate([self._waiting, np.zeros(2 * len(self._window), dtype=np.float32)])
        return self._take(self._first + len(self._waiting), self.settings.frames(self._samples, self.sample_rate))

    def _start(self, frame: int) -> int:
        return (2 * frame * self.sample_rate + self.settings.frame_rate) // (2 * self.settings.frame_rate) - self._half

    def _take(self, end: int, limit: int | None = None) -> np.ndarray:
        last = self._frame
        while (limit is None or last < limit) and self._start(last) + len(self._window) <= end:
            last += 1
        parts = [
            self._frames(first, min(first + _BLOCK_FRAMES, last)) for first in range(self._frame, last, _BLOCK_FRAMES)
        ]
        self._frame = last
        done = min(max(0, self._start(last) - self._first), len(self._waiting))
        self._waiting = self._waiting[done:]
        self._first += done
        return np.concatenate(parts) if parts else np.zeros((0, self.settings.bands), dtype=np.float32)

    def _frames(self, first: int, last: int) -> np.ndarray:
        starts = np.array([self._start(frame) for frame in range(first, last)]) - self._first
        windows = np.lib.stride_tricks.sliding_window_view(self._waiting, len(self._window))[starts] * self._window
        spectrum = np.fft.rfft(windows, self._size, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return decibels(power @ self._filters)


def log_mel(
    blocks: Iterable[np.ndarray], sample_rate: int, settings: FeatureSettings | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames `[frames, bands]` (dB) of audio that comes in blocks, `[n]` or `[n, channels]`."""
    stream = LogMel(sample_rate, settings)
    for block in blocks:
        mono = block if block.ndim == 1 else block.mean(axis=1)
        yield stream.push(mono)
    yield stream.finish()


def decibels(power: np.ndarray) -> np.ndarray:
    """Return power in dB, −100 at least, float32."""
    return (10 * np.log10(np.maximum(power, _FLOOR_POWER))).astype(np.float32)


def add_powers(levels: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Return the level of stems that sound together, dB.

    Args:
        levels: `[stems, …]`, dB.
        gains: `[stems]`, dB; none if left out.
    """
    if gains is not None:
        levels = levels + gains.reshape(-1, *[1] * (levels.ndim - 1)).astype(np.float32)
    return decibels(np.exp(levels.astype(np.float32) * np.float32(math.log(10) / 10)).sum(axis=0))


@lru_cache(maxsize=8)
def _filters(sample_rate: int, settings: FeatureSettings) -> tuple[np.ndarray, int, np.ndarray]:
    """Return the window, the size of the transform, and filters `[size / 2 + 1, bands]` that give power."""
    length = max(16, 2 * round(settings.window * sample_rate / 2))
    window = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    # Not scipy's `next_fast_len`: its import takes as long as listening to a song.
    size = next(n for n in itertools.count(length) if _is_fast(n))
    size += size % 2
    ends = htk_mels(np.array([settings.lowest, settings.highest]))
    corners = htk_hertz(np.linspace(ends[0], ends[1], settings.bands + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    # A triangle narrower than two bins may fall between them.
    width = sample_rate / size
    filters = triangles(
        np.fft.rfftfreq(size, 1 / sample_rate),
        np.minimum(low, centre - width),
        centre,
        np.maximum(high, centre + width),
    )
    filters *= 2 / (size * float(np.square(window).sum()))
    return window, size, filters.astype(np.float32)


def _is_fast(size: int) -> bool:
    """Return whether a transform of this size is fast: its only prime factors are 2, 3 and 5."""
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    return size == 1
