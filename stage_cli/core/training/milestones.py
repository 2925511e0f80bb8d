"""What happens between two steps: validation, the result, checkpoints, and going on from one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stage_cli.core.files import recover, whole_folder
from stage_cli.core.training.checkpoints import Checkpoints, Progress, Snapshot, cannot_save
from stage_cli.core.training.distributed import Processes, StopRequests
from stage_cli.core.training.events import Noted, OnEvent, Saved, Validated
from stage_cli.core.training.optimizers import whole
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.task import Task
from stage_cli.errors import Cancelled

MODEL_FOLDER = "model"
VALIDATION_LOSS = "validation/loss"


class Validation(Protocol):
    """What a validation found; `metrics` holds "validation/loss"."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """By name."""
        ...

    @property
    def demos(self) -> Sequence[Path]:
        """Files written."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know."""
        ...


Validate = Callable[[int, Callable[[], None]], Validation]
Describe = Callable[[Path, int, Mapping[str, float]], object]


@dataclass
class Milestones:
    """Validates and saves when it is due. All processes call it at the same steps; only the main one writes.

    Attributes:
        config: the run's.
        task: what is trained.
        processes: that train together.
        snapshot: what a checkpoint is made of.
        checkpoints: where they are.
        progress: of the run.
        stops: what this process was asked for.
        validate: called on all processes with the step, while the module holds the weights to be validated, and with a
            function to be called often, which ends it if somebody asks to stop; None never validates.
        describe: called with the result's folder before it gets its name, to add what tells of it, and with the step
            and the metrics of its validation.
        on_event: takes events, on the main process only.
    """

    config: TrainingConfig
    task: Task
    processes: Processes
    snapshot: Snapshot
    checkpoints: Checkpoints
    progress: Progress
    stops: StopRequests
    validate: Validate | None
    describe: Describe | None
    on_event: OnEvent
    _save_is_due: bool = field(default=False, init=False)
    _saved: int = field(default=0, init=False)

    @property
    def last_checkpoint(self) -> int:
        """Step of the newest whole checkpoint, 0 if there is none."""
        return max(self.checkpoints.steps(), default=0)

    def resume(self) -> int | None:
        """Go on from the newest whole checkpoint; return its step, None if there is none.

        Raises:
            StageError: it cannot be read, or is of another run.
        """
        if self.processes.is_main:
            self.checkpoints.clean()
            recover(self.config.directory / MODEL_FOLDER)
        step = self.processes.gather([self.last_checkpoint])[0]
        if not step:
            return None
        loaded = self.snapshot.load(self.checkpoints, step)
        self.progress.restore(loaded)
        self._saved = step
        return step

    def after(self, signal: int | None, *, is_good: bool) -> int | None:
        """Validate and save what is due after the step that the progress has come to.

        Args:
            signal: that asks to stop, the same on all processes; then everything is saved, and a validation that is due
                is made after resuming.
            is_good: whether the step was; after a bad one nothing is saved before the next good one, or the last step.

        Returns:
            The signal to stop for, which may have come in the meantime.

        Raises:
            StageError: something cannot be written.
        """
        is_last = self.progress.step >= self.config.train.steps
        if not is_last and self.progress.step % self.config.train.checkpoint_every == 0:
            self._save_is_due = True
        if signal is None and is_good and self.validation_is_due():
            signal = self._validate()
        if is_last and signal is None:
            # The result comes before the last checkpoint: a run that has that one is complete.
            if self.progress.best is None or self._model_is_missing():
                with self._averaged():
                    self._write_model()
            self._save_is_due |= self._saved != self.progress.step
        if (signal is not None and is_good) or (self._save_is_due and (is_good or is_last)):
            self._save()
        return signal

    def validation_is_due(self) -> bool:
        """Whether the steps since the last validation are enough; also after an end in between."""
        every, progress = self.config.validate.every, self.progress
        if not every or self.validate is None or progress.step == progress.validated:
            return False
        return progress.step // every > progress.validated // every or progress.step >= self.config.train.steps

    def _validate(self) -> int | None:
        """Validate, and keep the result if it is the best; return a signal that came in between."""
        if self.validate is None:
            return None
        progress, step = self.progress, self.progress.step
        with self._averaged():
            try:
                # Several processes cannot drop it: they would wait for each other at different places.
                found = self.validate(step, self.stops.check if self.processes.count == 1 else lambda: None)
            except Cancelled:
                return self.stops.number
            finally:
                self.task.module.train()
            # All processes must agree on what is best.
            metrics = self.processes.gather([dict(found.metrics)])[0]
            loss = metrics.get(VALIDATION_LOSS, math.nan)
            is_best = math.isfinite(loss) and (progress.best is None or loss < progress.best)
            progress.validated, progress.validation = step, metrics
            if is_best:
                progress.best, progress.best_step = loss, step
            if self.processes.is_main:
                for note in found.notes:
                    self.on_event(Noted(note))
                self.on_event(Validated(step, metrics, is_best, tuple(found.demos)))
            if is_best:
                self._write_model()
                self._save_is_due = True
        return None

    def _averaged(self) -> AbstractContextManager[None]:
        average = self.snapshot.average
        return nullcontext() if average is None else average.in_place()

    def _model_is_missing(self) -> bool:
        return not self.processes.gather([(self.config.directory / MODEL_FOLDER).exists()])[0]

    def _write_model(self) -> None:
        """Write RUN/model from the weights that the module holds."""
        state = None
        if self.config.run.sharding == "fsdp":
            state = {name: whole(part).cpu() for name, part in self.task.module.state_dict().items()}
        if not self.processes.is_main:
            return
        folder, progress = self.config.directory / MODEL_FOLDER, self.progress
        metrics = progress.validation if progress.validated == progress.step else {}
        try:
            with whole_folder(folder) as part:
                self.task.save(part, metrics, state)
                if self.describe is not None:
                    self.describe(part, progress.step, metrics)
        except OSError as error:
            raise cannot_save("the model", self.config.directory, error) from None
        self.on_event(Saved(progress.step, folder))

    def _save(self) -> None:
        """Write a checkpoint, unless the weights are not numbers any more: then an earlier one is worth more."""
        progress, is_written = self.progress, self._saved == self.progress.step and not self._save_is_due
        self._save_is_due = False
        if is_written or not self.snapshot.is_finite():
            return
        self.snapshot.save(self.checkpoints, progress)
        self._saved = progress.step
        if self.processes.is_main:
            self.checkpoints.prune(progress.best_step)
            self.on_event(Saved(progress.step, self.checkpoints.folder(progress.step)))
