"""One measurement: a process of its own loads a model, writes stems with it, and tells time and memory.

Memory that a process once held stays its peak, so each precision and each length has a process of its own. That one
is also as fresh as that of `stage generate`, which is what loading is timed for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from stage_cli.core.accompaniment.accompany import accompany
from stage_cli.core.accompaniment.context import FileContext
from stage_cli.core.accompaniment.request import Request
from stage_cli.core.bench.parts import synchronize, time_parts
from stage_cli.core.data.processes import worker_pool
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.machine import resident_peak
from stage_cli.core.model import StageModel
from stage_cli.errors import DeviceError

_Made = TypeVar("_Made")

WARM_UP_SECONDS = 2.0
"""Audio that is written before the clock runs."""


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        directory: of the model, which lies on this machine.
        device: as `stage generate --device`.
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
                next_step="try a smaller model, --precision int8 or bfloat16, or fewer --variations",
            ) from None


def _write(model: StageModel, job: Job, variations: int) -> float:
    """Seconds for the whole of it, from the context's file to the stems' files, as `stage generate` does it."""
    config = GenerationConfig(variations=variations).for_model(model.config.sampling, ())
    seconds = 0.0
    for duration in (min(WARM_UP_SECONDS, job.seconds), job.seconds):
        request = Request(
            FileContext(job.context, 0.0, duration),
            job.stem,
            tuple(job.folder / f"stem.{number}.wav" for number in range(variations)),
            overwrite=True,
        )
        seconds = accompany(model, request, config).compute_seconds
    return seconds


def _peaks(device: torch.device) -> dict[str, float]:
    """Return the most memory that was held so far, in bytes: of this process, and on CUDA what torch held there."""
    found: dict[str, float] = {}
    if (resident := resident_peak()) is not None:
        found["resident_bytes"] = resident
    if device.type == "cuda":
        found["cuda_bytes"] = torch.cuda.max_memory_allocated(device)
    return found
