"""Means over the steps between two lines of the log, and how fast they went.

One step of the optimizer: passes over micro-batches, the guard, clipping, the update.

The loop: from the first step, or from a checkpoint, to the last step, to a wish to stop, or to an error.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stage_cli.core.training import optimizers
from stage_cli.core.training.checkpoints import Checkpoints, Progress, Snapshot
from stage_cli.core.training.distributed import Processes, StepNumbers, StepReport, StopRequests
from stage_cli.core.training.events import Event, Finished, Interrupted, Logged, OnEvent, Skipped, Started, Stepped
from stage_cli.core.training.loader import DataOrder, Loader, MicroBatch, kept_generators, seed_generators
from stage_cli.core.training.milestones import Describe, Milestones, Validate
from stage_cli.core.training.optimizers import Optimizers, WeightAverage
from stage_cli.core.training.settings import TrainConfig, TrainingConfig
from stage_cli.core.training.task import Task
from stage_cli.errors import DeviceError, StageError


class SpeedMeter:
    """Means and speed.

    The sums are kept in the progress, which a checkpoint holds, so a line that was begun before a stop is ended after
    it. The speed is that of this process since it began; validations and checkpoints do not count.

    Args:
        progress: of the run.
        device: whose memory is told.
    """

    def __init__(self, progress: Progress, device: torch.device) -> None:
        self._progress = progress
        self._device = device
        self._seconds = 0.0
        self._steps = 0
        self._audio_seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Let the clock run."""
        self._began = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a good step."""
        sums = self._progress.sums
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0.0) + value
        self._progress.summed += 1

    def count(self, audio_seconds: float) -> None:
        """Count a step, good or bad, for the speed."""
        self._steps += 1
        self._audio_seconds += audio_seconds

    def take(self) -> dict[str, float]:
        """Return the means, the speed and the memory, and begin anew."""
        self.pause()
        progress = self._progress
        metrics = {name: value / progress.summed for name, value in progress.sums.items()}
        if self._seconds > 0:
            metrics["steps_per_second"] = self._steps / self._seconds
            metrics["audio_seconds_per_second"] = self._audio_seconds / self._seconds
        metrics["memory_gb"] = memory_gigabytes(self._device)
        progress.sums, progress.summed = {}, 0
        self._seconds, self._steps, self._audio_seconds = 0.0, 0, 0.0
        self.begin()
        return metrics


def memory_gigabytes(device: torch.device) -> float:
    """Return the most memory that was in use so far: of the CUDA device, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


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
        optimizers.complete(parameters)
        if scaler is not None:
            for member in self.optimizers.members.values():
                scaler.unscale_(member)
        norm = optimizers.total_norm(parameters)
        report = numbers.report(self.processes, norm, signal)
        if report.bad_losses == 0 and math.isfinite(report.norm):
            optimizers.clip(parameters, self.config, norm)
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


ITEMS = "number of items"
CHECKPOINTS_FOLDER = "checkpoints"
_ITEMS_SHOWN = 8


@dataclass(frozen=True)
class LoopResult:
    """How the loop ended.

    Attributes:
        progress: how far it came.
        signal: that asked it to stop; None at the end.
    """

    progress: Progress
    signal: int | None = None


class Loop:
    """Trains a task.

    Args:
        config: the run's; `model` and `data` are the task's business.
        task: what is trained.
        processes: that train together.
        validate: see `Milestones`.
        describe: adds to the result's folder what tells of it.
        identity: what a resumed run must not change, by name; values that JSON can hold.
        on_event: takes events, on the main process only.

    Raises:
        UsageError: the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        task: Task,
        processes: Processes,
        *,
        validate: Validate | None,
        describe: Describe | None = None,
        identity: Mapping[str, Any],
        on_event: OnEvent,
    ) -> None:
        train, run = config.train, config.run
        self._config, self._task, self._processes, self._on_event = config, task, processes, on_event
        passes = train.accumulation(processes.count)
        task.place(processes.device)
        module = processes.prepare(task.module, run, task.units)
        parameters = {name: part for name, part in task.module.named_parameters() if part.requires_grad}
        self._optimizers = Optimizers(train, parameters, task.parameter_groups(task.module))
        average = WeightAverage(parameters, train.ema_decay) if train.ema_decay > 0 else None
        self._order = DataOrder(len(task.dataset), train.batch_size, train.micro_batch_size, run.seed)
        self._stepper = Stepper(task, module, self._optimizers, average, processes, train, run.seed, passes)
        self._progress = Progress()
        self._meter = SpeedMeter(self._progress, processes.device)
        self._stops = StopRequests(patient=processes.count > 1)
        self._bad_in_a_row = 0
        self._milestones = Milestones(
            config=config,
            task=task,
            processes=processes,
            snapshot=Snapshot(
                task.module, self._optimizers, average, processes, {**identity, ITEMS: self._order.items}
            ),
            checkpoints=Checkpoints(config.directory / CHECKPOINTS_FOLDER, train.keep_last),
            progress=self._progress,
            stops=self._stops,
            validate=validate,
            describe=describe,
            on_event=on_event,
        )

    def run(self, *, resume: bool) -> LoopResult:
        """Train to the last step, or until somebody asks to stop.

        Raises:
            StageError: too many losses in a row were not finite, an item cannot be made, or a file cannot be written.
            DeviceError: the device's memory is too small.
        """
        with self._stops, kept_generators(self._processes.device):
            resumed_from = self._milestones.resume() if resume else None
            self._emit(Started(self._config.train.steps, resumed_from, self._config.directory, self._summary()))
            try:
                signal = self._train()
            except torch.OutOfMemoryError as error:
                raise DeviceError(
                    f"{self._processes.device} has too little memory for this training",
                    why=str(error).partition("\n")[0],
                    next_step="set train.micro_batch_size lower, or model.checkpointing = true",
                ) from None
        if signal is None:
            self._emit(Finished(self._progress.step, self._config.directory))
        else:
            self._emit(Interrupted(self._milestones.last_checkpoint, signal))
        return LoopResult(self._progress, signal)

    def _train(self) -> int | None:
        """Make the steps that are left; return the signal that ended them."""
        first, last, processes = self._progress.step + 1, self._config.train.steps, self._processes
        if first > last or self._milestones.validation_is_due():
            signals = [signal for signal in processes.gather([self._stops.number]) if signal is not None]
            signal = self._milestones.after(signals[0] if signals else None, is_good=True)
            if signal is not None or first > last:
                return signal
        loader = Loader(
            self._task.dataset,
            self._task.collate,
            self._order,
            workers=self._config.loading.workers,
            process=processes.number,
            processes=processes.count,
            pin_memory=processes.device.type == "cuda",
        )
        with loader:
            batches = loader.start(first, last)
            self._stepper.module.train()
            for step in range(first, last + 1):
                self._meter.begin()
                outcome = self._stepper.step(step, batches, self._stops.number)
                self._note(step, outcome)
                self._meter.pause()
                # Several processes stop together, at the step that all of them were told of.
                signal = self._stops.number if processes.count == 1 else outcome.report.signal
                signal = self._milestones.after(signal, is_good=self._bad_in_a_row == 0)
                if signal is not None:
                    return signal
        return None

    def _note(self, step: int, outcome: StepOutcome) -> None:
        """Count a step, and tell of it.

        Raises:
            StageError: it is one bad step too many.
        """
        progress = self._progress
        progress.step = step
        self._meter.count(outcome.report.audio_seconds)
        if outcome.bad_items is not None:
            progress.skipped += 1
            self._bad_in_a_row += 1
            self._emit(Skipped(step, outcome.bad_items, self._bad_in_a_row))
            if self._bad_in_a_row >= self._config.train.most_bad_steps:
                raise self._too_many(outcome.bad_items)
        elif not outcome.overflowed:
            self._bad_in_a_row = 0
            self._meter.add(outcome.report.numbers | {"gradient_norm": outcome.report.norm})
        if step % self._config.log.every == 0:
            self._emit(Logged(step, self._meter.take() | self._state_of(step)))
        self._emit(Stepped(step))

    def _state_of(self, step: int) -> dict[str, float]:
        """Numbers of the moment, not of an interval."""
        rates = self._optimizers.learning_rates(step)
        metrics = {"learning_rate": rates.pop("adamw")} if "adamw" in rates else {}
        metrics |= {f"learning_rate/{name}": rate for name, rate in rates.items()}
        metrics["epoch"] = step / self._order.batches_per_epoch * self._order.epochs_per_batch
        metrics["skipped_steps"] = float(self._progress.skipped)
        if self._processes.scaler is not None:
            metrics["loss_scale"] = self._processes.scaler.get_scale()
        return metrics

    def _emit(self, event: Event) -> None:
        if self._processes.is_main:
            self._on_event(event)

    def _summary(self) -> dict[str, str | int | float]:
        train, processes = self._config.train, self._processes
        return {
            "device": str(processes.device) if processes.device.type == "cuda" else processes.device.type,
            "precision": processes.precision,
            "processes": processes.count,
            "parameters": sum(parameter.numel() for parameter in self._task.module.parameters()),
            "trainable_parameters": sum(parameter.numel() for parameter in self._optimizers.parameters.values()),
            "optimizer": " and ".join(self._optimizers.members),
            "items": self._order.items,
            "batches_per_epoch": self._order.batches_per_epoch,
            "batch_size": train.batch_size,
            "micro_batch_size": train.micro_batch_size,
            "accumulation": self._stepper.passes,
        }

    def _too_many(self, items: Sequence[tuple[str, int]]) -> StageError:
        shown = ", ".join(f"{song} (item {index})" for song, index in items[:_ITEMS_SHOWN])
        more = f" and {len(items) - _ITEMS_SHOWN} more" if len(items) > _ITEMS_SHOWN else ""
        last = self._milestones.last_checkpoint
        safe = f"the checkpoint of step {last} is untouched" if last else "nothing was saved yet"
        return StageError(
            f"the loss or its gradient was not finite {self._bad_in_a_row} times in a row, last at step "
            f"{self._progress.step}",
            why=f"the last ones came from {shown}{more}; {safe}",
            next_step="look at those songs, or resume with a lower train.learning_rate or another run.precision",
        )
