"""How a training shows itself: a bar in a terminal, lines elsewhere; its events as JSON.

What `stage train --dry-run` says of a run: its estimate as tables and as JSON.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stage_cli.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stage_cli.core.training.estimate import Estimate
    from stage_cli.core.training.events import Event, Started, Validated

_SECONDS_BETWEEN_LINES = 10.0


class TrainingDisplay:
    """Shows the events of a run on stderr while it is used as a context manager.

    Args:
        name: of the run.
        resume_command: what to type to go on after a stop.
        quiet: show nothing.

    Attributes:
        interrupted: the run was stopped, and has told so.
    """

    def __init__(self, name: str, resume_command: str, *, quiet: bool) -> None:
        self.interrupted = False
        self._name = name
        self._resume_command = resume_command
        self._quiet = quiet
        self._step = self._steps = 0
        self._metrics: dict[str, float] = {}
        self._printed = -math.inf
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def on_event(self, event: Event) -> None:
        """Take one event."""
        from stage_cli.core.training import events

        match event:
            case events.Preparing():
                self._prepare(event.done, event.total)
            case events.Started():
                self._start(event)
            case events.Stepped():
                self._step = event.step
                self._draw()
            case events.Logged():
                self._metrics |= event.metrics
                numbers = ", ".join([*self._numbers(), *self._time_left(event.step)])
                self._print_now_and_then(f"step {event.step} of {self._steps}: {numbers}")
            case events.Validated():
                self._validated(event)
            case events.Skipped():
                where = ", ".join(f"{song} (item {index})" for song, index in event.items)
                self._write_line(
                    f"step {event.step} is skipped: its loss or gradient is not finite; {event.in_a_row} in a row. "
                    f"Items: {where}"
                )
            case events.Noted():
                self._write_line(event.text)
            case events.Saved():
                self._write_line(f"step {event.step}: saved {event.path}")
            case events.Interrupted():
                self.interrupted = True
                self._write_line(f"Stopped; step {event.step} is saved. Go on with: {self._resume_command}")
            case events.Finished():
                self._step = event.step

    def _prepare(self, done: int, total: int) -> None:
        self._open_bar()
        if self._bar is None:
            self._print_now_and_then(f"making tokens: {done} of {total} items")
        else:
            self._update("making tokens", done, total, "")

    def _start(self, event: Started) -> None:
        facts = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in event.summary.items())
        self._write_line(f"Training {event.directory}: {event.steps:,} steps{f'; {facts}' if facts else ''}.")
        if event.resumed_from is not None:
            self._write_line(f"Going on after step {event.resumed_from}.")
        self._step, self._steps = event.resumed_from or 0, event.steps
        self._printed = -math.inf
        self._open_bar()
        if self._bar is not None:
            for task in self._tasks.values():
                self._bar.update(task, visible=False)
        self._draw()

    def _validated(self, event: Validated) -> None:
        loss, gap = event.metrics.get("validation/loss"), event.metrics.get("validation/context_gap")
        if gap is not None:
            self._metrics["validation/context_gap"] = gap
        parts = [
            "" if loss is None else f"validation loss {loss:.4f}{' (best so far)' if event.best else ''}",
            "" if gap is None else f"context gap {gap:.4f}",
            f"demos in {event.demos[0].parent}" if event.demos else "",
        ]
        self._write_line(f"step {event.step}: {', '.join(part for part in parts if part)}")

    def _write_line(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar is None:
            console.print_note(text)
            return
        from rich.text import Text

        self._bar.console.print(Text(text, style="dim"), soft_wrap=True)

    def _print_now_and_then(self, text: str) -> None:
        """Print a line where there is no bar: a log wants no more."""
        now = time.monotonic()
        if self._bar is None and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self._write_line(text)

    def _numbers(self) -> list[str]:
        """The loss, the context gap and the speed, as far as they are known."""
        shown = (
            ("loss", "loss {:.3f}"),
            ("validation/context_gap", "context gap {:.3f}"),
            ("steps_per_second", "{:.2f} steps/s"),
            ("audio_seconds_per_second", "{:.1f} s of audio/s"),
        )
        return [form.format(self._metrics[name]) for name, form in shown if name in self._metrics]

    def _time_left(self, step: int) -> list[str]:
        speed = self._metrics.get("steps_per_second", 0.0)
        return [f"{duration((self._steps - step) / speed)} left"] if speed > 0 and step < self._steps else []

    def _open_bar(self) -> None:
        if self._quiet or self._bar is not None or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = self._stack.enter_context(
            Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:.0f} / {task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
                transient=True,
                refresh_per_second=4,
            )
        )

    def _draw(self) -> None:
        self._update(self._name, self._step, self._steps, " · ".join([*self._numbers(), *self._time_left(self._step)]))

    def _update(self, what: str, done: int, total: int, numbers: str) -> None:
        """Set a bar of a terminal."""
        if self._bar is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, completed=done, numbers="")
        self._bar.update(self._tasks[what], completed=done, total=total, numbers=numbers, visible=True)


def duration(seconds: float) -> str:
    """Return a time in the two largest of hours, minutes and seconds."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def event_as_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON types, headed by its name."""
    values = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
    return {"event": type(event).__name__.lower(), **values}


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "items"):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def estimate_as_json(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON types."""
    return {
        "parameters": {part.name: {"all": part.parameters, "trained": part.trained} for part in found.parts},
        "trained_parameters": found.trained,
        "data": asdict(found.data),
        "steps": found.steps,
        "epochs": found.epochs,
        "audio_hours": found.audio_hours,
        "memory_bytes": {share.name: share.size for share in found.memory},
        "notes": list(found.notes),
    }


def print_estimate(found: Estimate) -> None:
    """Print an estimate as tables, and what is not known as notes."""
    if found.parts:
        _print_parts(found)
    _print_data(found)
    if found.memory:
        rows = [(share.name, f"{share.size / 1e9:.3f}", share.formula) for share in found.memory]
        total = f"{sum(share.size for share in found.memory) / 1e9:.3f}"
        columns = ("memory on each device", "GB", "estimated as")
        console.print_table(columns, [*rows, ("together", total, "")], right=(1,))
    for note in found.notes:
        console.print_note(note)


def _print_parts(found: Estimate) -> None:
    rows = [
        (part.name, "not known" if part.parameters is None else f"{part.parameters:,}", f"{part.trained:,}")
        for part in found.parts
    ]
    rows.append(("together", f"{found.trained + found.frozen:,}", f"{found.trained:,}"))
    console.print_table(("parameters", "all", "trained"), rows, right=(1, 2))


def _print_data(found: Estimate) -> None:
    data = found.data
    rows = [
        ("songs that train", f"{data.training_songs:,}"),
        ("songs that validate", f"{data.validation_songs:,}"),
        ("songs left out (twins of those)", f"{data.left_out:,}"),
        ("items an epoch", f"{data.items:,}"),
        ("items of a validation", f"{data.validation_items:,}"),
        ("steps", f"{found.steps:,}"),
        ("epochs", f"{found.epochs:,.1f}"),
        ("hours of targets", f"{found.audio_hours:,.1f}"),
    ]
    console.print_table(("data and steps", ""), rows, right=(1,))
