"""Stems as files and streams: what is written for a context, and where. Imports no torch.

`write_stems` is the core call behind `stage generate`. Takes wait in nameless files until their peak is known, so
memory does not grow with a song; mixes are added up while they are written; growing files and a stream get the live
blocks.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from stage_cli.core.accompany import (
    SILENCE,
    Accompanist,
    AccompanySettings,
    ContextReading,
    HeardBeats,
    Progress,
    check_stem,
    generate_blocks,
    read_context,
)
from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.audio.naming import AUDIO_SUFFIXES
from stage_cli.core.audio.reading import BLOCK_FRAMES
from stage_cli.core.audio.writing import (
    OUTPUT_FORMATS,
    AtomicAudioWriter,
    GrowingWav,
    LiveWav,
    gain_for,
    write_scaled,
)
from stage_cli.core.contexts import Context
from stage_cli.core.files import display_name
from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import Note
from stage_cli.errors import AudioError, UsageError

MIDI_SUFFIXES: tuple[str, ...] = (".mid", ".midi")
"""File name endings, in lower case, of MIDI files; the first is written."""


class NamedContext(Context, Protocol):
    """A context that has a name for the files that are written for it."""

    def output_path(self, stem: str, variation: int, format: str, *, mixed: bool = False) -> Path:
        """Name the file of a take, which counts from 1; `mixed`: of context and take together."""
        ...


@dataclass(frozen=True)
class StemRequest:
    """What to write for one context.

    Attributes:
        context: what is accompanied.
        stem: which stem to generate.
        stem_paths: one file for each take; none if the stem is only streamed (`Stream`).
        mix_paths: as many, or none: context and stem together.
        format: "wav" or "flac".
        overwrite: replace files that exist.
        growing: each file can be listened to while it is generated, under the name that `growing_path` gives it.
        midi_paths: one MIDI file for each take, from a model that writes notes; or none. Without `stem_paths` they are
            all that is written, and nothing is played.
    """

    context: NamedContext
    stem: str
    stem_paths: tuple[Path, ...]
    mix_paths: tuple[Path, ...] = ()
    format: str = "wav"
    overwrite: bool = False
    growing: bool = False
    midi_paths: tuple[Path, ...] = ()

    @property
    def midi_only(self) -> bool:
        """Whether notes are written, and no audio."""
        return bool(self.midi_paths) and not self.stem_paths

    @property
    def growing_paths(self) -> tuple[Path, ...]:
        """The files that are there only while the takes are generated."""
        return tuple(map(growing_path, (*self.stem_paths, *self.mix_paths))) if self.growing else ()


def growing_path(path: Path) -> Path:
    """Name the file in which a take grows while it is generated: `mix.drums.wav` → `mix.drums.wav.part`."""
    return path.with_name(f"{path.name}.part")


def choose_format(output: Path | None, format: str | None, *, field: str = "output") -> str:
    """Choose the format of the files: the one that is given, or as the output's ending says, or wav.

    Args:
        output: a file, a folder, or None.
        format: as given.
        field: name of the setting that holds the output, for messages.

    Raises:
        UsageError: an unknown format, or one that contradicts the ending.
    """
    if format is not None and format not in OUTPUT_FORMATS:
        raise UsageError(f"`format` {format} is unknown", why=f"allowed: {', '.join(OUTPUT_FORMATS)}")
    ending = "" if output is None or output.is_dir() else output.suffix.lower().removeprefix(".")
    if f".{ending}" not in AUDIO_SUFFIXES:
        return format or OUTPUT_FORMATS[0]
    if ending not in OUTPUT_FORMATS:
        raise UsageError(
            f"`{field}` {output}: .{ending} cannot be written", why=f"allowed: {', '.join(OUTPUT_FORMATS)}"
        )
    if format not in (None, ending):
        raise UsageError(f"`{field}` {output} contradicts `format` {format}")
    return ending


def plan_requests(
    contexts: Sequence[NamedContext],
    template: StemRequest,
    *,
    output: Path | None,
    variations: int,
    mix: bool,
    inputs: Sequence[Path] = (),
    field: str = "output",
    midi: bool = False,
    audio: bool = True,
) -> list[StemRequest]:
    """Name the files of each context.

    Args:
        contexts: one or several.
        template: stem, format, overwrite and growing of all of them.
        output: None writes next to each context; a folder (one that exists, or has no audio ending) takes all files;
            a file is the one stem's name, or the first variation's.
        variations: takes for each context.
        mix: write context and stem together, too.
        inputs: files that are read besides the contexts, and so cannot be written.
        field: name of the setting that holds the output, for messages.
        midi: write notes, too, from a model that writes them.
        audio: write the stem itself; if not, `output` may end in .mid.

    Raises:
        UsageError: one file for several contexts; two outputs of the same name; an output that is a context; an output
            that exists and `overwrite` is off.
    """
    endings = AUDIO_SUFFIXES if audio else (*AUDIO_SUFFIXES, *MIDI_SUFFIXES)
    is_file = output is not None and not output.is_dir() and output.suffix.lower() in endings
    if is_file and len(contexts) > 1:
        raise UsageError(
            f"`{field}` {output} is one file, but there are {len(contexts)} contexts", next_step="name a folder"
        )
    requests = []
    for context in contexts:

        def named(variation: int, *, mixed: bool = False, notes: bool = False, context: NamedContext = context) -> Path:
            if is_file and output is not None:
                number = "" if variation == 1 else f".{variation}"
                ending = output.suffix
                if notes and ending.lower() not in MIDI_SUFFIXES:
                    ending = MIDI_SUFFIXES[0]
                return output.with_name(f"{output.stem}{number}{'.mix' if mixed else ''}{ending}")
            format = MIDI_SUFFIXES[0].removeprefix(".") if notes else template.format
            path = context.output_path(template.stem, variation, format, mixed=mixed)
            return path if output is None else output / path.name

        numbers = range(1, variations + 1)
        requests.append(
            replace(
                template,
                context=context,
                stem_paths=tuple(named(i) for i in numbers) if audio else (),
                mix_paths=tuple(named(i, mixed=True) for i in numbers) if mix else (),
                midi_paths=tuple(named(i, notes=True) for i in numbers) if midi else (),
            )
        )
    _check_outputs(requests, inputs)
    return requests


def _check_outputs(requests: Sequence[StemRequest], inputs: Sequence[Path]) -> None:
    paths = [getattr(request.context, "path", None) for request in requests]
    read = {path.resolve() for path in (*paths, *inputs) if path is not None}
    seen: set[Path] = set()
    for request in requests:
        for path in (*request.stem_paths, *request.mix_paths, *request.midi_paths, *request.growing_paths):
            real = path.resolve()
            if real in read:
                raise UsageError(
                    f"{display_name(path)} is read and cannot be written", next_step="give another `output`"
                )
            if real in seen:
                raise UsageError(
                    f"Two contexts would both be written to {display_name(path)}",
                    next_step="write them to different folders",
                )
            if path.exists() and not request.overwrite:
                raise UsageError(
                    f"{display_name(path)} already exists",
                    next_step="use `overwrite` to replace it, or another `output`",
                )
            seen.add(real)


@dataclass(frozen=True)
class StemFile:
    """One take that was written.

    Attributes:
        path: the take's file; None if it was only streamed, or its notes are all that was written.
        mix_path: the mix's file, if there is one.
        seed: that generates this take alone.
        seconds: length of audio.
        sample_rate: Hz.
        frames: length in samples.
        peak: dBFS, as written or streamed.
        loudness: LUFS, likewise; −inf if silent or too short to measure.
        turned_down: dB by which the take was turned down, 0 if it was not.
        mix_turned_down: likewise for the mix.
        silent: whether the peak is under −60 dBFS.
        midi_path: the file of its notes, if there is one.
        note_count: how many notes it has; None, as what follows, if the model writes no notes.
        bpm: of the beats that it plays to, the median; 0 if no beats were heard.
        beats: how many there are.
        beat_confidence: 0 to 1, how clearly they were heard; 1 if they were known.
    """

    path: Path | None
    mix_path: Path | None
    seed: int
    seconds: float
    sample_rate: int
    frames: int
    peak: float
    loudness: float
    turned_down: float
    mix_turned_down: float
    silent: bool
    midi_path: Path | None = None
    note_count: int | None = None
    bpm: float | None = None
    beats: int | None = None
    beat_confidence: float | None = None


@dataclass(frozen=True)
class WrittenStems:
    """What was written for one context.

    Attributes:
        stems: one for each take.
        compute_seconds: wall time, from reading to the last file.
        notes: what the user should know: a silent context, a shortened duration, a model that cannot follow a context.
    """

    stems: tuple[StemFile, ...]
    compute_seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Where one take goes while it is generated.

    Attributes:
        file: open for writing bytes; it gets 16-bit WAV.
        mixed: it gets context and stem together.
    """

    file: BinaryIO
    mixed: bool = False


def write_stems(
    model: Accompanist[Any, Any],
    request: StemRequest,
    settings: AccompanySettings,
    on_progress: Progress = lambda *_: None,
    *,
    stream: Stream | None = None,
) -> WrittenStems:
    """Write the stems of one context.

    Args:
        model: generates them.
        request: what to read and to write.
        settings: sampling, seed, description, continuation; as many takes as the request has files.
        on_progress: may raise to stop: nothing half-written is left.
        stream: where the first take goes while it is generated; files do not differ by a bit for it.

    Raises:
        UsageError: the model is for another stem, takes no text or writes no notes; a file exists; the context is too
            short.
        AudioError: a file cannot be read or written.
        WeightsError: the model returns NaN or infinite samples.
        DeviceError: out of memory.
        MidiError: a MIDI file cannot be written.
        OSError: the stream cannot be written; BrokenPipeError if nobody reads it any more.
    """
    began = time.perf_counter()
    check_stem(model, request.stem)
    reading = read_context(model, request.context, settings, on_progress)
    if request.midi_paths and reading.beats is None:
        raise UsageError(
            "This model writes no notes: there is no MIDI to write",
            why="it writes audio",
            next_step="use `model` player-" + request.stem,
        )
    channels, seed = model.channels, settings.generation.seed
    with contextlib.ExitStack() as stack:
        # Before the files: what grew is deleted when they have their names, and not earlier.
        live = stack.enter_context(_open_live(request, reading, channels, stream))
        # Opened before the work begins: what cannot be written is known now, not after an hour.
        stem_files = [stack.enter_context(_writer(path, reading, channels, request)) for path in request.stem_paths]
        mixed = mix_channels(reading.channels, channels)
        mix_files = [stack.enter_context(_writer(path, reading, mixed, request)) for path in request.mix_paths]
        takes = [
            stack.enter_context(contextlib.closing(StoredTake(path.resolve().parent, reading.sample_rate, channels)))
            for path in request.stem_paths
        ]
        blocks = generate_blocks(model, reading, settings, on_progress, live=bool(live.takes), final=bool(takes))
        written: list[list[Note]] = [[] for _ in range(settings.generation.variations)]
        with contextlib.closing(blocks):
            for block in blocks:
                if not block.audio.shape[1]:
                    written[block.take].extend(block.notes)
                    continue
                (live.takes if block.live else takes)[block.take].push(block.audio.T)
        for take in takes:
            take.flush()
        notes = (*reading.remarks, *live.notes())
        stems = tuple(
            _write(request, reading, take, stem_files[i], mix_files[i] if mix_files else None, seed + i)
            for i, take in enumerate(takes)
        )
        if not takes:
            stems = tuple(_streamed(reading, take, seed + i) for i, take in enumerate(live.takes))
        if request.midi_only:
            stems = tuple(_unplayed(reading, seed + i) for i in range(len(written)))
        if reading.beats is not None:
            stems = tuple(_noted(stem, reading.beats, tuple(written[i]), request, i) for i, stem in enumerate(stems))
    return WrittenStems(stems, time.perf_counter() - began, notes)


class StoredTake:
    """A take that waits in a nameless file, which disappears with the process however that ends.

    Args:
        folder: where the nameless file lies: that of the take's own file, for there is room for it there.
        rate: Hz.
        channels: of the take.
    """

    def __init__(self, folder: Path, rate: int, channels: int) -> None:
        self.meter = LoudnessMeter(rate, channels)
        self._folder, self._channels = folder, channels
        with self._storing():
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".stage-")  # noqa: SIM115 - closed by `close`

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, `[frames, channels]`."""
        self.meter.push(samples)
        with self._storing():
            self._file.write(np.ascontiguousarray(samples, dtype=np.float32).tobytes())

    def flush(self) -> None:
        """End the take."""
        with self._storing():
            self._file.flush()

    def blocks(self) -> Iterator[np.ndarray]:
        """Read what is stored, `[frames, channels]` float32; as often as wanted."""
        self._file.seek(0)
        while data := self._file.read(4 * self._channels * BLOCK_FRAMES):
            yield np.frombuffer(data, dtype=np.float32).reshape(-1, self._channels)

    def close(self) -> None:
        """Let go of the nameless file."""
        with contextlib.suppress(OSError):  # a full disk, which has been told, fails once more
            self._file.close()

    @contextlib.contextmanager
    def _storing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise AudioError(
                f"cannot store the stem in {display_name(self._folder)}",
                why=error.strerror or str(error),
                next_step="free some space, or choose another `output`",
            ) from error


def mix_channels(context: int, stem: int) -> int:
    """Return how many channels the mix of a context and a stem has."""
    return max(context, stem)


class Mixer:
    """Adds a stem, as it comes, to a context.

    A mono stem goes to every channel. A stem of several channels goes to the first ones of a context that has at least
    as many; a context of fewer channels is mono, and goes to all of the stem's.

    Args:
        context: `[frames, channels]` blocks, as long as the stem in all; they need not be cut alike.
    """

    def __init__(self, context: Iterable[np.ndarray]) -> None:
        self._context = iter(context)
        self._block = np.zeros((0, 1), dtype=np.float32)

    def push(self, stem: np.ndarray) -> Iterator[np.ndarray]:
        """Take the next samples `[n, channels]` of the stem; yield as many frames of the mix, float32."""
        while len(stem):
            if not len(self._block):
                self._block = next(self._context)
            n = min(len(self._block), len(stem))
            yield _sum(self._block[:n], stem[:n])
            self._block, stem = self._block[n:], stem[n:]


def _sum(context: np.ndarray, stem: np.ndarray) -> np.ndarray:
    if 1 < stem.shape[1] < context.shape[1]:
        mix = context.copy()
        mix[:, : stem.shape[1]] += stem
        return mix
    return context + stem


def mixed_blocks(context: Iterable[np.ndarray], stem: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Add a stem to a context as `Mixer` does; both are equally long, their blocks need not be.

    Args:
        context: `[frames, channels]` blocks.
        stem: `[frames, channels]` blocks.

    Yields:
        `[frames, channels]` float32.
    """
    mixer = Mixer(context)
    for block in stem:
        yield from mixer.push(block)


_Sink = Callable[[np.ndarray], None]


class _LiveTake:
    """A take that is handed on at once."""

    def __init__(self, rate: int, channels: int, sinks: Sequence[_Sink]) -> None:
        self.meter = LoudnessMeter(rate, channels)
        self._sinks = tuple(sinks)

    def push(self, samples: np.ndarray) -> None:
        self.meter.push(samples)
        for sink in self._sinks:
            sink(samples)


@dataclass(frozen=True)
class _Live:
    """All that is listened to of one context: a take for each that is, and the stream, if there is one."""

    takes: tuple[_LiveTake, ...] = ()
    streamed: LiveWav | None = None

    def notes(self) -> list[str]:
        """Tell what the listener should know of it."""
        if self.streamed is None or self.streamed.gain == 1:
            return []
        down = -20 * math.log10(self.streamed.gain)
        return [f"What was streamed was turned down on the way, by {down:.1f} dB in the end, to avoid clipping."]


@contextlib.contextmanager
def _open_live(request: StemRequest, reading: ContextReading, channels: int, stream: Stream | None) -> Generator[_Live]:
    """Open all that is listened to of a request; on leaving, growing files are deleted.

    Raises:
        UsageError: a growing file exists.
        AudioError: a growing file, or the context once more, cannot be opened.
    """
    rate, frames = reading.sample_rate, reading.frames
    of_mix = mix_channels(reading.channels, channels)
    with contextlib.ExitStack() as stack:

        def growing(path: Path, channels: int) -> _Sink:
            wav = GrowingWav(growing_path(path), rate, channels, frames, overwrite=request.overwrite)
            return stack.enter_context(wav).write

        def mixed(sink: _Sink) -> _Sink:
            return _mixing(Mixer(stack.enter_context(contextlib.closing(_again(request.context, rate)))), sink)

        takes: list[list[_Sink]] = []
        for place, path in enumerate(request.stem_paths if request.growing else ()):
            takes.append([growing(path, channels)])
            if request.mix_paths:
                takes[place].append(mixed(growing(request.mix_paths[place], of_mix)))
        streamed = None
        if stream is not None:
            streamed = LiveWav(stream.file, rate, of_mix if stream.mixed else channels, frames)
            takes = takes or [[]]
            takes[0].append(mixed(streamed.write) if stream.mixed else streamed.write)
        yield _Live(tuple(_LiveTake(rate, channels, sinks) for sinks in takes), streamed)


def _again(context: Context, rate: int) -> Generator[np.ndarray]:
    """Read a context once more, as a generator, which can be closed."""
    yield from context.source_blocks(rate)


def _mixing(mixer: Mixer, sink: _Sink) -> _Sink:
    def mix(samples: np.ndarray) -> None:
        for block in mixer.push(samples):
            sink(block)

    return mix


def _write(
    request: StemRequest,
    reading: ContextReading,
    take: StoredTake,
    stem_file: AtomicAudioWriter,
    mix_file: AtomicAudioWriter | None,
    seed: int,
) -> StemFile:
    gain = gain_for(10 ** (take.meter.peak / 20))
    write_scaled(take.blocks(), stem_file, gain)
    decibels = 20 * math.log10(gain)
    mix_gain = 1.0
    if mix_file is not None:

        def mix() -> Iterator[np.ndarray]:
            return mixed_blocks(_again(request.context, reading.sample_rate), take.blocks())

        mix_gain = gain_for(max(float(np.abs(block).max()) for block in mix()))
        write_scaled(mix(), mix_file, mix_gain)
    peak = take.meter.peak + decibels
    return StemFile(
        path=stem_file.path,
        mix_path=None if mix_file is None else mix_file.path,
        seed=seed,
        seconds=reading.seconds,
        sample_rate=reading.sample_rate,
        frames=reading.frames,
        peak=peak,
        loudness=take.meter.integrated + decibels,
        turned_down=abs(decibels),
        mix_turned_down=abs(20 * math.log10(mix_gain)),
        silent=peak < SILENCE,
    )


def _unplayed(reading: ContextReading, seed: int) -> StemFile:
    return StemFile(
        path=None,
        mix_path=None,
        seed=seed,
        seconds=reading.seconds,
        sample_rate=reading.sample_rate,
        frames=reading.frames,
        peak=-math.inf,
        loudness=-math.inf,
        turned_down=0.0,
        mix_turned_down=0.0,
        silent=False,
    )


def _noted(stem: StemFile, beats: HeardBeats, notes: tuple[Note, ...], request: StemRequest, take: int) -> StemFile:
    """Write a take's notes, if they are wanted, and tell of them."""
    path = request.midi_paths[take] if request.midi_paths else None
    if path is not None:
        _write_notes(path, request, beats.grid, notes, stem.seconds)
    return replace(
        stem,
        midi_path=path,
        note_count=len(notes),
        bpm=beats.bpm,
        beats=len(beats.grid.beats),
        beat_confidence=beats.confidence,
    )


def _write_notes(path: Path, request: StemRequest, grid: BeatGrid, notes: Sequence[Note], seconds: float) -> None:
    from stage_cli.core.music.midi import write_midi

    if path.exists() and not request.overwrite:  # it was not there when the files were planned
        raise UsageError(
            f"{display_name(path)} already exists", next_step="use `overwrite` to replace it, or another `output`"
        )
    write_midi(path, {request.stem: notes}, grid, duration=seconds)


def _streamed(reading: ContextReading, take: _LiveTake, seed: int) -> StemFile:
    peak = min(take.meter.peak, 0.0)
    return StemFile(
        path=None,
        mix_path=None,
        seed=seed,
        seconds=reading.seconds,
        sample_rate=reading.sample_rate,
        frames=reading.frames,
        peak=peak,
        loudness=take.meter.integrated,
        turned_down=0.0,
        mix_turned_down=0.0,
        silent=peak < SILENCE,
    )


def _writer(path: Path, reading: ContextReading, channels: int, request: StemRequest) -> AtomicAudioWriter:
    return AtomicAudioWriter(
        path, reading.sample_rate, channels, request.format, request.overwrite, frames=reading.frames
    )
