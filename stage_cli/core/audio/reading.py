"""Read audio files as streams of blocks: everything that libsndfile reads, or mono at another sample rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.decoding import AudioDecoder
from stage_cli.core.audio.resample import StreamResampler
from stage_cli.core.files import display_name
from stage_cli.errors import AudioError, UsageError

BLOCK_FRAMES = 65_536
"""Frames of a block, unless the caller asks for another size: 1.4 s at 48 kHz."""

# Mixes in float files rise above full scale, but not by 60 dB. Integers stored as floats do (a common mistake),
# and so does garbage such as 1e30, which would overflow further on.
LOUDEST_SAMPLE = 1000.0
_LONGEST_SECONDS = 1e9


@dataclass(frozen=True)
class AudioInfo:
    """What is known of an audio file before it is decoded.

    Args:
        path: the file.
        sample_rate: Hz.
        channels: 1 for mono.
        frames: as the file promises; of lossy formats (MP3) the number really decoded may differ.
        duration: seconds, `frames / sample_rate`.
        format: libsndfile's name, such as "WAV".
        subtype: libsndfile's name, such as "PCM_16".
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int
    duration: float
    format: str
    subtype: str


def probe(path: Path) -> AudioInfo:
    """Look at an audio file without decoding it (except where its header states no length).

    Raises:
        AudioError: the file is missing, a folder, empty, not audio, without samples, truncated, or not permitted.
    """
    with AudioDecoder(path) as decoder:
        frames = decoder.frames
        if frames is None:  # FLAC that was written into a pipe
            while len(decoder.read(BLOCK_FRAMES)):
                pass
            frames = decoder.position
        return AudioInfo(
            path=path,
            sample_rate=decoder.sample_rate,
            channels=decoder.channels,
            frames=frames,
            duration=frames / decoder.sample_rate,
            format=decoder.format,
            subtype=decoder.subtype,
        )


def read_blocks(
    path: Path, *, start: float = 0.0, duration: float | None = None, block_frames: int = BLOCK_FRAMES
) -> Iterator[np.ndarray]:
    """Decode a file, or a part of it, block by block.

    Args:
        path: the file.
        start: seconds; rounded to the nearest frame.
        duration: seconds, at least one frame; None, or more than there is, reads to the end.
        block_frames: frames of every block but the last.

    Yields: `[frames, channels]` float32, full scale ±1 (float files may exceed it, up to ±1000), never empty.

    Raises:
        AudioError: as `probe`, or a part cannot be decoded, or a sample is NaN, infinite or beyond ±1000.
        UsageError: start or duration is no sensible number, or start lies past the end. As for any generator, all of
            them are raised when the iteration begins.
    """
    _check_range(start, duration)
    with AudioDecoder(path) as decoder:
        first = _frame(start, decoder.sample_rate)
        if decoder.frames is not None and first >= decoder.frames:
            raise _past_the_end(path, start, decoder.frames / decoder.sample_rate)
        decoder.skip_to(first)
        last = None if duration is None else max(first + 1, _frame(start + duration, decoder.sample_rate))
        while last is None or decoder.position < last:
            position = decoder.position
            block = decoder.read(block_frames if last is None else min(block_frames, last - position))
            if not len(block):
                if not decoder.position:
                    raise AudioError(f"cannot read {display_name(path)}", why="no sample could be decoded")
                if decoder.position <= first:
                    raise _past_the_end(path, start, decoder.position / decoder.sample_rate)
                return
            _check_samples(block, path, position, decoder.sample_rate)
            yield block


def to_mono(block: np.ndarray) -> np.ndarray:
    """Mix `[frames, channels]` down to `[frames]`: the mean of the channels, float32."""
    # Column by column: numpy's mean over an axis of two takes forty times as long.
    mono = block[:, 0].astype(np.float32)
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    return mono / np.float32(block.shape[1])


@dataclass(frozen=True)
class MonoStats:
    """What a `MonoStream` has learned of its audio when all of it has been read.

    Args:
        source_frames: frames that were decoded, at the file's rate.
        source_rate: Hz.
        source_peak: the highest absolute sample of any channel; full scale 1.0.
        channels: of the file.
        frames: that were yielded, at the reader's rate.
        peak: the highest absolute sample that was yielded (0.0 where channels cancel each other out).
        rms: root mean square of the samples that were yielded.
    """

    source_frames: int
    source_rate: int
    source_peak: float
    channels: int
    frames: int
    peak: float
    rms: float


class MonoStream:
    """Audio as a stream of mono blocks at one sample rate; `stats` once it has been iterated.

    The stream has ceil(source frames · sample_rate / source rate) frames in all. It can be iterated again.

    Args:
        blocks: called at the start of each iteration; yields `[frames, channels]` float32, never empty.
        source_rate: Hz of those blocks.
        channels: of those blocks.
        sample_rate: Hz of the mono blocks, such as the model's 32000.
    """

    def __init__(
        self, blocks: Callable[[], Iterable[np.ndarray]], source_rate: int, channels: int, sample_rate: int
    ) -> None:
        self.sample_rate = sample_rate
        self._blocks = blocks
        self._source_rate = source_rate
        self._channels = channels
        self._stats: MonoStats | None = None

    @property
    def stats(self) -> MonoStats:
        """What was read. Raises ValueError before the iteration has come to its end."""
        if self._stats is None:
            raise ValueError("stats are known when the whole stream has been read")
        return self._stats

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield `[frames]` float32, never empty."""
        self._stats = None
        resampler = StreamResampler(self._source_rate, self.sample_rate)
        source, heard = _Level(), _Level()
        for block in self._blocks():
            source.add(block)
            mono = resampler.push(to_mono(block))
            if len(mono):
                heard.add(mono)
                yield mono
        mono = resampler.finish()[:, 0]
        if len(mono):
            heard.add(mono)
            yield mono
        self._stats = MonoStats(
            source_frames=source.frames,
            source_rate=self._source_rate,
            source_peak=source.peak,
            channels=self._channels,
            frames=heard.frames,
            peak=heard.peak,
            rms=math.sqrt(heard.energy / heard.frames),
        )


class MonoReader(MonoStream):
    """A file, or a part of it, as a `MonoStream`.

    Args:
        path: the file.
        sample_rate: Hz of the blocks, such as the model's 32000.
        start: seconds.
        duration: seconds; None reads to the end.
        block_frames: frames of a decoded block, at the file's rate.

    Raises (when it is made, or, for what shows only on decoding, when it is iterated):
        AudioError, UsageError: as `read_blocks`.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        *,
        start: float = 0.0,
        duration: float | None = None,
        block_frames: int = BLOCK_FRAMES,
    ) -> None:
        _check_range(start, duration)
        self.info = probe(path)
        if _frame(start, self.info.sample_rate) >= self.info.frames:
            raise _past_the_end(path, start, self.info.duration)
        super().__init__(
            lambda: read_blocks(path, start=start, duration=duration, block_frames=block_frames),
            self.info.sample_rate,
            self.info.channels,
            sample_rate,
        )


class _Level:
    """The running peak and energy (sum of squares) of a stream."""

    def __init__(self) -> None:
        self.frames = 0
        self.peak = 0.0
        self.energy = 0.0

    def add(self, block: np.ndarray) -> None:
        self.frames += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.energy += float(np.square(block, dtype=np.float64).sum())


def _check_range(start: float, duration: float | None) -> None:
    if not (math.isfinite(start) and start >= 0):
        raise UsageError(f"`start` cannot be {start:g}", next_step="give the seconds to skip, 0 or more")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise UsageError(f"`duration` cannot be {duration:g}", next_step="give a number of seconds above 0")


def _frame(seconds: float, sample_rate: int) -> int:
    # 1e308 s lie past the end of every file, too, and not beyond what a float holds.
    return round(min(seconds, _LONGEST_SECONDS) * sample_rate)


def _past_the_end(path: Path, start: float, duration: float) -> UsageError:
    return UsageError(
        f"`start` {start:g} lies past the end of {display_name(path)}",
        why=f"the file is {duration:.3f} s long",
        next_step=f"give a `start` below {duration:.3f}",
    )


def _check_samples(block: np.ndarray, path: Path, position: int, sample_rate: int) -> None:
    """Refuse a block that begins at frame `position` if a sample is NaN, infinite or beyond ±`LOUDEST_SAMPLE`."""
    # NaN makes the maximum NaN, and no comparison with NaN is true. (An array of absolute values would cost more.)
    if block.max() <= LOUDEST_SAMPLE and block.min() >= -LOUDEST_SAMPLE:
        return
    frame, channel = (int(index[0]) for index in np.nonzero(~(np.abs(block) <= LOUDEST_SAMPLE)))
    value = float(block[frame, channel])
    time = (position + frame) / sample_rate
    if math.isfinite(value):
        why = f"the sample at {time:.3f} s is {value:g}, more than 60 dB above full scale (±1)"
        step = "scale the samples to ±1 and export again (integers were perhaps stored as floats)"
    else:
        why = f"the sample at {time:.3f} s is {value:g}, not a number between -1 and 1"
        step = "repair it by exporting it as 24-bit PCM, and listen at that time for a broken plug-in"
    raise AudioError(f"{display_name(path)} holds samples that are not audio", why=why, next_step=step)
