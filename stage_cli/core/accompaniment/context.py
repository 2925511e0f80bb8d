"""What is accompanied: a part of an audio file, or a metronome track. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.naming import output_path
from stage_cli.core.audio.reading import MonoReader, read_blocks
from stage_cli.core.music.beats import constant_grid, metronome_blocks


@dataclass(frozen=True)
class FileContext:
    """An audio file, or a part of it.

    Attributes:
        path: the file.
        start: seconds to skip.
        duration: seconds to use; None uses the rest.
    """

    path: Path
    start: float = 0.0
    duration: float | None = None

    @property
    def name(self) -> str:
        """What users call it."""
        return str(self.path)

    def open(self, sample_rate: int) -> MonoReader:
        """Look at the file; iterating over the result gives it as mono at the model's rate.

        Raises:
            AudioError: it cannot be read.
            UsageError: start or duration do not fit it.
        """
        return MonoReader(self.path, sample_rate, start=self.start, duration=self.duration)

    def check(self) -> None:
        """Look at the file's header; raises as `open`."""
        self.open(48_000)

    def source_blocks(self) -> Iterator[np.ndarray]:
        """Read it again, `[frames, channels]` at its own rate, for the mix."""
        return read_blocks(self.path, start=self.start, duration=self.duration)

    def output_path(self, stem: str, variation: int, format: str, *, mixed: bool = False) -> Path:
        """Name the file that lies next to it: `mix.wav` → `mix.drums.wav`."""
        return output_path(self.path, stem, variation, format, mixed=mixed)


@dataclass(frozen=True)
class MetronomeContext:
    """Clicks at a constant tempo.

    Attributes:
        bpm: beats a minute.
        beats_per_bar: beats from one downbeat to the next.
        duration: seconds.
        offset: seconds of the first downbeat.

    Raises:
        UsageError: a value is out of range.
    """

    bpm: float
    beats_per_bar: int = 4
    duration: float = 30.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        constant_grid(self.bpm, self.beats_per_bar, self.duration, self.offset)

    @property
    def name(self) -> str:
        """What users call it."""
        return f"{self.bpm:g} bpm"

    def blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Make the track, `[frames]`."""
        grid = constant_grid(self.bpm, self.beats_per_bar, self.duration, self.offset)
        return metronome_blocks(grid, self.duration, sample_rate)

    def output_path(self, stem: str, variation: int, format: str, *, mixed: bool = False) -> Path:
        """Name the file in the current folder: `120bpm.drums.wav`."""
        return output_path(Path(f"{self.bpm:g}bpm.wav"), stem, variation, format, mixed=mixed)


Context = FileContext | MetronomeContext
