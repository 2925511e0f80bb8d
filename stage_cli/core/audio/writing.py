"""Write audio files whole or not at all.

WAV that is listened to while it is written: through a pipe, or as a file that grows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import struct
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.files import GuardedFile, display_name, sync_folder
from stage_cli.errors import AudioError, UsageError

OUTPUT_FORMATS: tuple[str, ...] = ("wav", "flac")

_BYTES_PER_SAMPLE = {"PCM_24": 3, "FLOAT": 4}
# A WAV file counts its bytes in 32 bits; some room is left for the header.
_LARGEST_WAV = 2**32 - 4096
_FLAC_CHANNELS = 8
_FLAC_RATE = 655_350  # Hz
# soundfile asserts that libsndfile took every frame; GuardedFile raises the system's error where there is one.
_WRITE_ERRORS = (OSError, soundfile.LibsndfileError, AssertionError)


class AtomicAudioWriter:
    """Write an audio file block by block: a context manager; the file has its name only when it is whole.

    The samples go to a hidden `.part` file in the same folder, which gets its name after all of it has reached the
    disk, and is deleted if anything goes wrong, a Ctrl-C included. Missing folders are created; a symbolic link is
    written through. A WAV file that is known to pass 4 GiB becomes RF64.

    Args:
        path: where the file will be.
        sample_rate: Hz.
        channels: columns of every block.
        format: "wav" or "flac".
        overwrite: replace a file that exists.
        frames: the length, where it is known before; leaving with another length is a ValueError.
        subtype: "PCM_24", or "FLOAT" (32 bits, WAV only), which may exceed full scale.

    Raises (on entering, writing or leaving):
        UsageError: the file exists and `overwrite` is off (also if it has appeared meanwhile: it is never replaced
            then), the name is a folder's, or the format is none of `OUTPUT_FORMATS`.
        AudioError: the folder cannot be made or written to, the name is too long, the disk is full, the format
            cannot hold the rate, the channels or the length.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        format: str = "wav",
        overwrite: bool = False,
        *,
        frames: int | None = None,
        subtype: str = "PCM_24",
    ) -> None:
        self.path = path
        self.name = display_name(path)
        self.sample_rate = sample_rate
        self.channels = channels
        self.format = format
        self.overwrite = overwrite
        self.frames = frames
        self.subtype = subtype
        self.frames_written = 0
        self._check_format()

    def __enter__(self) -> AtomicAudioWriter:
        try:
            self._target = Path(os.path.realpath(self.path))
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._check_target()
            # Short, so that every name that the folder allows has room for it.
            self._part = self._target.with_name(f".stage-{secrets.token_hex(6)}.part")
            # A Ctrl-C may come when the file is there and nobody holds it yet: after `open` has made it, or at the
            # very beginning of `__exit__`. Then nothing below is reached, but this is.
            self._delete_part = weakref.finalize(self, _delete, self._part, os.getpid())
            self._file = self._part.open("xb")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise self._unwritable(error) from error
        try:
            self._guard = GuardedFile(self._file)
            with self._guard:
                self._sound = soundfile.SoundFile(
                    cast("BinaryIO", self._guard),
                    "w",
                    samplerate=self.sample_rate,
                    channels=self.channels,
                    format="RF64" if self._needs_rf64 else self.format.upper(),
                    subtype=self.subtype,
                )
        except _WRITE_ERRORS as error:
            self._discard()
            raise self._unwritable(error) from error
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, block: np.ndarray) -> None:
        """Append a block, `[frames, channels]` (`[frames]` if mono), within ±1 unless the file holds floats.

        Raises:
            ValueError: another shape, or a sample is NaN or beyond ±1: the guard against clipping is the caller's.
            AudioError: the disk is full, or the file has outgrown its format.
        """
        columns = block[:, None] if block.ndim == 1 else block
        if columns.ndim != 2 or columns.shape[1] != self.channels:
            raise ValueError(f"expected blocks [frames, {self.channels}], got {list(block.shape)}")
        if not len(columns):
            return
        peak = float(np.abs(columns).max())
        if not peak <= (1.0 if self.subtype == "PCM_24" else np.finfo(np.float32).max):
            raise ValueError(f"a sample of {peak:g} cannot be written: full scale is ±1")
        size = (self.frames_written + len(columns)) * self.channels * _BYTES_PER_SAMPLE[self.subtype]
        if self.format == "wav" and size > _LARGEST_WAV and not self._needs_rf64:
            raise AudioError(
                f"cannot write {self.name}", why="a WAV file ends at 4 GiB", next_step="write FLAC: `format` flac"
            )
        try:
            with self._guard:
                self._sound.write(np.asarray(columns, dtype=np.float32))
        except _WRITE_ERRORS as error:
            raise self._unwritable(error) from error
        self.frames_written += len(columns)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if self.frames not in (None, self.frames_written):
                raise ValueError(f"{self.frames} frames were announced, {self.frames_written} were written")
            with self._guard:
                self._sound.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._publish()
        except _WRITE_ERRORS as failure:
            self._discard()
            raise self._unwritable(failure) from failure
        except BaseException:
            self._discard()
            raise
        self._delete_part.detach()
        sync_folder(self._target.parent)

    @property
    def _needs_rf64(self) -> bool:
        size = (self.frames or 0) * self.channels * _BYTES_PER_SAMPLE[self.subtype]
        return self.format == "wav" and size > _LARGEST_WAV

    def _check_format(self) -> None:
        if self.format not in OUTPUT_FORMATS:
            raise UsageError(f"`format` cannot be {self.format!r}", next_step=f"choose {' or '.join(OUTPUT_FORMATS)}")
        # FLAC's frame headers hold a rate in Hz up to 16 bits, above in tens of Hz (RFC 9639, section 9.1.2).
        rate_fits = self.sample_rate <= 65_535 or (self.sample_rate <= _FLAC_RATE and self.sample_rate % 10 == 0)
        if self.format == "flac" and not (rate_fits and self.channels <= _FLAC_CHANNELS):
            raise AudioError(
                f"cannot write {self.name}",
                why=f"FLAC does not hold {self.channels} channels at {self.sample_rate} Hz",
                next_step="write WAV: `format` wav",
            )

    def _check_target(self) -> None:
        try:
            mode = self._target.stat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise UsageError(f"cannot write {self.name}", why="it is a folder", next_step="name a file in it")
        if not stat.S_ISREG(mode):  # replacing /dev/null by a song would break the machine
            raise UsageError(f"cannot write {self.name}", why="it is not a regular file", next_step="name a file")
        if not self.overwrite:
            raise self._exists()

    def _publish(self) -> None:
        """Give the finished file its name."""
        if self.overwrite:
            self._part.replace(self._target)
            return
        try:
            # A hard link, unlike a rename, fails if the name has been taken meanwhile.
            os.link(self._part, self._target)
            self._part.unlink()
        except FileExistsError as error:
            raise self._exists() from error
        except OSError:  # no hard links here (FAT, some network drives): take the name first, then replace our own file
            try:
                self._target.open("xb").close()
            except FileExistsError as error:
                raise self._exists() from error
            self._part.replace(self._target)

    def _discard(self) -> None:
        """Close and delete the unfinished file, whatever state it is in."""
        if hasattr(self, "_sound"):
            with contextlib.suppress(soundfile.LibsndfileError):
                self._sound.close()
        with contextlib.suppress(OSError):  # a full disk fails once more on closing
            self._file.close()
        self._delete_part()

    def _exists(self) -> UsageError:
        return UsageError(f"{self.name} already exists", next_step="use `overwrite` to replace it, or another name")

    def _unwritable(self, error: Exception) -> AudioError:
        return unwritable(self.name, error)


def unwritable(name: str, error: Exception) -> AudioError:
    """Make the error for a file that cannot be written, from what the system or libsndfile says."""
    code = getattr(error, "errno", None)
    why, next_step = {
        errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
        errno.EDQUOT: ("your disk quota is used up", "free some space, or write to another disk"),
        errno.EFBIG: ("the file grows larger than the system allows", "write to another disk"),
        errno.EACCES: ("you have no permission to write there", "choose another folder"),
        errno.EPERM: ("you have no permission to write there", "choose another folder"),
        errno.EROFS: ("the disk is read-only", "choose another folder"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
        errno.ENOTDIR: ("a part of its path is a file, not a folder", "choose another folder"),
        errno.EEXIST: ("a part of its path is a file, not a folder", "choose another folder"),
    }.get(code or 0, (getattr(error, "strerror", None) or str(error), "choose another place"))
    return AudioError(f"cannot write {name}", why=why, next_step=next_step)


def _delete(part: Path, process: int) -> None:
    """Delete an unfinished file; a forked process that ends meanwhile leaves it alone."""
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            part.unlink()


CEILING = 10 ** (-0.1 / 20)
"""What is too loud is turned down to this peak, 0.1 dB under full scale."""


def gain_for(peak: float) -> float:
    """Return the factor, at most 1, that brings a peak under full scale."""
    return 1.0 if peak <= 1.0 else CEILING / peak


def scaled(block: np.ndarray, gain: float) -> np.ndarray:
    """Return a block of any shape turned down by a gain, within ±1; with a gain of 1 the block itself."""
    return np.clip(block * np.float32(gain), -1.0, 1.0) if gain < 1 else block


def write_scaled(blocks: Iterable[np.ndarray], writer: AtomicAudioWriter, gain: float) -> None:
    """Write blocks, turned down by a gain."""
    for block in blocks:
        writer.write(scaled(block, gain))


_LIVE_BYTES = 2
_FULL_SCALE = 2**15
_FADE_SECONDS = 0.005  # in which a live stream is turned down
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
        before, self.gain = self.gain, self.gain if peak * self.gain <= 1 else CEILING / peak
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
                next_step="use `overwrite` to replace it, or another name",
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
