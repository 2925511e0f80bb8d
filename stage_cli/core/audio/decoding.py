"""Decode one audio file front to back, and say clearly why a file cannot be decoded."""

from __future__ import annotations

import contextlib
import io
import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.audio.files import GuardedFile, display_name
from stage_cli.core.audio.headers import SampleChunk, find_sample_chunk
from stage_cli.core.audio.plain_samples import PlainSamples
from stage_cli.errors import AudioError

# Formats that store samples, not spectra: their frame counts hold, and a jump into them is exact.
_EXACT_FORMATS = frozenset(("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"))
_UNKNOWN_FRAMES = 2**62  # libsndfile says 2^63 − 1 where a header states no length
_SAMPLE_RATES = range(1_000, 768_001)  # Hz; outside, a header is damaged or the file is not sound
_SAMPLE_SIZES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # bytes
_SKIP_FRAMES = 65_536
# libsndfile asks for 8 KiB at a time: each a system call, unless Python's buffer is larger than that.
_BUFFER_BYTES = 2**17


class _SequentialSoundFile(soundfile.SoundFile):
    """A SoundFile that is read front to back.

    soundfile seeks to where it already is after every read; that resets the MP3 decoder, which then returns
    wrong samples at the start of the next block, and fails on a FLAC file of unknown length.
    """

    def seekable(self) -> bool:
        return False


class AudioDecoder:
    """An open audio file: a context manager that decodes blocks, first to last.

    Attributes: `sample_rate` (Hz), `channels`, `format` and `subtype` (libsndfile's names, "WAV" and "PCM_16"),
    `frames` (as the header or, where an MP3 has none, its packets promise; None if nothing does), `position` (frames).

    Raises:
        AudioError: the file is missing, no file, not permitted, empty, not audio, without a frame, or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = display_name(path)
        self.position = 0
        self._file = self._open_file()
        try:
            self._guard, self._sound, chunk = self._open_sound()
        except BaseException:
            self._file.close()
            raise
        self.sample_rate = self._sound.samplerate
        self.channels = self._sound.channels
        self.format = self._sound.format
        self.subtype = self._sound.subtype
        self.frames = self._sound.frames if self._sound.frames < _UNKNOWN_FRAMES else None
        try:
            self._check_header()
        except BaseException:
            self.close()
            raise
        self._plain = PlainSamples.find(self._file, chunk, self.format, self.subtype, self._sound.frames, self.channels)

    def __enter__(self) -> AudioDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        self._sound.close()
        self._file.close()

    def read(self, frames: int) -> np.ndarray:
        """Decode up to `frames` frames: `[frames, channels]` float32; an empty block at the end.

        Raises:
            AudioError: the rest cannot be decoded, or is not there although the header promises it.
        """
        if self._plain is not None:
            with self._telling():
                block = self._plain.read(self.position, frames)
        else:
            with self._telling(), self._guard:
                block = self._sound.read(frames, dtype="float32", always_2d=True)
        self.position += len(block)
        if not len(block) and self.frames is not None and self.position < self.frames and self.is_exact:
            raise self._truncated(self.frames, self.position)
        return block

    def skip_to(self, frame: int) -> None:
        """Move forward to a frame, or to the end if that comes first."""
        if self._plain is not None:
            self.position = max(self.position, min(frame, self._plain.frames))
            return
        if self.is_exact and self.frames is not None and self.position < frame <= self.frames:
            with self._telling(), self._guard:
                self.position = self._sound.seek(frame)
        # A jump into a lossy stream loses what the decoder remembers of the frames before: decode them instead.
        while self.position < frame and len(self.read(min(_SKIP_FRAMES, frame - self.position))):
            pass

    @property
    def is_exact(self) -> bool:
        """Whether the header's number of frames can be relied on."""
        return self.format in _EXACT_FORMATS

    @contextlib.contextmanager
    def _telling(self) -> Generator[None]:
        try:
            yield
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"cannot decode {self.name} beyond {self.position / self.sample_rate:.3f} s",
                why=f"the file is damaged or truncated ({_reason(error)})",
                next_step="export or download it again",
            ) from error

    def _open_file(self) -> io.BufferedReader:
        try:
            status = self.path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size:
                return cast("io.BufferedReader", self.path.open("rb", buffering=_BUFFER_BYTES))
        except FileNotFoundError as error:
            why, step = "there is no such file", "check the name and the folder"
            raise self._unreadable(why, step) from error
        except PermissionError as error:
            raise self._unreadable("you have no permission to read it", "change the file's permissions") from error
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise self._unreadable(_reason(error), "check the name and the folder") from error
        if stat.S_ISDIR(status.st_mode):
            raise self._unreadable("it is a folder", "name an audio file")
        if not stat.S_ISREG(status.st_mode):
            raise self._unreadable("it is not a regular file", "write the audio to a file first")
        raise self._unreadable("the file is empty (0 bytes)", "export or download it again")

    def _open_sound(self) -> tuple[GuardedFile, soundfile.SoundFile, SampleChunk | None]:
        chunk = find_sample_chunk(self._file)
        guard, sound = self._open_guarded(chunk.repaired_sizes if chunk else {})
        if sound.format == "MP3":
            # Without a Xing header mpg123 guesses the length from the file's size, and libsndfile stops there: a
            # variable bit rate loses its end. With the length hidden the packets are counted. (Files that have the
            # header do better without: then a last packet that is cut, which is common, is no error.)
            guessed = sound.frames
            sound.close()
            guard, sound = self._open_guarded({}, hide_length=True)
            if sound.frames <= guessed:
                sound.close()
                guard, sound = self._open_guarded({})
        if chunk is not None and chunk.promised is not None and chunk.is_truncated:
            frames = sound.frames
            sound.close()
            frame_size = _SAMPLE_SIZES.get(sound.subtype, 0) * sound.channels or chunk.present / max(frames, 1)
            raise self._truncated(round(chunk.promised / max(frame_size, 1)), frames)
        return guard, sound, chunk

    def _open_guarded(
        self, overlay: Mapping[int, bytes], *, hide_length: bool = False
    ) -> tuple[GuardedFile, soundfile.SoundFile]:
        self._file.seek(0)
        guard = GuardedFile(self._file, overlay=overlay, hide_length=hide_length)
        try:
            with guard:
                sound = _SequentialSoundFile(cast("BinaryIO", guard))
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._unreadable(
                f"it is damaged, or no audio format that libsndfile knows ({_reason(error)})",
                "convert it first, for example: ffmpeg -i INPUT output.wav",
            ) from error
        return guard, sound

    def _check_header(self) -> None:
        if self.frames == 0:
            raise self._unreadable("it holds no samples (0 frames)", "export it again")
        if self.sample_rate not in _SAMPLE_RATES:
            raise self._unreadable(
                f"its sample rate of {self.sample_rate} Hz is no rate of sound", "convert it to 44100 Hz"
            )

    def _truncated(self, promised: int, present: int) -> AudioError:
        return AudioError(
            f"{self.name} is truncated",
            why=f"its header says {promised} frames, {present} could be read",
            next_step="export or download it again; to use what is there: ffmpeg -i INPUT output.wav",
        )

    def _unreadable(self, why: str, next_step: str) -> AudioError:
        return AudioError(f"cannot read {self.name}", why=why, next_step=next_step)


def _reason(error: Exception) -> str:
    """Return an exception's cause in words, without the file's name, which the message has already."""
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string.rstrip(".")
    return getattr(error, "strerror", None) or str(error)
