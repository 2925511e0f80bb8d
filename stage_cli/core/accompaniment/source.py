"""What is heard before anything is written: the context, and the beginning of a stem, as codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.accompaniment.context import Context, FileContext
from stage_cli.core.accompaniment.level import SILENCE, decibels, level_change
from stage_cli.core.audio.reading import MonoReader
from stage_cli.core.codec.streaming import StreamingEncoder
from stage_cli.core.files import display_name
from stage_cli.core.model import StageModel
from stage_cli.errors import UsageError

Progress = Callable[[str, float, float], None]
"""Called with the name of the phase ("read" or "generate"), the seconds of audio done, and the seconds in all.

A context may be read twice: its seconds then begin anew."""


@dataclass(frozen=True)
class Source:
    """A context that has been read.

    Attributes:
        codes: `[1, K, T]` on the language model's device.
        frames: length in samples, at the context's own rate; what is written for it is as long.
        sample_rate: Hz, the context's own.
        channels: likewise.
    """

    codes: Tensor
    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length of audio."""
        return self.frames / self.sample_rate


def read_source(model: StageModel, context: Context, on_progress: Progress, notes: list[str]) -> Source:
    """Read and encode a context; what the user should know of it goes to `notes`.

    Raises:
        AudioError: it cannot be read.
        UsageError: start or duration do not fit it.
    """
    rate = model.config.codec.sample_rate
    if not isinstance(context, FileContext):
        codes, frames = encode_audio(model, context.blocks(rate), context.duration, on_progress)
        return Source(codes, frames, rate, 1)
    reader = context.open(rate)
    total = reader.info.duration - context.start
    if context.duration is not None:
        if context.duration > total + 1 / reader.info.sample_rate:
            notes.append(f"The context ends after {total:.2f} s: the stem is that long.")
        total = min(total, context.duration)
    codes, _ = encode_audio(model, reader, total, on_progress)
    stats = reader.stats
    if decibels(stats.source_peak) < SILENCE:
        notes.append("The context is silent: there is nothing to follow.")
    elif decibels(stats.peak) < SILENCE:
        notes.append("The context's channels cancel out in mono: there is nothing to follow.")
    elif change := level_change(stats.peak, model.config):
        # Its peak is known only now: a context that is as loud as most are need not be read twice.
        peak, direction = decibels(stats.peak), "louder" if change > 0 else "quieter"
        notes.append(
            f"The context peaks, in mono, at {peak:.0f} dBFS: the model hears it {abs(change):.0f} dB {direction}."
        )
        gain = np.float32(10 ** (change / 20))
        codes, _ = encode_audio(model, (block * gain for block in reader), total, on_progress)
    return Source(codes, stats.source_frames, stats.source_rate, stats.channels)


def encode_audio(
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


def read_continuation(model: StageModel, path: Path | None, source: Source) -> Tensor | None:
    """Read and encode the beginning of the stem, `[1, K, T]`; None if there is none.

    Raises:
        AudioError: it cannot be read.
        UsageError: it leaves nothing to write.
    """
    if path is None:
        return None
    reader = MonoReader(path, model.config.codec.sample_rate, duration=source.seconds)
    codes, _ = encode_audio(model, reader, source.seconds, lambda *_: None)
    if codes.shape[2] >= source.codes.shape[2]:
        raise UsageError(
            f"--continue {display_name(path)} is as long as the context: nothing is left to write",
            next_step="give a shorter one, or a longer context",
        )
    return codes
