"""WAV that is listened to while it is written: through a pipe, or as a file that grows."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from stage_cli.core.audio.files import display_name
from stage_cli.core.audio.writing import unwritable
from stage_cli.errors import UsageError

_LIVE_BYTES = 2
_FULL_SCALE = 2**15
# Where what was too loud is turned down to, and in how many seconds.
_CEILING, _FADE_SECONDS = 10 ** (-0.1 / 20), 0.005
# What stands for a size that 32 bits do not hold: readers then go on to the end.
_UNKNOWN_SIZE = 2**32 - 1


class LiveWav:
    """Write 16-bit WAV, each block at once, so that it is heard when it is written.

    The header tells the length before the samples are there: a player shows it, and what is saved from a pipe is a
    file like any other. Nothing is ever sought, for a pipe cannot.

    Args:
        file: open for writing bytes; whoever opened it closes it.
        sample_rate: Hz.
        channels: columns of every block.
        frames: the length.

    What is too loud is turned down, and stays so: what was heard before it cannot be turned down any more.

    Attributes:
        peak: the highest absolute sample so far, before it was turned down; full scale 1.0.
        gain: factor by which blocks are turned down now, at most 1.

    Raises (also on writing):
        OSError: as the file does; BrokenPipeError if nobody listens any more.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, channels: int, frames: int) -> None:
        self.peak, self.gain = 0.0, 1.0
        self._file = file
        self._fade_frames = max(1, round(_FADE_SECONDS * sample_rate))
        self._send(_header(sample_rate, channels, frames))

    def write(self, block: np.ndarray) -> None:
        """Append a block, `[frames, channels]` (`[frames]` if mono), turned down if it would clip."""
        if not len(block):
            return
        peak = float(np.abs(block).max())
        self.peak = max(self.peak, peak)
        before, self.gain = self.gain, self.gain if peak * self.gain <= 1 else _CEILING / peak
        # A step in the gain would click. What rises within the fade is cut, at worst for its length.
        gains = np.full(len(block), self.gain, dtype=np.float32)
        fade = min(self._fade_frames, len(block))
        gains[:fade] = np.linspace(before, self.gain, fade, dtype=np.float32)
        turned_down = block * gains.reshape(-1, *[1] * (block.ndim - 1))
        samples = np.clip(np.rint(turned_down * np.float32(_FULL_SCALE)), -_FULL_SCALE, _FULL_SCALE - 1)
        self._send(samples.astype("<i2").tobytes())

    def _send(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


class GrowingWav:
    """A WAV file to listen to while it grows: a context manager, after which the file is gone, whatever happens.

    It is no result: that is written whole, beside it (`AtomicAudioWriter`). Missing folders are created.

    Args:
        path: where the file will be.
        sample_rate: Hz.
        channels: columns of every block.
        frames: the length.
        overwrite: replace a file that exists.

    Raises (on entering or writing):
        UsageError: the file exists and `overwrite` is off.
        AudioError: the folder cannot be made or written to, the name is too long, the disk is full.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int, frames: int, *, overwrite: bool = False) -> None:
        self.path = path
        self._facts = sample_rate, channels, frames
        self._overwrite = overwrite

    def __enter__(self) -> GrowingWav:
        name = display_name(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._overwrite:
                self.path.unlink(missing_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise unwritable(name, error) from error
        try:
            self._file = self.path.open("xb")
        except FileExistsError as error:
            raise UsageError(
                f"{name} already exists",
                why="another run is writing it, or was killed while it did",
                next_step="use --overwrite to replace it, or another name",
            ) from error
        except (OSError, ValueError) as error:
            raise unwritable(name, error) from error
        try:
            self._wav = LiveWav(self._file, *self._facts)
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise unwritable(name, error) from error
            raise
        return self

    def write(self, block: np.ndarray) -> None:
        """Append a block; see `LiveWav.write`."""
        try:
            self._wav.write(block)
        except OSError as error:
            raise unwritable(display_name(self.path), error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk fails once more on closing
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def _header(sample_rate: int, channels: int, frames: int) -> bytes:
    frame_size = channels * _LIVE_BYTES
    form = struct.pack("<HHIIHH", 1, channels, sample_rate, sample_rate * frame_size, frame_size, 8 * _LIVE_BYTES)
    size = min(frames * frame_size, _UNKNOWN_SIZE)
    whole = min(size + 36, _UNKNOWN_SIZE)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", whole, b"WAVE", b"fmt ", len(form))
        + form
        + struct.pack("<4sI", b"data", size)
    )
