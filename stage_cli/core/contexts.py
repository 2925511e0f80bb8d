"""What a stem is generated for: an audio file, an array, or a metronome. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stage_cli.core.audio.naming import output_path
from stage_cli.core.audio.reading import BLOCK_FRAMES, LOUDEST_SAMPLE, MonoReader, MonoStream, read_blocks
from stage_cli.core.music.beats import BeatGrid, constant_grid, metronome_blocks
from stage_cli.errors import UsageError

# An array of more rows is taken for one that lies the other way round, `[frames, channels]`.
_MOST_CHANNELS = 32


@dataclass(frozen=True)
class OpenContext:
    """A context that can be read.

    Attributes:
        mono: the context at the rate that was asked for.
        seconds: how long it will be, as far as its header tells.
        remarks: what the user should know of it.
    """

    mono: MonoStream
    seconds: float
    remarks: tuple[str, ...] = ()


class Context(Protocol):
    """What a stem is generated for. Looking at it reads nothing yet."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def is_metronome(self) -> bool:
        """Whether it is clicks alone; models may have other sampling defaults for them."""
        ...

    @property
    def grid(self) -> BeatGrid | None:
        """Its beats, where they are known without listening."""
        ...

    def open(self, sample_rate: int) -> OpenContext:
        """Get ready to read it as mono at a model's rate in Hz.

        Raises:
            AudioError: it cannot be read.
            UsageError: a part of it was named that there is not.
        """
        ...

    def source_blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Read it once more for a mix, `[frames, channels]` float32; `sample_rate` is the rate it was read at first."""
        ...


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

    @property
    def is_metronome(self) -> bool:
        """False."""
        return False

    @property
    def grid(self) -> BeatGrid | None:
        """None: its beats are to be heard."""
        return None

    def open(self, sample_rate: int) -> OpenContext:
        """Look at the file's header; see `Context.open`."""
        reader = MonoReader(self.path, sample_rate, start=self.start, duration=self.duration)
        available = reader.info.duration - self.start
        seconds, remarks = _length(available, self.duration, 1 / reader.info.sample_rate)
        return OpenContext(reader, seconds, remarks)

    def source_blocks(self, sample_rate: int) -> Iterator[np.ndarray]:  # noqa: ARG002 - a file has its own rate
        """Read it once more, `[frames, channels]` at its own rate."""
        return read_blocks(self.path, start=self.start, duration=self.duration)

    def output_path(self, stem: str, variation: int, format: str, *, mixed: bool = False) -> Path:
        """Name the file that lies next to it: `mix.wav` → `mix.drums.wav`."""
        return output_path(self.path, stem, variation, format, mixed=mixed)


@dataclass(frozen=True, eq=False)
class ArrayContext:
    """Audio in memory, or a part of it.

    Attributes:
        audio: `[frames]` or `[channels, frames]`, floats, full scale ±1; anything that numpy makes such an array of.
        sample_rate: Hz.
        start: seconds to skip.
        duration: seconds to use; None uses the rest.

    Raises:
        UsageError: another shape or type, no samples, samples that are no audio, or a part that there is not.
    """

    audio: np.ndarray
    sample_rate: int
    start: float = 0.0
    duration: float | None = None

    def __post_init__(self) -> None:
        audio = np.asarray(self.audio)
        if audio.ndim not in (1, 2) or not audio.size:
            raise UsageError(
                f"the context has the shape {list(audio.shape)}",
                next_step="give audio as [frames], or as [channels, frames]",
            )
        if audio.ndim == 2 and len(audio) > _MOST_CHANNELS:
            raise UsageError(
                f"the context has {len(audio)} channels of {audio.shape[1]} frames",
                why=f"allowed are up to {_MOST_CHANNELS} channels",
                next_step="give [channels, frames]: transpose an array of [frames, channels], such as soundfile's",
            )
        if not np.issubdtype(audio.dtype, np.floating):
            raise UsageError(
                f"the context holds {audio.dtype} samples",
                why="full scale must be ±1",
                next_step="convert them to floats: divide int16 samples by 32768",
            )
        if not np.abs(audio).max() <= LOUDEST_SAMPLE:
            raise UsageError(
                "the context holds samples that are not audio",
                why=f"a sample is not a number, infinite, or beyond ±{LOUDEST_SAMPLE:g}",
                next_step="scale the samples to ±1",
            )
        rate = self.sample_rate
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 1000 <= rate <= 768_000:
            raise UsageError(f"`sample_rate` cannot be {rate}", next_step="give a whole number of Hz, such as 44100")
        if not 0 <= self.start < self._seconds or round(self.start * rate) >= audio.shape[-1]:
            raise UsageError(
                f"`start` cannot be {self.start:g}", why=f"the context is {self._seconds:.3f} s long and begins at 0"
            )
        if self.duration is not None and not self.duration > 0:
            raise UsageError(f"`duration` cannot be {self.duration:g}", next_step="give a number of seconds above 0")

    @property
    def name(self) -> str:
        """What users call it."""
        return "the array"

    @property
    def is_metronome(self) -> bool:
        """False."""
        return False

    @property
    def grid(self) -> BeatGrid | None:
        """None: its beats are to be heard."""
        return None

    def open(self, sample_rate: int) -> OpenContext:
        """Get ready to read it; see `Context.open`."""
        seconds, remarks = _length(self._seconds - self.start, self.duration, 1 / self.sample_rate)
        channels = 1 if np.ndim(self.audio) == 1 else len(self.audio)
        stream = MonoStream(lambda: self.source_blocks(sample_rate), int(self.sample_rate), channels, sample_rate)
        return OpenContext(stream, seconds, remarks)

    def source_blocks(self, sample_rate: int) -> Iterator[np.ndarray]:  # noqa: ARG002 - an array has its own rate
        """Cut it into blocks, `[frames, channels]` at its own rate."""
        audio = np.atleast_2d(np.asarray(self.audio))
        first = round(self.start * self.sample_rate)
        end = audio.shape[1]
        if self.duration is not None:
            end = min(end, max(first + 1, round((self.start + min(self.duration, 1e9)) * self.sample_rate)))
        for at in range(first, end, BLOCK_FRAMES):
            yield np.ascontiguousarray(audio[:, at : min(at + BLOCK_FRAMES, end)].T, dtype=np.float32)

    @property
    def _seconds(self) -> float:
        return np.shape(self.audio)[-1] / self.sample_rate


@dataclass(frozen=True)
class MetronomeContext:
    """Clicks at a constant tempo, at whichever rate a model reads.

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

    @property
    def is_metronome(self) -> bool:
        """True."""
        return True

    @property
    def grid(self) -> BeatGrid:
        """Its clicks."""
        return constant_grid(self.bpm, self.beats_per_bar, self.duration, self.offset)

    def open(self, sample_rate: int) -> OpenContext:
        """Get ready to make it; see `Context.open`."""
        stream = MonoStream(lambda: self.source_blocks(sample_rate), sample_rate, 1, sample_rate)
        return OpenContext(stream, self.duration)

    def source_blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Make the clicks, `[frames, 1]` at a rate in Hz."""
        return (block[:, None] for block in metronome_blocks(self.grid, self.duration, sample_rate))

    def output_path(self, stem: str, variation: int, format: str, *, mixed: bool = False) -> Path:
        """Name the file in the current folder: `120bpm.drums.wav`."""
        return output_path(Path(f"{self.bpm:g}bpm.wav"), stem, variation, format, mixed=mixed)


ContextLike = str | Path | np.ndarray | Context
"""What Python users give as a context: a file, an array, or one of the classes above."""


def given_audio(
    audio: ContextLike, sample_rate: int | None, start: float = 0.0, duration: float | None = None
) -> Context:
    """Make a context of a file or an array.

    Args:
        audio: a file, an array, or a context.
        sample_rate: Hz of an array.
        start: seconds to skip.
        duration: seconds to use; None uses the rest.

    Raises:
        UsageError: two settings do not go together, or an array has no rate.
    """
    if isinstance(audio, str | Path):
        if sample_rate is not None:
            raise UsageError(
                f"`sample_rate` goes with an array, and {audio} is a file",
                why="a file says its rate itself",
                next_step="leave it out",
            )
        return FileContext(Path(audio).expanduser(), start, duration)
    if isinstance(audio, FileContext | ArrayContext | MetronomeContext):
        if sample_rate is not None or start or duration is not None:
            raise UsageError(
                f"`sample_rate`, `start` and `duration` do not go with {type(audio).__name__}",
                next_step="say them where it is made",
            )
        return audio
    if sample_rate is None:
        raise UsageError(
            "`sample_rate` is missing",
            why="an array does not say its rate",
            next_step="give its rate in Hz, such as sample_rate=44100",
        )
    return ArrayContext(np.asarray(audio), sample_rate, start, duration)


def context_of(
    context: ContextLike | None,
    sample_rate: int | None,
    bpm: float | None,
    beats_per_bar: int | None,
    offset: float | None,
    start: float,
    duration: float | None,
) -> Context:
    """Make the context that a user has named: audio (`given_audio`), or with `bpm` a metronome.

    Raises:
        UsageError: two settings do not go together, a value is out of range, or there is nothing to accompany.
    """
    if bpm is None:
        for name, value in (("beats_per_bar", beats_per_bar), ("offset", offset)):
            if value is not None:
                raise UsageError(f"`{name}` goes with `bpm` only")
        if context is None:
            raise UsageError("There is nothing to accompany", next_step="give a file, an array, or `bpm`")
        return given_audio(context, sample_rate, start, duration)
    if context is not None or start:
        extra = "`start`" if context is None else "the context"
        raise UsageError("`bpm` makes its own context", next_step=f"leave out {extra}")
    clicks = {"beats_per_bar": beats_per_bar, "offset": offset, "duration": duration}
    return MetronomeContext(bpm, **{name: value for name, value in clicks.items() if value is not None})  # ty: ignore[invalid-argument-type]


def _length(available: float, wanted: float | None, frame: float) -> tuple[float, tuple[str, ...]]:
    """Seconds of a context of which `wanted` are to be used, and what the user should know of them."""
    if wanted is None:
        return available, ()
    if wanted > available + frame:
        return available, (f"The context ends after {available:.2f} s: the stem is that long.",)
    return min(available, wanted), ()
