"""Write stems for one context: the core call behind `stage generate`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.accompaniment.context import Context, FileContext
from stage_cli.core.accompaniment.request import Request
from stage_cli.core.accompaniment.track import StemTrack, gain_for, mixed_blocks, write_scaled
from stage_cli.core.audio.files import display_name
from stage_cli.core.audio.reading import MonoReader
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.model import StageModel, memory_errors
from stage_cli.errors import UsageError, WeightsError

# A peak under this is called silent, in dBFS.
SILENCE = -60.0

Progress = Callable[[str, float, float], None]
"""Called with the name of the phase ("read" or "generate"), the seconds of audio done, and the seconds in all."""


@dataclass(frozen=True)
class WrittenStem:
    """One stem that was written.

    Attributes:
        path: the stem's file.
        mix_path: the mix's file, if one was asked for.
        seed: that makes this variation alone.
        seconds: length of audio.
        sample_rate: Hz.
        frames: length in samples.
        peak: dBFS, as written.
        loudness: LUFS, as written; −inf if silent or too short to measure.
        turned_down: dB by which the stem was turned down, 0 if it was not.
        mix_turned_down: likewise for the mix.
        silent: whether the peak is under −60 dBFS.
    """

    path: Path
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


@dataclass(frozen=True)
class Accompaniment:
    """What was written for one context.

    Attributes:
        stems: one for each variation.
        compute_seconds: wall time, from reading to the last file.
        notes: what the user should know: a silent context, a shortened duration, a model that cannot follow a context.
    """

    stems: tuple[WrittenStem, ...]
    compute_seconds: float
    notes: tuple[str, ...] = field(default=())


def check_stem(model: StageModel, stem: str) -> None:
    """Raise UsageError if the model was made for another stem."""
    if model.config.stem not in (None, stem):
        raise UsageError(
            f"This model writes {model.config.stem}, not {stem}",
            next_step=f"use --stem {model.config.stem}, or another --model",
        )


def accompany(
    model: StageModel, request: Request, config: GenerationConfig, on_progress: Progress = lambda *_: None
) -> Accompaniment:
    """Write the stems of one context.

    Args:
        model: writes them.
        request: what to read and to write.
        config: sampling, seed, variations.
        on_progress: may raise to stop: nothing half-written is left.

    Raises:
        UsageError: the model is for another stem or takes no text, an output exists, the context is too short.
        AudioError: a file cannot be read or written.
        WeightsError: the codec returns NaN or infinite samples.
        DeviceError: out of memory.
    """
    began = time.perf_counter()
    check_stem(model, request.stem)
    notes: list[str] = []
    with contextlib.ExitStack() as stack, torch.inference_mode(), memory_errors(model.config, model.runtime):
        text = None if request.description is None else model.encode_description(request.description)
        source = _read(model, request.context, on_progress, notes)
        # Opened before the work begins: what cannot be written is known now, not after an hour.
        stem_files = [stack.enter_context(_writer(path, source, 1, request)) for path in request.stem_paths]
        mix_files = [stack.enter_context(_writer(path, source, source.channels, request)) for path in request.mix_paths]
        tracks = [stack.enter_context(contextlib.closing(_track(model, path, source))) for path in request.stem_paths]
        continuation = _continuation(model, request, source)
        _generate(model, source, config, continuation, text, tracks, on_progress)
        if not model.config.lm.separator:
            notes.append(
                "This is a plain MusicGen: it goes on from the context instead of accompanying it, and knows no stems. "
                "Train it for a stem, or import a STAGE checkpoint."
            )
        stems = tuple(
            _write(request, source, track, stem_files[i], mix_files[i] if mix_files else None, config.seed + i)
            for i, track in enumerate(tracks)
        )
    return Accompaniment(stems, time.perf_counter() - began, tuple(notes))


@dataclass(frozen=True)
class _Source:
    """A context that has been read: its codes `[1, K, T]`, and its length, rate and channels."""

    codes: Tensor
    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def _read(model: StageModel, context: Context, on_progress: Progress, notes: list[str]) -> _Source:
    rate = model.config.codec.sample_rate
    if not isinstance(context, FileContext):
        codes, frames = _encode(model, context.blocks(rate), context.duration, on_progress)
        return _Source(codes, frames, rate, 1)
    reader = context.open(rate)
    total = reader.info.duration - context.start
    if context.duration is not None:
        if context.duration > total + 1 / reader.info.sample_rate:
            notes.append(f"The context ends after {total:.2f} s: the stem is that long.")
        total = min(total, context.duration)
    codes, _ = _encode(model, reader, total, on_progress)
    stats = reader.stats
    if stats.source_peak < 10 ** (SILENCE / 20):
        notes.append("The context is silent: there is nothing to follow.")
    elif stats.peak < 10 ** (SILENCE / 20):
        notes.append("The context's channels cancel out in mono: there is nothing to follow.")
    return _Source(codes, stats.source_frames, stats.source_rate, stats.channels)


def _encode(
    model: StageModel, blocks: Iterable[np.ndarray], seconds: float, on_progress: Progress
) -> tuple[Tensor, int]:
    """Encode blocks of mono audio: codes `[1, K, T]` on the language model's device, and the samples read."""
    encoder = StreamingEncoder(model.codec)
    codes, done = [], 0
    for block in blocks:
        codes.append(
            encoder.push(torch.from_numpy(np.ascontiguousarray(block))[None, None].to(model.runtime.codec_device))
        )
        done += len(block)
        on_progress("read", min(done / model.config.codec.sample_rate, seconds), seconds)
    codes.append(encoder.finish())
    return torch.cat(codes, dim=2).to(model.runtime.device), done


def _continuation(model: StageModel, request: Request, source: _Source) -> Tensor | None:
    if request.continuation is None:
        return None
    reader = MonoReader(request.continuation, model.config.codec.sample_rate, duration=source.seconds)
    codes, _ = _encode(model, reader, source.seconds, lambda *_: None)
    if codes.shape[2] >= source.codes.shape[2]:
        raise UsageError(
            f"--continue {display_name(request.continuation)} is as long as the context: nothing is left to write",
            next_step="give a shorter one, or a longer context",
        )
    return codes


def _generate(
    model: StageModel,
    source: _Source,
    config: GenerationConfig,
    continuation: Tensor | None,
    text: Tensor | None,
    tracks: list[StemTrack],
    on_progress: Progress,
) -> None:
    """Generate codes and decode them into the tracks as they come."""
    frame_rate = model.config.codec.frame_rate
    decoder = StreamingDecoder(model.codec)

    def store(audio: Tensor) -> None:
        if not audio.isfinite().all():
            raise WeightsError(
                f"The model's codec returned samples that are no numbers on {model.runtime.codec_device}",
                why="its weights are damaged, or this device computes them wrongly",
                next_step="try --device cpu, or fetch the model again",
            )
        for track, samples in zip(tracks, audio[:, 0].float().cpu().numpy(), strict=True):
            track.push(samples)

    on_progress("generate", 0.0, source.seconds)
    for codes in generate_song(
        model.lm,
        source.codes,
        config,
        window=model.config.window_frames,
        continuation=continuation,
        text=text,
        on_frames=lambda frames: on_progress("generate", min(frames / frame_rate, source.seconds), source.seconds),
    ):
        store(decoder.push(codes.to(model.runtime.codec_device)))
    store(decoder.finish())
    for track in tracks:
        track.finish()


def _write(
    request: Request,
    source: _Source,
    track: StemTrack,
    stem_file: AtomicAudioWriter,
    mix_file: AtomicAudioWriter | None,
    seed: int,
) -> WrittenStem:
    gain = gain_for(10 ** (track.meter.peak / 20))
    write_scaled(track.blocks(), stem_file, gain)
    decibels = 20 * math.log10(gain)
    mix_gain = 1.0
    if mix_file is not None:
        mix_gain = gain_for(max(float(np.abs(block).max()) for block in _mix(request.context, source, track)))
        write_scaled(_mix(request.context, source, track), mix_file, mix_gain)
    peak = track.meter.peak + decibels
    return WrittenStem(
        path=stem_file.path,
        mix_path=None if mix_file is None else mix_file.path,
        seed=seed,
        seconds=source.seconds,
        sample_rate=source.sample_rate,
        frames=source.frames,
        peak=peak,
        loudness=track.meter.integrated + decibels,
        turned_down=abs(decibels),
        mix_turned_down=abs(20 * math.log10(mix_gain)),
        silent=peak < SILENCE,
    )


def _mix(context: Context, source: _Source, track: StemTrack) -> Iterable[np.ndarray]:
    blocks = context.source_blocks() if isinstance(context, FileContext) else context.blocks(source.sample_rate)
    return mixed_blocks(blocks, track.blocks())


def _writer(path: Path, source: _Source, channels: int, request: Request) -> AtomicAudioWriter:
    return AtomicAudioWriter(
        path, source.sample_rate, channels, request.format, request.overwrite, frames=source.frames
    )


def _track(model: StageModel, path: Path, source: _Source) -> StemTrack:
    return StemTrack(path.resolve().parent, model.config.codec.sample_rate, source.sample_rate, source.frames)
