"""All clips of a page: each sound once, and all together within the size that a page may have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stage_cli.core.audio.reading import probe
from stage_cli.core.evaluation.report.clips import BITRATES, ReportClip, make_clip
from stage_cli.core.evaluation.report.results import Results
from stage_cli.errors import AudioError

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
