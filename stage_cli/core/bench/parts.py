"""The parts of one window, timed one by one: encode, prefill, decode steps, decode."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.decode import decode_window
from stage_cli.core.model import StageModel, memory_errors

TIMES = 3
"""How often each part is timed; the middle counts."""
WARM_UP, STEPS = 5, 60
"""Decode steps that do not count, and those that do: more than a period of the choice of threads."""


class _EnoughError(Exception):
    """Raised between two steps: what follows is not measured."""


@torch.inference_mode()
def time_parts(model: StageModel, config: GenerationConfig) -> dict[str, float]:
    """Time what a window of a song consists of, on random codes.

    Args:
        model: already warm.
        config: guidance and sampling.

    Returns:
        Seconds: `encode_seconds` of a window of context; `prefill_seconds` from its codes to the first tokens;
        `step_seconds` of one decode step in the second half of a window, where all of its context and half of its
        target are in the cache; `decode_seconds` of a window of codes.

    Raises:
        DeviceError: out of memory.
    """
    window, codec = model.config.window_frames, model.config.codec
    generator = torch.Generator().manual_seed(0)
    shape = (1, codec.codebooks, window)
    codes = torch.randint(codec.codebook_size, shape, generator=generator).to(model.runtime.device)
    uniforms = torch.rand(shape, generator=generator).to(model.runtime.device)
    noise = torch.randn(1, codec.channels, window * codec.hop_length, generator=generator)
    audio = (0.1 * noise).to(model.runtime.codec_device)

    def encode() -> None:
        encoder = StreamingEncoder(model.codec)
        encoder.push(audio)
        encoder.finish()

    def decode() -> None:
        decoder = StreamingDecoder(model.codec)
        decoder.push(codes.to(model.runtime.codec_device))
        decoder.finish()

    def steps(kept: int, count: int) -> list[float]:
        return _times_of_steps(model, codes, codes[:, :, :kept], uniforms, config, count)

    with memory_errors(model.config, model.runtime):
        found = steps(window // 2, WARM_UP + STEPS)
        # A tiny model's window may hold fewer steps: then all of them count.
        counted = found[1 + WARM_UP :] or found[1:] or found
        return {
            "encode_seconds": _middle(model, encode),
            "prefill_seconds": median(steps(0, 0)[0] for _ in range(TIMES)),
            "step_seconds": median(counted),
            "decode_seconds": _middle(model, decode),
        }


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _middle(model: StageModel, part: Callable[[], None]) -> float:
    times = []
    for _ in range(TIMES):
        synchronize(model.runtime.device)
        began = time.perf_counter()
        part()
        synchronize(model.runtime.device)
        times.append(time.perf_counter() - began)
    return median(times)


def _times_of_steps(
    model: StageModel, context: Tensor, known: Tensor, uniforms: Tensor, config: GenerationConfig, count: int
) -> list[float]:
    """Seconds to the first tokens, then of each of the `count` steps that follow, as far as the window goes."""
    synchronize(model.runtime.device)
    moments = [time.perf_counter()]

    def on_step(_: int) -> None:
        synchronize(model.runtime.device)
        moments.append(time.perf_counter())
        if len(moments) == count + 2:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        decode_window(model.lm, context, known, uniforms, config, on_step=on_step)
    return [end - start for start, end in itertools.pairwise(moments)]
