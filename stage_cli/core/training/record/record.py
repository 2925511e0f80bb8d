"""Everything that is written about a run while it goes, behind one function that takes events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.config.writing import to_dict, to_toml
from stage_cli.core.training.engine.events import Event, Started
from stage_cli.core.training.record.curves import CURVES_FILE, Curves
from stage_cli.core.training.record.metrics_file import METRICS_FILE, MetricsFile
from stage_cli.core.training.record.tensorboard import TENSORBOARD_FOLDER, TensorBoard
from stage_cli.core.training.record.weights_and_biases import WeightsAndBiases
from stage_cli.errors import StageError


class Sink(Protocol):
    """Something that takes the events of a run."""

    def on_event(self, event: Event) -> None:
        """Take an event."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class Record:
    """The sinks that a run's `[log]` table asks for; only the main process has one.

    A sink that fails at `Started` stops the run: what the user asked for cannot be had. One that fails later is put
    aside with a note, for hours of training are worth more than a picture. `metrics.jsonl` is no such sink: where it
    cannot be written, no checkpoint could be, and the run stops.

    Args:
        config: the run's.
        on_note: takes what the user should know.

    Raises:
        UsageError: W&B is asked for and not installed.
    """

    def __init__(self, config: TrainingConfig, *, on_note: Callable[[str], None] = lambda _: None) -> None:
        run, log = config.directory, config.log
        self.on_note = on_note
        self._metrics = MetricsFile(run / METRICS_FILE)
        self._sinks: list[Sink] = []
        if log.tensorboard:
            self._sinks.append(TensorBoard(run / TENSORBOARD_FOLDER, to_toml(config)))
        if log.wandb:
            self._sinks.append(WeightsAndBiases(run, log.wandb_project, config.name, to_dict(config)))
        if log.curves:
            self._sinks.append(Curves(run / METRICS_FILE, run / CURVES_FILE, config.name))

    def on_event(self, event: Event) -> None:
        """Pass an event on to all sinks.

        Raises:
            StageError: `metrics.jsonl` cannot be written, or a sink cannot be opened.
        """
        self._metrics.on_event(event)
        for sink in list(self._sinks):
            self._guarded(sink, lambda sink=sink: sink.on_event(event), is_opening=isinstance(event, Started))

    def close(self) -> None:
        """Finish writing; call it however the run ends."""
        for sink in list(self._sinks):
            self._guarded(sink, sink.close, is_opening=False)
        self._sinks.clear()

    def _guarded(self, sink: Sink, action: Callable[[], None], *, is_opening: bool) -> None:
        """Let a sink act; put it aside if it fails."""
        name = type(sink).__name__
        try:
            action()
        except (StageError, OSError) as error:
            if is_opening:
                if isinstance(error, StageError):
                    raise
                raise StageError(f"{name} cannot be started", why=error.strerror or str(error)) from None
            self._sinks.remove(sink)
            self.on_note(f"{name} is off from now on: {error}")
