"""Something to accompany: clicks over faint noise, as a stereo file at the rate of a CD.

Models of real sizes with random weights: they cost what trained ones cost, and nothing has to be fetched.

A run of `stage bench`: rounds over precisions and lengths, each measured in a fresh process, taking turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.bench.measure import Job, Outcome, in_fresh_process, measure
from stage_cli.core.bench.results import (
    BenchResult,
    LengthResult,
    Measured,
    PrecisionResult,
    Start,
    describe,
    draw_lengths,
)
from stage_cli.core.bench.settings import SIZES, BenchConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import runtime_for
from stage_cli.core.model_config import StageConfig
from stage_cli.core.music.beats import constant_grid, metronome_blocks
from stage_cli.core.precision import Runtime
from stage_cli.core.weights.checkpoint import own_shapes, plan_directory
from stage_cli.core.weights.hub import bundled_name, bundled_stems, resolve
from stage_cli.core.weights.saving import save_directory
from stage_cli.core.weights.tensors import Shape
from stage_cli.errors import UsageError

RATE = 44_100  # Hz
_BPM, _BEATS_PER_BAR = 120, 4
_CLICKS, _NOISE = 0.5, 0.01


def write_context(path: Path, seconds: float) -> None:
    """Write it as a WAV file.

    Raises:
        AudioError: the disk is full.
    """
    # Noise, for nothing is ever silent in a real song; a network's numbers may die away in silence, which is slow.
    noise = np.random.default_rng(0)
    grid = constant_grid(_BPM, _BEATS_PER_BAR, seconds, 0.0)
    with AtomicAudioWriter(path, RATE, 2) as file:
        for block in metronome_blocks(grid, seconds, RATE):
            sides = _NOISE * noise.standard_normal((len(block), 2), dtype=np.float32)
            file.write(np.clip(_CLICKS * block[:, None] + sides, -1.0, 1.0))


_STEM = "drums"


def random_config(lm: LanguageModelConfig) -> StageConfig:
    """Return the config of a model for drums, with the published EnCodec's sizes."""
    return StageConfig(lm=lm, stem=_STEM, licence="none: random numbers", base="random")


def write_random_model(
    directory: Path, config: StageConfig, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a model with random weights, which are spread as torch spreads those of new layers.

    Args:
        directory: made if it does not exist.
        config: the model's.
        seed: fixes the weights.
        dtype: in which the language model's are stored; bfloat16 takes half of float32's room, on the disk and, while
            they are made, in memory.

    Raises:
        WeightsError: it cannot be written, for example because the disk is full.
    """
    save_directory(directory, config, _tensors(config, seed, dtype))


def _tensors(config: StageConfig, seed: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in own_shapes(config).items():
        tensor = _random(name, shape, generator)
        yield name, tensor.to(dtype) if name.startswith("lm.") else tensor


def _random(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("norm.bias"):
        return torch.zeros(shape)
    if name.endswith("codebooks"):
        return torch.randn(shape, generator=generator)
    inputs = shape[0] if len(shape) == 1 else torch.Size(shape[1:]).numel()
    # Embeddings as wide as kaiming_normal_ makes them, all others as a new nn.Linear or nn.Conv1d.
    bound = (6 / inputs) ** 0.5 if name.endswith("embeddings") else inputs**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


DEFAULT_STEM = "drums"

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it is, and how much there is."""


@dataclass(frozen=True)
class _Model:
    """What is measured: its name, its config, where it lies, and whether its weights are stored as int8.

    Where it lies nowhere its weights are random, to be written first.
    """

    name: str
    config: StageConfig
    directory: Path | None
    rounded: bool


def bench(config: BenchConfig, on_progress: Progress = lambda *_: None) -> BenchResult:
    """Measure a model on this machine.

    In each round every precision, and every length in it, gets its turn, so that a machine that slows down meets all
    of them. Ratios are made within a round.

    Args:
        config: of the run.
        on_progress: may raise to stop; nothing is left then.

    Raises:
        UsageError: an unknown model, device or precision, or one that cannot be.
        StageError: what loading and generating raise; the plot cannot be written.
    """
    start = Start.now()
    model = _find_model(config)
    # All of them before the first is measured: what cannot work is known now.
    runtimes = [
        runtime_for(model.config, config.device, precision, rounded=model.rounded) for precision in config.precisions
    ]
    runtimes = list({runtime.precision: runtime for runtime in runtimes}.values())
    with tempfile.TemporaryDirectory(prefix="stage-bench-") as name:
        folder = Path(name)
        directory = model.directory or folder / "model"
        if model.directory is None:
            on_progress("making random weights", 0, 1)
            in_fresh_process(write_random_model, directory, model.config)
            on_progress("making random weights", 1, 1)
        context = folder / "context.wav"
        write_context(context, config.longest)
        outcomes = _measure_all(_jobs(config, model, runtimes, directory, context), config.repeats, on_progress)
    first = next(iter(outcomes.values()))[0]
    result = BenchResult(
        environment=describe(
            start,
            device=str(runtimes[0].device),
            gpu=first.gpu,
            threads=first.threads,
            command=config.command,
        ),
        model=model.name,
        parameters=model.config.lm.parameters,
        window_seconds=model.config.window_seconds,
        guidance=GenerationConfig().for_model(model.config.sampling, ()).guidance,
        duration=config.duration,
        variations=config.variations,
        repeats=config.repeats,
        precisions=_precisions(outcomes, config),
        lengths=_lengths(outcomes, config),
    )
    if config.plot is not None:
        draw_lengths(result, config.plot)
    return result


def _find_model(config: BenchConfig) -> _Model:
    if config.random is not None:
        return _Model(f"random weights, {config.random}", random_config(SIZES[config.random]), None, rounded=False)
    name = config.model or _bundled()
    directory = resolve(name, offline=config.offline)
    plan = plan_directory(directory, offline=config.offline)
    return _Model(name, plan.config, directory, plan.rounded)


def _bundled() -> str:
    """Name a bundled model: that for drums, if there is one."""
    stems = sorted(bundled_stems(), key=lambda stem: stem != DEFAULT_STEM)
    name = bundled_name(stems[0]) if stems else None
    if name is None:
        raise UsageError("No model comes with stage-cli: `model` is missing", next_step="give one, or `random` SIZE")
    return name


_Key = tuple[str, float | None]
"""A precision, and a length, which is None for the precision's own figures."""


def _jobs(
    config: BenchConfig, model: _Model, runtimes: Sequence[Runtime], directory: Path, context: Path
) -> dict[_Key, Job]:
    """Plan one round, in its order."""
    jobs: dict[_Key, Job] = {}
    for runtime in runtimes:
        job = Job(
            directory=directory,
            device=str(runtime.device),
            precision=runtime.precision,
            context=context,
            seconds=config.duration,
            stem=model.config.stem or DEFAULT_STEM,
            folder=context.parent,
            variations=config.variations,
        )
        jobs[runtime.precision, None] = job
        for length in config.lengths:
            jobs[runtime.precision, length] = replace(job, seconds=length, variations=1, parts=False)
    return jobs


def _measure_all(jobs: Mapping[_Key, Job], rounds: int, on_progress: Progress) -> dict[_Key, list[Outcome]]:
    outcomes: dict[_Key, list[Outcome]] = {key: [] for key in jobs}
    done, total = 0, rounds * len(jobs)
    on_progress("measuring", done, total)
    for _ in range(rounds):
        for key, job in jobs.items():
            outcomes[key].append(in_fresh_process(measure, job))
            done += 1
            on_progress("measuring", done, total)
    return outcomes


def _precisions(outcomes: Mapping[_Key, Sequence[Outcome]], config: BenchConfig) -> tuple[PrecisionResult, ...]:
    found = {precision: _figures(of) for (precision, length), of in outcomes.items() if length is None}
    first = next(iter(found.values()))
    results = []
    for precision, figures in found.items():
        figures["real_time"] = _each(figures["total_seconds"], lambda seconds: config.duration / seconds)
        figures["speed_ratio"] = _ratio(first["total_seconds"], figures["total_seconds"])
        if "variations_seconds" in figures:
            figures["variations_ratio"] = _ratio(figures["variations_seconds"], figures["total_seconds"])
        results.append(PrecisionResult(precision, figures))
    return tuple(results)


def _lengths(outcomes: Mapping[_Key, Sequence[Outcome]], config: BenchConfig) -> tuple[LengthResult, ...]:
    results = []
    for (precision, length), of in outcomes.items():
        if length is None:
            continue
        shortest, figures = _figures(outcomes[precision, config.lengths[0]]), _figures(of)
        share = config.lengths[0] / length
        figures["real_time"] = _each(figures["total_seconds"], lambda seconds, length=length: length / seconds)
        ratio = _ratio(figures["total_seconds"], shortest["total_seconds"])
        figures["time_ratio"] = _each(ratio, lambda value, share=share: value * share)
        memory = "cuda_bytes" if "cuda_bytes" in figures else "resident_bytes"
        if memory in figures:
            figures["memory_ratio"] = _ratio(figures[memory], shortest[memory])
        results.append(LengthResult(precision, length, figures))
    return tuple(results)


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Measured]:
    names = outcomes[0].numbers
    return {name: Measured(tuple(outcome.numbers[name] for outcome in outcomes)) for name in names}


def _each(figure: Measured, change: Callable[[float], float]) -> Measured:
    return Measured(tuple(map(change, figure.values)))


def _ratio(above: Measured, below: Measured) -> Measured:
    return Measured(tuple(a / b for a, b in zip(above.values, below.values, strict=True)))
