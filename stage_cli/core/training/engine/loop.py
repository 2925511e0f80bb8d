"""The loop: from the first step, or from a checkpoint, to the last step, to a wish to stop, or to an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.engine.average import WeightAverage
from stage_cli.core.training.engine.chance import kept_generators
from stage_cli.core.training.engine.checkpoints import Checkpoints
from stage_cli.core.training.engine.events import (
    Event,
    Finished,
    Interrupted,
    Logged,
    OnEvent,
    Skipped,
    Started,
    Stepped,
)
from stage_cli.core.training.engine.loader import Loader
from stage_cli.core.training.engine.meter import Meter
from stage_cli.core.training.engine.milestones import Describe, Milestones, Validate
from stage_cli.core.training.engine.optimizers import Optimizers
from stage_cli.core.training.engine.order import DataOrder
from stage_cli.core.training.engine.processes import Processes
from stage_cli.core.training.engine.progress import Progress
from stage_cli.core.training.engine.snapshot import Snapshot
from stage_cli.core.training.engine.step import StepOutcome, Stepper
from stage_cli.core.training.engine.stop_requests import StopRequests
from stage_cli.core.training.engine.task import Task
from stage_cli.errors import DeviceError, StageError

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
        self._meter = Meter(self._progress, processes.device)
        self._stops = StopRequests(patient=processes.count > 1)
        self._bad_in_a_row = 0
        self._milestones = Milestones(
            config=config,
            task=task,
            processes=processes,
            snapshot=Snapshot(
                task.module, self._optimizers, average, processes, {**identity, "number of items": self._order.items}
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
