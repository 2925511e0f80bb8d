"""Write audio files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import weakref
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.audio.files import GuardedFile, display_name
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
                f"cannot write {self.name}", why="a WAV file ends at 4 GiB", next_step="write FLAC: --format flac"
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
        _sync_folder(self._target.parent)

    @property
    def _needs_rf64(self) -> bool:
        size = (self.frames or 0) * self.channels * _BYTES_PER_SAMPLE[self.subtype]
        return self.format == "wav" and size > _LARGEST_WAV

    def _check_format(self) -> None:
        if self.format not in OUTPUT_FORMATS:
            raise UsageError(f"--format cannot be {self.format!r}", next_step=f"choose {' or '.join(OUTPUT_FORMATS)}")
        # FLAC's frame headers hold a rate in Hz up to 16 bits, above in tens of Hz (RFC 9639, section 9.1.2).
        rate_fits = self.sample_rate <= 65_535 or (self.sample_rate <= _FLAC_RATE and self.sample_rate % 10 == 0)
        if self.format == "flac" and not (rate_fits and self.channels <= _FLAC_CHANNELS):
            raise AudioError(
                f"cannot write {self.name}",
                why=f"FLAC does not hold {self.channels} channels at {self.sample_rate} Hz",
                next_step="write WAV: --format wav",
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
        return UsageError(f"{self.name} already exists", next_step="use --overwrite to replace it, or another name")

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


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system lets folders be synchronised (not Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
