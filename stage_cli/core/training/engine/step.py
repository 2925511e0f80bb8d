"""One step of the optimizer: passes over micro-batches, the guard, clipping, the update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stage_cli.core.training.config.train import TrainConfig
from stage_cli.core.training.engine import gradients
from stage_cli.core.training.engine.average import WeightAverage
from stage_cli.core.training.engine.chance import seed_generators
from stage_cli.core.training.engine.optimizers import Optimizers
from stage_cli.core.training.engine.order import MicroBatch
from stage_cli.core.training.engine.processes import Processes
from stage_cli.core.training.engine.report import StepNumbers, StepReport
from stage_cli.core.training.engine.task import Task

# float16: at a scale this small a gradient that is not finite is none of the scaling's doing.
_SMALLEST_SCALE = 1.0


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step.

    Attributes:
        report: its numbers, the same on all processes.
        bad_items: (song, index) of what made it bad; None for a good step.
        overflowed: the loss scaling was too large, which it corrects by leaving out a step.
    """

    report: StepReport
    bad_items: tuple[tuple[str, int], ...] | None = None
    overflowed: bool = False


@dataclass
class Stepper:
    """Makes steps.

    The host waits for the device once a step, for one vector: finite or not, the numbers, the norm.

    Attributes:
        task: what is trained.
        module: as the processes prepared it.
        optimizers: of its parameters.
        average: of its weights, or None.
        processes: that train together.
        config: the run's `[train]`.
        seed: of the run.
        passes: micro-batches that each process computes for a step.
    """

    task: Task
    module: nn.Module
    optimizers: Optimizers
    average: WeightAverage | None
    processes: Processes
    config: TrainConfig
    seed: int
    passes: int

    def step(self, step: int, batches: Iterator[tuple[MicroBatch, Any]], signal: int | None) -> StepOutcome:
        """Make a step, counted from 1; a bad one changes nothing.

        Args:
            step: its number.
            batches: where to take the next micro-batches from.
            signal: one that this process was sent; the report tells it to the others.
        """
        scaler, parameters = self.processes.scaler, list(self.optimizers.parameters.values())
        buffers = [(buffer, buffer.clone()) for buffer in self.task.module.buffers()]
        numbers, items = StepNumbers(), []
        for number in range(self.passes):
            micro_batch, batch = next(batches)
            names = tuple((str(item.song), int(item.index)) for item in batch.items)
            items.append((micro_batch.number, names))
            self._accumulate(step, micro_batch, batch, numbers, last=number == self.passes - 1)
        gradients.complete(parameters)
        if scaler is not None:
            for member in self.optimizers.members.values():
                scaler.unscale_(member)
        norm = gradients.total_norm(parameters)
        report = numbers.report(self.processes, norm, signal)
        if report.bad_losses == 0 and math.isfinite(report.norm):
            gradients.clip(parameters, self.config, norm)
            self.optimizers.step(step, scaler)
            if self.average is not None:
                self.average.update()
            return StepOutcome(report)
        if report.bad_losses == 0 and scaler is not None and scaler.get_scale() > _SMALLEST_SCALE:
            self.optimizers.step(step, scaler)  # finds the overflow, skips, and makes the scale smaller
            return StepOutcome(report, overflowed=True)
        self._undo(buffers)
        finite = torch.cat(numbers.finite).tolist()
        marked = [(*entry, is_finite) for entry, is_finite in zip(items, finite, strict=True)]
        return StepOutcome(report, bad_items=_to_blame(self.processes.gather(marked)))

    def _accumulate(self, step: int, micro_batch: MicroBatch, batch: Any, numbers: StepNumbers, *, last: bool) -> None:
        device = self.processes.device
        batch = batch.to(device, non_blocking=True)
        seed_generators(device, self.seed, step, micro_batch.number)
        with torch.no_grad():
            inputs = self.task.inputs(batch, micro_batch.epoch)
        with self.processes.accumulating(self.module, last=last):
            outputs = self.module(inputs)
            self.processes.backward(outputs["loss"] / self.passes)
        numbers.add(outputs, self.task.audio_seconds(batch))

    @torch.no_grad()
    def _undo(self, buffers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Leave everything as it was before a bad step."""
        for buffer, before in buffers:
            buffer.copy_(before)
        self.optimizers.zero_grad()
        scaler = self.processes.scaler
        if scaler is not None:
            scaler.update(scaler.get_scale())  # forgets the step; the scale stays


def _to_blame(
    marked: Sequence[tuple[int, tuple[tuple[str, int], ...], bool]],
) -> tuple[tuple[str, int], ...]:
    """Name the items of the micro-batches with a bad loss; all of them, where only the gradient is bad."""
    bad = [entry for entry in marked if not entry[2]] or list(marked)
    return tuple(name for _, names, _ in sorted(bad) for name in names)
