"""The path from a context to its takes, arrays in and out. Imports no torch.

`stage generate` (with files and streams on top, `stem_files.py`), `stage evaluate`, the demos of a training and Python
users all take it, so what is measured is what users get. A model takes part in it as an `Accompanist`:

    reading = read_context(model, context, settings)           # mono at the model's rate, a quiet context made louder
    for block in generate_blocks(model, reading, settings):    # at the context's rate, exactly as long as the context
        ...
    stems = accompany(model, context, settings)                # both, collected in memory
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.audio.reading import MonoStats
from stage_cli.core.audio.resample import StreamResampler
from stage_cli.core.audio.writing import OUTPUT_FORMATS, AtomicAudioWriter, gain_for, scaled
from stage_cli.core.contexts import Context
from stage_cli.core.files import display_name
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import Note
from stage_cli.errors import UsageError, WeightsError

SILENCE = -60.0
"""A peak under this is called silent, in dBFS."""

USUAL_PEAKS = (-20.0, 3.0)
"""Peaks of music, in dBFS, that models take as they are. A codec makes other codes of quiet music, and models learn
from songs: `bundled-drums` generates nearly nothing for contexts of −50 dBFS."""

LIVE_SECONDS = 0.3
"""Audio of a live block, about: shorter ones are heard sooner, and cost more to decode."""

Progress = Callable[[str, float, float], None]
"""Called with the phase ("read" or "generate"), the seconds of audio done, and the seconds in all; may raise to stop.

A context may be read twice: its seconds then begin anew."""


@dataclass(frozen=True)
class AccompanySettings:
    """What decides on the takes of a context.

    Attributes:
        generation: sampling, seed, and how many takes.
        description: text, or None.
        continuation: the beginning of the stem, with which every take starts, or None.
        grid: the context's beats, for a player; None: they are the context's own, or heard.
    """

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    description: str | None = None
    continuation: Context | None = None
    grid: BeatGrid | None = None

    def __post_init__(self) -> None:
        if self.description is not None and not self.description.strip():
            raise UsageError("`description` is empty", next_step="leave it out, or say how the stem should sound")


UNCLEAR_BEATS = 0.25
"""Beats of less confidence than this may be wrong, and the user is told so."""


@dataclass(frozen=True)
class HeardBeats:
    """The beats that a player plays to.

    Attributes:
        grid: their times.
        bpm: of the median beat; 0 without beats.
        beats_per_bar: of most bars; 0 where that is unknown.
        confidence: 0 to 1, how clearly they are heard; 1 where they are known.
        given: whether they are known without listening.
    """

    grid: BeatGrid
    bpm: float
    beats_per_bar: int
    confidence: float
    given: bool = False

    @property
    def remark(self) -> str:
        """What the user should know of them; empty if they were given."""
        if self.given:
            return ""
        if not self.grid.beats:
            return "No beats are heard in the context: the stem follows what sounds, not a tempo."
        bar = f", {self.beats_per_bar} to a bar" if self.beats_per_bar else ""
        heard = f"Beats: {self.bpm:.1f} bpm{bar}, confidence {self.confidence:.2f} of 1."
        if self.confidence < UNCLEAR_BEATS:
            heard += " They are unclear, and may be wrong: listen to the stem with the context."
        return heard


@dataclass(frozen=True, eq=False)
class AudioBlock:
    """A stretch of a take.

    Attributes:
        take: number of the take, from 0.
        audio: `[channels, frames]` float32; may exceed full scale. Without frames if the block has notes.
        live: for those who listen while the take is generated: it comes early, and may differ from the others by
            rounding. The blocks that are not live are the take.
        notes: the next notes of the take, in order of onset, from a model that writes notes. No block is both live and
            has notes.
    """

    take: int
    audio: np.ndarray
    live: bool = False
    notes: tuple[Note, ...] = ()


_Read = TypeVar("_Read")
_Given = TypeVar("_Given")


class Accompanist(Protocol[_Read, _Given]):
    """A model that generates stems: one that writes codes (`StageModel`), or a player, which writes notes."""

    @property
    def stem(self) -> str | None:
        """The stem that it generates; None: it was not trained for one."""
        ...

    @property
    def channels(self) -> int:
        """Of its takes."""
        ...

    @property
    def context_rate(self) -> int:
        """Hz of the mono context that it reads."""
        ...

    @property
    def levels_contexts(self) -> bool:
        """Whether contexts of an unusual level are brought to a usual one for it."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user of each of its takes should know."""
        ...

    @property
    def sampling_names(self) -> tuple[str, ...]:
        """The sampling settings that apply to it."""
        ...

    def sampling_for(self, *, metronome: bool) -> Mapping[str, float]:
        """Its own sampling settings, for a metronome or for other contexts."""
        ...

    def take_rate(self, context_rate: int) -> int:
        """Hz of the blocks that it generates for a context of that rate."""
        ...

    def describe(self, description: str | None) -> _Given:
        """Make what it needs of a description.

        Raises:
            StageError: it takes none, or cannot read it.
        """
        ...

    def read(self, blocks: Iterable[np.ndarray], *, grid: BeatGrid | None = None, metronome: bool = False) -> _Read:
        """Read mono audio, and return what it keeps of it.

        Args:
            blocks: `[frames]` at `context_rate`.
            grid: the beats, where they are known.
            metronome: whether it is clicks alone.
        """
        ...

    def beats_of(self, context: _Read) -> HeardBeats | None:
        """Return the beats of what it has read; None if it writes no notes."""
        ...

    def generate(
        self,
        context: _Read,
        config: GenerationConfig,
        *,
        given: _Given,
        continuation: _Read | None = None,
        live_seconds: float | None = None,
        final: bool = True,
        on_seconds: Callable[[float], None] = lambda _: None,
        sample_rate: int | None = None,
    ) -> Generator[AudioBlock]:
        """Generate the takes of a context, block by block, at `take_rate`.

        Args:
            context: as `read` returned it.
            config: sampling, seed, takes.
            given: as `describe` returned it.
            continuation: the beginning, as `read` returned it.
            live_seconds: about how long live blocks are; None: there are none.
            final: whether there are blocks that are not live. A model that writes notes returns them in any case, in
                blocks without frames: where neither live nor final blocks are wanted, it renders nothing.
            on_seconds: called with the seconds generated so far; may raise to stop.
            sample_rate: Hz of the blocks, as `take_rate` returned it for the context; None is its usual one.
        """
        ...


@dataclass(frozen=True)
class ContextReading:
    """A context that a model has read.

    Attributes:
        context: what the model keeps of it.
        given: what it keeps of the description.
        continuation: what it keeps of the continuation, or None.
        frames: length in samples, at the context's own rate; so long will the takes be.
        sample_rate: Hz, the context's own.
        channels: the context's.
        remarks: what the user should know of it.
        beats: that the model plays to; None if it writes no notes.
    """

    context: Any
    given: Any
    continuation: Any
    frames: int
    sample_rate: int
    channels: int
    remarks: tuple[str, ...]
    beats: HeardBeats | None = None

    @property
    def seconds(self) -> float:
        """Length of audio."""
        return self.frames / self.sample_rate


@dataclass(frozen=True, eq=False, repr=False)
class Stem:
    """A generated stem. In a notebook it shows itself as a player.

    Attributes:
        audio: `[frames]`, or `[channels, frames]` of more than one channel; float32 within ±1, as long as the context.
        sample_rate: Hz, the context's.
        seed: that generates this take again.
        name: of the stem, such as "drums".
        peak: dBFS; −inf if silent.
        loudness: integrated loudness (BS.1770) in LUFS; −inf if silent or shorter than 0.4 s.
        turned_down: dB by which it was turned down to stay within full scale.
        remarks: what its user should know, such as that the context is silent.
        notes: that are played, in order of onset; none if the model writes no notes.
        beats: that are played to; None likewise.
    """

    audio: np.ndarray
    sample_rate: int
    seed: int
    name: str
    peak: float
    loudness: float
    turned_down: float = 0.0
    remarks: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    beats: HeardBeats | None = None

    @property
    def grid(self) -> BeatGrid | None:
        """The beats and downbeats that are played to; None if the model writes no notes."""
        return None if self.beats is None else self.beats.grid

    def midi(self) -> bytes:
        """Return the notes as a MIDI file, whose beats and bars are the song's.

        Raises:
            UsageError: the model writes no notes.
        """
        from stage_cli.core.music.midi import midi_bytes

        if self.beats is None:
            raise UsageError("this stem has no notes", why="its model writes audio", next_step="use a player")
        return midi_bytes({self.name: self.notes}, self.beats.grid, duration=self.seconds)

    @property
    def seconds(self) -> float:
        """Length."""
        return self.audio.shape[-1] / self.sample_rate

    @property
    def channels(self) -> int:
        """1 for mono."""
        return 1 if self.audio.ndim == 1 else len(self.audio)

    def save(self, path: Path | str, *, overwrite: bool = True) -> Path:
        """Write it as 24-bit WAV or FLAC, whole or not at all.

        Args:
            path: ends in `.wav` or `.flac`; missing folders are made.
            overwrite: replace a file that exists.

        Returns:
            The path.

        Raises:
            UsageError: another ending, or the file exists and `overwrite` is False.
            AudioError: the file cannot be written.
        """
        path = Path(path).expanduser()
        ending = path.suffix.lower().removeprefix(".")
        if ending not in OUTPUT_FORMATS:
            raise UsageError(
                f"a stem cannot be written as {path.name}", next_step=f"end it in .{' or .'.join(OUTPUT_FORMATS)}"
            )
        frames = self.audio.shape[-1]
        with AtomicAudioWriter(path, self.sample_rate, self.channels, ending, overwrite, frames=frames) as writer:
            writer.write(self.audio.reshape(self.channels, -1).T)
        return path

    def __repr__(self) -> str:
        """Say what it is, without its samples."""
        return (
            f"Stem({self.name}, {self.seconds:.2f} s, {self.channels} × {self.sample_rate} Hz, seed {self.seed}, "
            f"{self.loudness:.1f} LUFS)"
        )

    def _repr_html_(self) -> str:
        """Return a player; of a long stem, of its first minutes."""
        import html

        import soundfile

        shown = min(self.audio.shape[-1], _PLAYER_SAMPLES // self.channels)
        file = io.BytesIO()
        samples = self.audio.reshape(self.channels, -1)[:, :shown].T
        soundfile.write(file, samples, self.sample_rate, format="FLAC", subtype="PCM_16")
        source = f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
        cut = "" if shown == self.audio.shape[-1] else f" · the first {shown / self.sample_rate:.0f} s"
        return f'<div><audio controls src="{source}"></audio><br>{html.escape(repr(self))}{cut}</div>'


# Samples in a notebook's player: three minutes of mono at 44.1 kHz.
_PLAYER_SAMPLES = 3 * 60 * 44_100


def check_stem(model: Accompanist[Any, Any], stem: str) -> None:
    """Raise UsageError if a model was made for another stem."""
    if model.stem not in (None, stem):
        raise UsageError(
            f"This model writes {model.stem}, not {stem}", next_step=f"use `stem` {model.stem}, or another `model`"
        )


def generation_for(
    model: Accompanist[Any, Any],
    context: Context,
    sampling: Mapping[str, float],
    *,
    seed: int = 0,
    variations: int = 1,
) -> GenerationConfig:
    """Complete the sampling settings that a user has given by a model's own for such a context.

    Args:
        model: that is to generate.
        context: it may have others for a metronome.
        sampling: those that were given, by name: guidance, temperature, top_k, top_p, advance, lookahead.
        seed: of the first take.
        variations: how many takes.

    Raises:
        UsageError: a value is not possible, or the setting does not apply to the model.
        WeightsError: the model names a setting that there is not.
    """
    for name in sampling:
        if name not in model.sampling_names:
            raise UsageError(
                f"`{name}` does not apply to this model",
                why=f"it is a player; what applies is: {', '.join(model.sampling_names)}",
                next_step="leave it out",
            )
    config = GenerationConfig.from_options(sampling, seed=seed, variations=variations)
    return config.for_model(model.sampling_for(metronome=context.is_metronome), tuple(sampling))


def read_context(
    model: Accompanist[_Read, _Given],
    context: Context,
    settings: AccompanySettings,
    on_progress: Progress = lambda *_: None,
) -> ContextReading:
    """Let a model read a context.

    Raises:
        UsageError: the model takes no description, a part of the context that there is not, or a continuation that
            leaves nothing to generate.
        AudioError: a file cannot be read.
        StageError: whatever else the model cannot do.
    """
    given = model.describe(settings.description)
    rate = model.context_rate
    opened = context.open(rate)

    def counted(blocks: Iterable[np.ndarray]) -> Generator[np.ndarray]:
        done = 0
        for block in blocks:
            yield block
            done += len(block)
            on_progress("read", min(done / rate, opened.seconds), opened.seconds)

    grid = context.grid if settings.grid is None else settings.grid
    read = model.read(counted(opened.mono), grid=grid, metronome=context.is_metronome)
    stats = opened.mono.stats
    remarks = [*opened.remarks]
    if decibels(stats.source_peak) < SILENCE:
        remarks.append("The context is silent: there is nothing to follow.")
    elif decibels(stats.peak) < SILENCE:
        remarks.append("The context's channels cancel out in mono: there is nothing to follow.")
    elif model.levels_contexts and (change := level_change(stats.peak)):
        # Its peak is known only now: a context that is as loud as most are need not be read twice.
        direction = "louder" if change > 0 else "quieter"
        remarks.append(
            f"The context peaks, in mono, at {decibels(stats.peak):.0f} dBFS: "
            f"the model hears it {abs(change):.0f} dB {direction}."
        )
        gain = np.float32(10 ** (change / 20))
        louder = (block * gain for block in opened.mono)
        read = model.read(counted(louder), grid=grid, metronome=context.is_metronome)
    beats = model.beats_of(read)
    if beats is not None and decibels(stats.peak) >= SILENCE and beats.remark:
        remarks.append(beats.remark)
    return ContextReading(
        read,
        given,
        _read_continuation(model, settings.continuation, stats),
        stats.source_frames,
        stats.source_rate,
        stats.channels,
        (*remarks, *model.remarks),
        beats,
    )


def _read_continuation(model: Accompanist[_Read, Any], continuation: Context | None, of: MonoStats) -> _Read | None:
    if continuation is None:
        return None
    seconds = of.source_frames / of.source_rate
    opened = continuation.open(model.context_rate)
    if opened.seconds >= seconds - 0.5 / model.context_rate:
        name = display_name(Path(continuation.name))
        raise UsageError(
            f"`continuation` {name} is as long as the context: nothing is left to generate",
            next_step="give a shorter one, or a longer context",
        )
    return model.read(opened.mono)


def generate_blocks(
    model: Accompanist[Any, Any],
    reading: ContextReading,
    settings: AccompanySettings,
    on_progress: Progress = lambda *_: None,
    *,
    live: bool = False,
    final: bool = True,
) -> Generator[AudioBlock]:
    """Generate the takes of a context that was read, block by block, at the context's own rate.

    The blocks of a take are together as long as the context; blocks of notes have no frames. They may exceed full
    scale: what to do about it is known only when all of them are there (`gain_for`). Whoever stops before the end
    closes the generator.

    Args:
        model: that has read the context.
        reading: what it has read.
        settings: as for the reading.
        on_progress: called after each step.
        live: also yield live blocks (`AudioBlock.live`), each take's in a row of their own.
        final: yield the blocks that are not live, which are the same bits whether others are live or not. With neither
            there are notes alone, of a model that writes them.

    Raises:
        WeightsError: the model returns samples that are no numbers.
        DeviceError: out of memory.
    """
    rate, seconds = model.take_rate(reading.sample_rate), reading.seconds
    takes = range(settings.generation.variations)
    kinds = [True] * live + [False] * final
    lines = {(take, kind): _Line(model.channels, rate, reading) for kind in kinds for take in takes}
    on_progress("generate", 0.0, seconds)
    blocks = model.generate(
        reading.context,
        settings.generation,
        given=reading.given,
        continuation=reading.continuation,
        live_seconds=LIVE_SECONDS if live else None,
        final=final,
        on_seconds=lambda done: on_progress("generate", min(done, seconds), seconds),
        sample_rate=rate,
    )
    with contextlib.closing(blocks):
        for block in blocks:
            if not block.audio.shape[1]:
                yield block
                continue
            if not np.isfinite(block.audio).all():
                raise WeightsError(
                    "The model returned samples that are no numbers",
                    why="its weights are damaged, or this device computes them wrongly",
                    next_step="try `device` cpu, or fetch the model again",
                )
            audio = lines[block.take, block.live].push(block.audio)
            if audio.shape[1]:
                yield replace(block, audio=audio)
    for (take, kind), line in lines.items():
        audio = line.finish()
        if audio.shape[1]:
            yield AudioBlock(take, audio, kind)


class _Line:
    """Brings a take to the context's rate, and to its exact length."""

    def __init__(self, channels: int, rate: int, reading: ContextReading) -> None:
        self._channels, self._left = channels, reading.frames
        self._resampler = StreamResampler(rate, reading.sample_rate, channels)

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Take `[channels, n]` at the model's rate; return what is ready, `[channels, m]`."""
        return self._cut(self._resampler.push(audio.T if self._channels > 1 else audio[0]))

    def finish(self) -> np.ndarray:
        """Return the resampler's rest, and silence for what is missing."""
        rest = self._cut(self._resampler.finish())
        return np.concatenate([rest, np.zeros((self._channels, self._left), dtype=np.float32)], axis=1)

    def _cut(self, samples: np.ndarray) -> np.ndarray:
        kept = samples[: self._left]
        self._left -= len(kept)
        return kept.reshape(-1, self._channels).T


def accompany(
    model: Accompanist[Any, Any],
    context: Context,
    settings: AccompanySettings,
    on_progress: Progress = lambda *_: None,
    *,
    on_audio: Callable[[np.ndarray], None] | None = None,
) -> list[Stem]:
    """Generate the takes of a context, in memory.

    Args:
        model: that generates them.
        context: file, array or metronome.
        settings: sampling, seed, number of takes, description, continuation.
        on_progress: called often; may raise to stop.
        on_audio: called with the first take's audio while it is generated, `[frames]` or `[channels, frames]` float32
            at the context's rate, about 0.3 s each time. It may exceed full scale, and differs from the stem by
            rounding.

    Returns:
        A stem for each take.

    Raises:
        StageError: as `read_context` and `generate_blocks`.
    """
    reading = read_context(model, context, settings, on_progress)
    takes: list[list[np.ndarray]] = [[] for _ in range(settings.generation.variations)]
    notes: list[list[Note]] = [[] for _ in takes]
    meters = [LoudnessMeter(reading.sample_rate, model.channels) for _ in takes]
    blocks = generate_blocks(model, reading, settings, on_progress, live=on_audio is not None)
    with contextlib.closing(blocks):
        for block in blocks:
            if block.notes:
                notes[block.take].extend(block.notes)
            elif not block.live:
                takes[block.take].append(block.audio)
                meters[block.take].push(block.audio.T)
            elif on_audio is not None and block.take == 0:
                on_audio(block.audio[0] if model.channels == 1 else block.audio)
    return [
        replace(
            _stem(model, reading, np.concatenate(take, axis=1), meter, settings.generation.seed + number),
            notes=tuple(written),
        )
        for number, (take, meter, written) in enumerate(zip(takes, meters, notes, strict=True))
    ]


def _stem(
    model: Accompanist[Any, Any], reading: ContextReading, audio: np.ndarray, meter: LoudnessMeter, seed: int
) -> Stem:
    gain = gain_for(10 ** (meter.peak / 20))
    change = 20 * math.log10(gain)
    audio = scaled(audio, gain)
    return Stem(
        audio=audio[0] if model.channels == 1 else audio,
        sample_rate=reading.sample_rate,
        seed=seed,
        name=model.stem or "stem",
        peak=meter.peak + change,
        loudness=meter.integrated + change,
        turned_down=abs(change),
        remarks=reading.remarks,
        beats=reading.beats,
    )


def decibels(peak: float) -> float:
    """Turn a peak into dBFS; that of nothing is −240."""
    return 20 * math.log10(max(peak, 1e-12))


def level_change(peak: float) -> float:
    """How much louder a model is to read a context than it is, in dB: 0 for one of a usual level, and for silence.

    Others are brought to the middle of what is usual.

    Args:
        peak: of the whole context, in mono, 1 is full scale.
    """
    level = decibels(peak)
    if level < SILENCE or USUAL_PEAKS[0] <= level <= USUAL_PEAKS[1]:
        return 0.0
    return sum(USUAL_PEAKS) / 2 - level
