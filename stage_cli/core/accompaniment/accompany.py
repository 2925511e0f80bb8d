"""Write stems for one context: the core call behind `stage generate`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.accompaniment.level import SILENCE
from stage_cli.core.accompaniment.live import PIECE_SECONDS, Live, Stream, context_blocks, open_live
from stage_cli.core.accompaniment.request import Request
from stage_cli.core.accompaniment.source import Progress, Source, read_continuation, read_source
from stage_cli.core.accompaniment.track import StemTrack, Track, gain_for, mixed_blocks, write_scaled
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.codec.streaming import PIECE_FRAMES, StreamingDecoder
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.model import StageModel, memory_errors
from stage_cli.errors import UsageError, WeightsError


@dataclass(frozen=True)
class WrittenStem:
    """One stem that was written.

    Attributes:
        path: the stem's file; None if it was only streamed.
        mix_path: the mix's file, if one was asked for.
        seed: that makes this variation alone.
        seconds: length of audio.
        sample_rate: Hz.
        frames: length in samples.
        peak: dBFS, as written or streamed.
        loudness: LUFS, likewise; −inf if silent or too short to measure.
        turned_down: dB by which the stem was turned down, 0 if it was not.
        mix_turned_down: likewise for the mix.
        silent: whether the peak is under −60 dBFS.
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
    model: StageModel,
    request: Request,
    config: GenerationConfig,
    on_progress: Progress = lambda *_: None,
    *,
    stream: Stream | None = None,
) -> Accompaniment:
    """Write the stems of one context.

    Args:
        model: writes them.
        request: what to read and to write.
        config: sampling, seed, variations.
        on_progress: may raise to stop: nothing half-written is left.
        stream: where the first variation goes while it is made; files do not differ by a bit for it.

    Raises:
        UsageError: the model is for another stem or takes no text, an output exists, the context is too short.
        AudioError: a file cannot be read or written.
        WeightsError: the codec returns NaN or infinite samples.
        DeviceError: out of memory.
        OSError: the stream cannot be written; BrokenPipeError if nobody listens to it any more.
    """
    began = time.perf_counter()
    check_stem(model, request.stem)
    notes: list[str] = []
    with contextlib.ExitStack() as stack, torch.inference_mode(), memory_errors(model.config, model.runtime):
        text = None if request.description is None else model.encode_description(request.description)
        source = read_source(model, request.context, on_progress, notes)
        # Before the files: what grew is deleted when they have their names, and not earlier.
        live = stack.enter_context(open_live(request, source, model.config.codec.sample_rate, stream))
        # Opened before the work begins: what cannot be written is known now, not after an hour.
        stem_files = [stack.enter_context(_writer(path, source, 1, request)) for path in request.stem_paths]
        mix_files = [stack.enter_context(_writer(path, source, source.channels, request)) for path in request.mix_paths]
        tracks = [stack.enter_context(contextlib.closing(_track(model, path, source))) for path in request.stem_paths]
        continuation = read_continuation(model, request.continuation, source)
        _generate(model, source, config, continuation, text, tracks, live, on_progress)
        if not model.config.lm.separator:
            notes.append(
                "This is a plain MusicGen: it goes on from the context instead of accompanying it, and knows no stems. "
                "Train it for a stem, or import a STAGE checkpoint."
            )
        notes += live.notes()
        stems = tuple(
            _write(request, source, track, stem_files[i], mix_files[i] if mix_files else None, config.seed + i)
            for i, track in enumerate(tracks)
        )
        if not tracks:
            stems = tuple(_streamed(source, track, config.seed + i) for i, track in enumerate(live.tracks))
    return Accompaniment(stems, time.perf_counter() - began, tuple(notes))


def _generate(
    model: StageModel,
    source: Source,
    config: GenerationConfig,
    continuation: Tensor | None,
    text: Tensor | None,
    tracks: Sequence[Track],
    live: Live,
    on_progress: Progress,
) -> None:
    """Generate codes and decode them into the tracks as they come."""
    frame_rate = model.config.codec.frame_rate
    piece = None
    outputs = [_Output(model, tracks, PIECE_FRAMES)] if tracks else []
    if live.tracks:
        piece = max(1, round(PIECE_SECONDS * frame_rate))
        # First, and decoded by itself: the rounding of small pieces must not reach the files.
        outputs.insert(0, _Output(model, live.tracks, piece))
    on_progress("generate", 0.0, source.seconds)
    parts = generate_song(
        model.lm,
        source.codes,
        config,
        window=model.config.window_frames,
        continuation=continuation,
        piece=piece,
        text=text,
        on_frames=lambda frames: on_progress("generate", min(frames / frame_rate, source.seconds), source.seconds),
    )
    with contextlib.closing(parts):
        for codes in parts:
            for output in outputs:
                output.push(codes)
    for output in outputs:
        output.finish()


class _Output:
    """Decodes codes into one track for each variation."""

    def __init__(self, model: StageModel, tracks: Sequence[Track], piece_frames: int) -> None:
        self._tracks = tracks
        self._device = model.runtime.codec_device
        # On a CPU one by one: what the network holds of one piece fits its caches, and that of several does not.
        decoders = len(tracks) if self._device.type == "cpu" else 1
        self._decoders = [StreamingDecoder(model.codec, piece_frames=piece_frames) for _ in range(decoders)]

    def push(self, codes: Tensor) -> None:
        parts = codes.to(self._device).chunk(len(self._decoders))
        self._hand_on([decoder.push(part) for decoder, part in zip(self._decoders, parts, strict=True)])

    def finish(self) -> None:
        self._hand_on([decoder.finish() for decoder in self._decoders])
        for track in self._tracks:
            track.finish()

    def _hand_on(self, parts: Sequence[Tensor]) -> None:
        audio = torch.cat(list(parts))
        if not audio.isfinite().all():
            raise WeightsError(
                f"The model's codec returned samples that are no numbers on {self._device}",
                why="its weights are damaged, or this device computes them wrongly",
                next_step="try --device cpu, or fetch the model again",
            )
        for track, samples in zip(self._tracks, audio[:, 0].float().cpu().numpy(), strict=True):
            track.push(samples)


def _write(
    request: Request,
    source: Source,
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
        mix_gain = gain_for(max(float(np.abs(block).max()) for block in _mix(request, source, track)))
        write_scaled(_mix(request, source, track), mix_file, mix_gain)
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


def _mix(request: Request, source: Source, track: StemTrack) -> Iterable[np.ndarray]:
    return mixed_blocks(context_blocks(request.context, source.sample_rate), track.blocks())


def _streamed(source: Source, track: Track, seed: int) -> WrittenStem:
    peak = min(track.meter.peak, 0.0)
    return WrittenStem(
        path=None,
        mix_path=None,
        seed=seed,
        seconds=source.seconds,
        sample_rate=source.sample_rate,
        frames=source.frames,
        peak=peak,
        loudness=track.meter.integrated,
        turned_down=0.0,
        mix_turned_down=0.0,
        silent=peak < SILENCE,
    )


def _writer(path: Path, source: Source, channels: int, request: Request) -> AtomicAudioWriter:
    return AtomicAudioWriter(
        path, source.sample_rate, channels, request.format, request.overwrite, frames=source.frames
    )


def _track(model: StageModel, path: Path, source: Source) -> StemTrack:
    return StemTrack(path.resolve().parent, model.config.codec.sample_rate, source.sample_rate, source.frames)
