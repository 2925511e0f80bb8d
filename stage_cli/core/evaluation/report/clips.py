"""One audio file as the page holds it: compressed sound, an outline of its waveform, a small spectrogram.

The sound is MP3, mono at 32 kHz: the one compressed format that libsndfile writes and that all versions of Chromium,
Firefox and Safari play (for most of its life Safari has had no Ogg, neither Vorbis nor Opus). LAME's header tells the
player which of its padding to leave out, so the clips of an item stay together.

All clips of a page: each sound once, and all together within the size that a page may have.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.reading import probe, read_blocks, to_mono
from stage_cli.core.audio.spectra import RATE as MEL_RATE
from stage_cli.core.audio.spectra import mel_bands
from stage_cli.core.evaluation.report.results import Results
from stage_cli.core.files import display_name
from stage_cli.errors import AudioError

RATE = 32_000
"""Hz of the sound."""

BITRATES: tuple[int, ...] = (64, 56, 48, 40)
"""kbit/s, the best first. At 32, packets are too short for LAME's header, without which clips get padded."""

OUTLINE_COLUMNS = 320
_COLUMNS_A_SECOND = 40  # of the spectrogram
_MOST_COLUMNS = 480
_LEAST_TOP = 3.0  # of the log-mel scale that is drawn: a clip of noise at −60 dBFS stays dark
_PICTURE_QUALITY = 55  # of 100


@dataclass(frozen=True)
class ReportClip:
    """One clip.

    Attributes:
        sound: MP3, base64.
        seconds: length.
        outline: lowest and highest sample of each column in turns, int8 of 127 steps, base64.
        picture: log-mel spectrogram, grey, low frequencies at the bottom, WebP, base64.
        error: why there is none of these; "" if there are.
    """

    sound: str = ""
    seconds: float = 0.0
    outline: str = ""
    picture: str = ""
    error: str = ""


def make_clip(path: Path, kilobits: int = BITRATES[0]) -> ReportClip:
    """Read an audio file; one that cannot be read makes a clip that says why.

    Args:
        path: audio of any format that the project reads.
        kilobits: a second.
    """
    try:
        rate = probe(path).sample_rate
        audio = np.concatenate([to_mono(block) for block in read_blocks(path)])
    except AudioError as error:
        return ReportClip(error=str(error).replace(display_name(path), path.name))
    return ReportClip(
        sound=_text(compress(resample(audio, rate, RATE), kilobits)),
        seconds=round(len(audio) / rate, 4),
        outline=_text(outline(audio).tobytes()),
        picture=_text(picture(resample(audio, rate, MEL_RATE))),
    )


def compress(audio: np.ndarray, kilobits: int) -> bytes:
    """Return audio `[samples]` at 32 kHz as an MP3 of a constant bit rate."""
    import soundfile

    level = (320 - kilobits) / 288  # as libsndfile counts from 320 kbit/s down to 32
    data = io.BytesIO()
    with soundfile.SoundFile(
        data,
        "w",
        RATE,
        1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=level,
    ) as file:
        file.write(np.clip(audio, -1, 1))
    return data.getvalue()


def outline(audio: np.ndarray) -> np.ndarray:
    """Return the lowest and the highest sample of each column of a waveform, `[columns, 2]` int8, full scale ±127."""
    columns = min(OUTLINE_COLUMNS, len(audio))
    starts = np.arange(columns) * len(audio) // columns
    ends = np.stack([np.minimum.reduceat(audio, starts), np.maximum.reduceat(audio, starts)], axis=1)
    return np.round(np.clip(ends, -1, 1) * 127).astype(np.int8)


def picture(audio: np.ndarray) -> bytes:
    """Return the log-mel spectrogram of audio `[samples]` at 16 kHz as a grey WebP picture.

    White is the loudest band of the clip, so that quiet clips show their shape; of very quiet ones no more than noise
    could be seen, which stay dark.
    """
    from matplotlib.image import imsave

    bands = mel_bands(audio)
    columns = min(len(bands), _MOST_COLUMNS, max(1, round(len(audio) / MEL_RATE * _COLUMNS_A_SECOND)))
    starts = np.arange(columns) * len(bands) // columns
    pooled = np.maximum.reduceat(bands, starts, axis=0)
    grey = pooled.T[::-1] / max(_LEAST_TOP, float(pooled.max()))
    data = io.BytesIO()
    imsave(data, grey, vmin=0, vmax=1, cmap="gray", format="webp", pil_kwargs={"quality": _PICTURE_QUALITY})
    return data.getvalue()


def resample(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Return audio `[samples]` at another rate in Hz."""
    import soxr

    return audio if rate == to else np.asarray(soxr.resample(audio, rate, to))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


SIZE_LIMIT = 60_000_000
"""Bytes that a page should not exceed."""

_PICTURE_BYTES = 12_000  # of a clip's spectrogram and outline in base64, generously
_TEXT_BYTES = 2_000_000  # everything else
_BASE64 = 4 / 3
_FRAMES_BESIDE = 1.02  # headers, and the packet that fills the end

Progress = Callable[[int, int], None]
"""Called with the number of clips done and of all."""


class Collection:
    """The clips that a report shows.

    Files of equal content are held once: silence, and a true stem that is target and anchor.

    Args:
        folder: of the report.
        results: names the files.
        progress: told of each clip.

    Attributes:
        clips: each different one.
        kilobits: a second, of the sound.
    """

    def __init__(self, folder: Path, results: Results, progress: Progress | None = None) -> None:
        names = _file_names(results)
        contents: dict[str, int] = {}
        paths: list[Path] = []
        self._places: dict[str, int] = {}
        for name in names:
            content = _content(folder, name)
            if content not in contents:
                contents[content] = len(paths)
                paths.append(folder / name)
            self._places[name] = contents[content]
        self.kilobits = choose_bitrate([_seconds(path) for path in paths])
        self.clips: list[ReportClip] = []
        # libsndfile, soxr and the Fourier transforms let other threads run.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for clip in pool.map(lambda path: make_clip(path, self.kilobits), paths):
                self.clips.append(clip)
                if progress is not None:
                    progress(len(self.clips), len(paths))

    def place(self, name: str | None) -> int | None:
        """Return the index in `clips` of a file, by its name in the results; None for no name."""
        return None if name is None else self._places[name]

    def unreadable(self) -> list[tuple[str, str]]:
        """Return name and reason of each file that has no clip."""
        return [(name, self.clips[at].error) for name, at in self._places.items() if self.clips[at].error]


def choose_bitrate(seconds: list[float], limit: int = SIZE_LIMIT) -> int:
    """Return the highest of `BITRATES` with which a page of clips of these lengths stays below a limit in bytes.

    Where none is low enough, it is the lowest.
    """
    room = limit - _TEXT_BYTES - _PICTURE_BYTES * len(seconds)
    for kilobits in BITRATES:
        if sum(seconds) * kilobits * 125 * _BASE64 * _FRAMES_BESIDE <= room:
            return kilobits
    return BITRATES[-1]


def _file_names(results: Results) -> list[str]:
    """Return all files that results name, in the order of the items, each once."""
    named = []
    for item in results.items:
        named += [item.files.get("context"), item.files.get("target")]
        for output in item.outputs:
            named += [output.files.get("generated"), output.files.get("mix")]
    return list(dict.fromkeys(name for name in named if name is not None))


def _content(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # unreadable: the clip will say why. ValueError: a zero byte in the name
        return f"unreadable {name}"


def _seconds(path: Path) -> float:
    try:
        return probe(path).duration
    except AudioError:
        return 0.0
