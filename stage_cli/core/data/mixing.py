"""Read all tracks of a song side by side, block by block, and sum them by stem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stage_cli.core.audio import AudioInfo, StreamResampler, probe, read_blocks
from stage_cli.core.data.layouts import Song

HOP_SECONDS = 0.1
"""Blocks hold a whole number of hops of this length, but for the last."""

_HOPS_PER_BLOCK = 16


class SongAudio:
    """The stems of a song as one stream: tracks summed by stem, at one rate, shorter ones padded with silence.

    Attributes:
        sample_rate: Hz, the highest of all tracks; slower tracks are resampled.
        hop: frames of 0.1 s.
        channels: of each stem: those of its tracks, mono ones on all channels; where tracks have different numbers
            of channels above one, 1.
        frames: at that rate, once the stream has been iterated.

    Raises (when it is made, or on iterating):
        AudioError: a track is missing, damaged, empty or not finite.
    """

    def __init__(self, song: Song) -> None:
        infos = {stem: [probe(track.path) for track in tracks] for stem, tracks in song.stems.items()}
        self.sample_rate = max(info.sample_rate for stem in infos.values() for info in stem)
        self.hop = round(HOP_SECONDS * self.sample_rate)
        self.channels = {stem: _common_channels(found) for stem, found in infos.items()}
        self.frames = 0
        self._infos = infos

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield, by stem, `[frames, channels]` float32; all of a block have the same number of frames."""
        size = _HOPS_PER_BLOCK * self.hop
        streams = {
            stem: [_TrackStream(info, self.sample_rate, size) for info in infos] for stem, infos in self._infos.items()
        }
        self.frames = 0
        while True:
            blocks = {stem: [stream.read() for stream in tracks] for stem, tracks in streams.items()}
            frames = max(len(block) for stem in blocks.values() for block in stem)
            if not frames:
                return
            self.frames += frames
            yield {stem: _sum(tracks, frames, self.channels[stem]) for stem, tracks in blocks.items()}
            if frames < size:
                return


def mono_sum(blocks: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """Return the sum of blocks `[frames, channels]`, each the mean of its channels: `[frames]` float32."""
    total = np.zeros(frames, dtype=np.float32)
    for block in blocks:
        # Column by column: numpy's mean along rows of two takes ten times as long.
        for channel in range(block.shape[1]):
            total += block[:, channel] / np.float32(block.shape[1])
    return total


class _TrackStream:
    """One file in blocks of exactly `size` frames at the song's rate, until a shorter one, and empty ones, end it."""

    def __init__(self, info: AudioInfo, sample_rate: int, size: int) -> None:
        self._size = size
        self._channels = info.channels
        self._blocks = self._decode(info.path, info.sample_rate, sample_rate)
        self._rest = np.zeros((0, info.channels), dtype=np.float32)

    def read(self) -> np.ndarray:
        parts, frames = [self._rest] if len(self._rest) else [], len(self._rest)
        while frames < self._size and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            frames += len(block)
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else self._rest
        self._rest = joined[self._size :]
        return joined[: self._size]

    def _decode(self, path: Path, source_rate: int, sample_rate: int) -> Iterator[np.ndarray]:
        if source_rate == sample_rate:
            yield from read_blocks(path, block_frames=self._size)
            return
        resampler = StreamResampler(source_rate, sample_rate, self._channels)
        for block in read_blocks(path):
            yield resampler.push(block).reshape(-1, self._channels)
        yield resampler.finish()


def _common_channels(infos: Sequence[AudioInfo]) -> int:
    most = max(info.channels for info in infos)
    # Stereo and 5.1 have no common meaning of "channel 2".
    return most if all(info.channels in (1, most) for info in infos) else 1


def _sum(blocks: Sequence[np.ndarray], frames: int, channels: int) -> np.ndarray:
    """Sum blocks of unequal lengths and channels: `[frames, channels]`."""
    first = blocks[0]
    if len(blocks) == 1 and first.shape == (frames, channels):
        return first
    total = np.zeros((frames, channels), dtype=np.float32)
    for block in blocks:
        fitting = block if block.shape[1] in (1, channels) else block.mean(axis=1, keepdims=True, dtype=np.float32)
        total[: len(block)] += fitting
    return total
