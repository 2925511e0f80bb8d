"""Read only the needed seconds of a song's stems: mono, any rate, files or members of a shard. Imports no torch."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.decoding import AudioDecoder
from stage_cli.errors import AudioError

EDGE_SECONDS = 0.04
"""Read beyond both ends of a chunk that is resampled: longer than the filter, and whole frames at all usual rates."""

_LOUDEST_SAMPLE = 1000.0  # as in audio.reading: beyond it, samples are not audio
_BUFFER = 1 << 16  # bytes


@dataclass(frozen=True)
class AudioFile:
    """An audio file, or the part of a shard that holds one.

    Attributes:
        path: the file, or the shard.
        name: of the member in the shard; "" for a file of its own.
        offset: bytes before it in the shard.
        size: bytes; None for a file of its own.
    """

    path: Path
    name: str = ""
    offset: int = 0
    size: int | None = None

    @property
    def display_path(self) -> Path:
        """What error messages call it."""
        return self.path / self.name if self.name else self.path

    def open(self) -> AudioDecoder:
        """Open it for decoding.

        Raises:
            AudioError: it is missing, not audio, empty or cut off.
        """
        return AudioDecoder(self.path) if self.size is None else _MemberDecoder(self)


@dataclass(frozen=True)
class AudioLimits:
    """What no file of a song may exceed: a file that does is not the one that was prepared.

    Attributes:
        sample_rate: Hz.
        duration: seconds.
    """

    sample_rate: int
    duration: float


def read_mono(file: AudioFile, start: float, duration: float, limits: AudioLimits) -> tuple[np.ndarray, int]:
    """Read a part of one file; what lies before its start and after its end is silence.

    Args:
        file: what to read.
        start: seconds; may be negative.
        duration: seconds.
        limits: of the song.

    Returns:
        `[round(duration · sample_rate)]` float32, the mean of the channels, and the file's sample rate in Hz.

    Raises:
        AudioError: the file cannot be read, holds samples that are not audio, or exceeds the limits.
    """
    with file.open() as decoder:
        rate = decoder.sample_rate
        length = 0 if decoder.frames is None else decoder.frames / rate
        # Lossy formats tell a little more than they hold.
        if rate > limits.sample_rate or (decoder.is_exact and length > limits.duration + 1.5 / rate):
            raise AudioError(
                f"{decoder.name} is not the audio that was prepared",
                why=f"it has {length:.3f} s at {rate} Hz, features.json tells of {limits.duration:.3f} s "
                f"at {limits.sample_rate} Hz",
                next_step="run stage prepare-data again",
            )
        first, frames = round(start * rate), round(duration * rate)
        samples = np.zeros(frames, dtype=np.float32)
        at = max(0, -first)  # silence before the song
        if at >= frames or (decoder.frames is not None and first >= decoder.frames):
            return samples, rate
        decoder.skip_to(first + at)
        while at < frames and len(block := decoder.read(frames - at)):
            samples[at : at + len(block)] = _mean_of_channels(block)
            at += len(block)
        peak = np.abs(samples).max(initial=0.0)
        if not peak <= _LOUDEST_SAMPLE:
            raise AudioError(
                f"{decoder.name} holds samples that are not audio",
                why=f"between {max(start, 0):.3f} s and {start + duration:.3f} s there is a sample of {peak:g}",
                next_step="repair it by exporting it as 24-bit PCM",
            )
    return samples, rate


def read_stem(
    files: Sequence[AudioFile], start: float, duration: float, sample_rate: int, limits: AudioLimits
) -> np.ndarray:
    """Sum a part of the tracks of one stem.

    Args:
        files: the tracks, of any rates.
        start: seconds; may be negative.
        duration: seconds.
        sample_rate: Hz of the result.
        limits: of the song.

    Returns:
        `[round(duration · sample_rate)]` float32.

    Raises:
        AudioError: as `read_mono`.
    """
    frames = round(duration * sample_rate)
    total: np.ndarray | None = None
    for file in files:
        samples, rate = read_mono(file, start, duration, limits)
        if rate != sample_rate:
            samples, _ = read_mono(file, start - EDGE_SECONDS, duration + 2 * EDGE_SECONDS, limits)
            samples = resample(samples, rate, sample_rate)[round(EDGE_SECONDS * sample_rate) :][:frames]
        total = samples if total is None else total + samples
    return np.zeros(frames, dtype=np.float32) if total is None else total


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Change the rate of `[frames]` float32; the result has `round(frames · target / source)` frames, without delay."""
    if source_rate == target_rate:
        return samples
    import soxr

    return soxr.resample(samples, source_rate, target_rate, quality="HQ")


def _mean_of_channels(block: np.ndarray) -> np.ndarray:
    """Mix `[frames, channels]` down; column by column, which is forty times as fast as numpy's mean over pairs."""
    mono = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    mono *= np.float32(1 / block.shape[1])
    return mono


class _MemberDecoder(AudioDecoder):
    """Decodes one member of a shard."""

    def __init__(self, member: AudioFile) -> None:
        self._member = member
        super().__init__(member.display_path)

    def _open_file(self) -> io.BufferedReader:
        assert self._member.size is not None
        try:
            return io.BufferedReader(_FilePart(self._member.path, self._member.offset, self._member.size), _BUFFER)
        except OSError as error:
            raise AudioError(f"cannot read {self.name}", why=error.strerror or str(error)) from error


class _FilePart(io.RawIOBase):
    """`size` bytes of a file, from `offset` on, as a file of their own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._position = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # ty: ignore[incompatible-method-override]
        wanted = max(0, min(len(buffer), self._size - self._position))
        if not wanted:
            return 0
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
