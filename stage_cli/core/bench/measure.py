"""The parts of one window, timed one by one: encode, prefill, decode steps, decode.

One measurement: a process of its own loads a model, writes stems with it, and tells time and memory.

Memory that a process once held stays its peak, so each precision and each length has a process of its own. That one
is also as fresh as that of `stage generate`, which is what loading is timed for.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from stage_cli.core.accompany import AccompanySettings, generation_for
from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder
from stage_cli.core.contexts import FileContext
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.machine import resident_peak, worker_pool
from stage_cli.core.model import StageModel, memory_errors
from stage_cli.core.stem_files import StemRequest, write_stems
from stage_cli.errors import DeviceError

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


_Made = TypeVar("_Made")

WARM_UP_SECONDS = 2.0
"""Audio that is written before the clock runs."""


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        directory: of the model, which lies on this machine.
        device: as `device` of `stage generate`.
        precision: of the language model.
        context: an audio file.
        seconds: of it that are accompanied.
        stem: which the model writes.
        folder: for what is written.
        variations: also measured, if there are more than one.
        parts: time the parts of a window, too.
    """

    directory: Path
    device: str
    precision: str
    context: Path
    seconds: float
    stem: str
    folder: Path
    variations: int = 1
    parts: bool = True


@dataclass(frozen=True)
class Outcome:
    """What one process has found.

    Attributes:
        numbers: seconds and bytes by name.
        threads: that torch worked with.
        gpu: its name, or None.
    """

    numbers: dict[str, float]
    threads: int
    gpu: str | None


def measure(job: Job) -> Outcome:
    """Measure in this process, which should be a fresh one.

    Raises:
        StageError: what loading and generating raise.
    """
    began = time.perf_counter()
    # It was resolved, and what it needs fetched, before.
    model = StageModel.from_pretrained(str(job.directory), device=job.device, precision=job.precision, offline=True)
    device = model.runtime.device
    synchronize(device)
    numbers = {"loading_seconds": time.perf_counter() - began}
    numbers["total_seconds"] = _write(model, job, 1)
    numbers |= _peaks(device)
    # In this order, for a peak is that of all that came before.
    if job.variations > 1:
        numbers["variations_seconds"] = _write(model, job, job.variations)
        numbers |= {f"variations_{name}": size for name, size in _peaks(device).items()}
    if job.parts:
        numbers |= time_parts(model, GenerationConfig().for_model(model.config.sampling, ()))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return Outcome(numbers, torch.get_num_threads(), gpu)


def in_fresh_process(function: Callable[..., _Made], *arguments: object) -> _Made:
    """Call a function of a module in a new process, which is gone afterwards; return what it returns.

    Raises:
        DeviceError: the process was killed. And whatever the function raises.
    """
    with worker_pool(1) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise DeviceError(
                "the process that measures was killed",
                why="perhaps this machine has too little memory for it",
                next_step="try a smaller model, `precision` int8 or bfloat16, or fewer `variations`",
            ) from None


def _write(model: StageModel, job: Job, variations: int) -> float:
    """Seconds for the whole of it, from the context's file to the stems' files, as `stage generate` does it."""
    seconds = 0.0
    for duration in (min(WARM_UP_SECONDS, job.seconds), job.seconds):
        context = FileContext(job.context, 0.0, duration)
        settings = AccompanySettings(generation_for(model, context, {}, variations=variations))
        request = StemRequest(
            context,
            job.stem,
            tuple(job.folder / f"stem.{number}.wav" for number in range(variations)),
            overwrite=True,
        )
        seconds = write_stems(model, request, settings).compute_seconds
    return seconds


def _peaks(device: torch.device) -> dict[str, float]:
    """Return the most memory that was held so far, in bytes: of this process, and on CUDA what torch held there."""
    found: dict[str, float] = {}
    if (resident := resident_peak()) is not None:
        found["resident_bytes"] = resident
    if device.type == "cuda":
        found["cuda_bytes"] = torch.cuda.max_memory_allocated(device)
    return found
