"""What WAV and AIFF headers promise, against what the file holds.

libsndfile shortens the promise silently to what is there, so a file that was cut off looks whole.

The samples of plain WAV files, read without libsndfile: five to ten times as fast, and the same to the bit.

libsndfile asks Python for 8 KiB at a time, and converts 24-bit samples one by one.

Decode one audio file front to back, and say clearly why a file cannot be decoded.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.files import GuardedFile, display_name
from stage_cli.errors import AudioError

# Writers that count the header in, or forget a pad byte, promise a little too much; nothing is missing then.
_SLOPPY_BYTES = 64


@dataclass(frozen=True)
class SampleChunk:
    """The chunk of a WAV or AIFF file that holds the samples, sizes in bytes.

    Args:
        promised: of the samples, as the header states it; None if the writer never filled it in.
        present: from the first sample to the end of the file.
        size_position: where the size field lies in the file.
    """

    promised: int | None
    present: int
    size_position: int

    @property
    def is_truncated(self) -> bool:
        """Whether the header promises samples that the file does not hold."""
        return self.promised is not None and self.promised > self.present + _SLOPPY_BYTES

    @property
    def repaired_sizes(self) -> dict[int, bytes]:
        """Bytes by position that make libsndfile read to the end of a file whose sizes were never filled in."""
        return {4: b"\xff" * 4, self.size_position: b"\xff" * 4} if self.promised is None else {}


def find_sample_chunk(file: io.BufferedIOBase) -> SampleChunk | None:
    """Find the chunk of samples of a RIFF (WAV) or FORM (AIFF) file; None for other files or without such a chunk.

    Leaves the file at position 0.
    """
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    kind, form = head[:4], head[8:]
    if kind == b"RIFF" and form == b"WAVE":
        byte_order, wanted, preamble = "little", b"data", 0
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        byte_order, wanted, preamble = "big", b"SSND", 8  # AIFF's chunk begins with an offset and a block size
    else:
        file.seek(0)
        return None
    whole_size = int.from_bytes(head[4:8], byte_order)
    found = None
    while len(chunk := file.read(8)) == 8:
        size = int.from_bytes(chunk[4:], byte_order)
        if chunk[:4] == wanted:
            present = file_size - file.tell()
            # An empty file has a right outer size; a recorder that was stopped before it wrote sizes has not.
            unset = size == 0 and present > 0 and abs(whole_size - (file_size - 8)) > 1
            promised = None if unset or (size > present and _stands_for_unknown(size)) else size
            size_position = file.tell() - 4
            if promised is not None:
                promised = max(0, promised - preamble)
            found = SampleChunk(promised, max(0, present - preamble), size_position)
            break
        file.seek(size + size % 2, os.SEEK_CUR)
    file.seek(0)
    return found


def _stands_for_unknown(size: int) -> bool:
    """Whether a size is what programs write that stream into a pipe: just under 2 GiB (SoX) or 4 GiB (ffmpeg)."""
    return 2**31 - 8192 <= size < 2**31 or size >= 2**32 - 8192


def _from_16_bits(raw: np.ndarray) -> np.ndarray:
    samples = raw.view("<i2").astype(np.float32)
    samples *= np.float32(2**-15)
    return samples


def _from_24_bits(raw: np.ndarray) -> np.ndarray:
    # Each sample is the upper three bytes of a 32-bit number that begins one byte before it.
    numbers = np.ndarray((len(raw) // 3,), "<i4", raw, 0, (3,))
    samples = (numbers >> 8).astype(np.float32)
    samples *= np.float32(2**-23)
    return samples


def _from_floats(raw: np.ndarray) -> np.ndarray:
    return raw.view("<f4").astype(np.float32, copy=False)


_FORMATS = ("WAV", "WAVEX")
_BEFORE = {"PCM_24": 1}  # bytes that a conversion sees before the first sample
_CONVERSIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "PCM_16": (2, _from_16_bits),
    "PCM_24": (3, _from_24_bits),
    "FLOAT": (4, _from_floats),
}


@dataclass(frozen=True)
class PlainSamples:
    """Where the samples of an open file lie, and how they are stored.

    Attributes:
        file: to be read.
        start: byte of the first sample.
        frames: of the file.
        channels: of the file.
        subtype: "PCM_16", "PCM_24" or "FLOAT".
    """

    file: io.BufferedIOBase
    start: int
    frames: int
    channels: int
    subtype: str

    @classmethod
    def find(
        cls, file: io.BufferedIOBase, chunk: SampleChunk | None, form: str, subtype: str, frames: int, channels: int
    ) -> PlainSamples | None:
        """Return the samples, if they are stored plainly and are as many as libsndfile has counted; else None.

        Args:
            file: open, a WAV file.
            chunk: of the samples.
            form: libsndfile's name of the format.
            subtype: libsndfile's name of the sample format.
            frames: that libsndfile has counted.
            channels: of the file.
        """
        if chunk is None or chunk.promised is None or form not in _FORMATS or subtype not in _CONVERSIONS:
            return None
        size = _CONVERSIONS[subtype][0] * channels
        if chunk.promised // size != frames or frames * size > chunk.present:
            return None  # samples in wider containers, for example
        return cls(file, chunk.size_position + 4, frames, channels, subtype)

    def read(self, position: int, frames: int) -> np.ndarray:
        """Read up to `frames` frames from a frame on: `[frames, channels]` float32; fewer where the file ends.

        Raises:
            OSError: the file cannot be read.
        """
        width, convert = _CONVERSIONS[self.subtype]
        size = width * self.channels
        before = _BEFORE.get(self.subtype, 0)
        raw = np.empty(before + max(0, min(frames, self.frames - position)) * size, dtype=np.uint8)
        raw[:before] = 0
        self.file.seek(self.start + position * size)
        count = self.file.readinto(raw.data[before:]) if len(raw) > before else 0
        whole = count // size * size
        return convert(raw[: before + whole]).reshape(-1, self.channels)


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
