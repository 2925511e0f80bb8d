"""What a training run tells while it goes: plain values, sent by the main process only. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """Everything is ready; the first step comes next.

    Attributes:
        steps: of the whole run.
        resumed_from: steps that were done before; None for a new run.
        directory: RUN.
        summary: what is trained on what: device, precision, processes, parameters, trainable_parameters, items,
            batch_size, micro_batch_size, accumulation, ….
    """

    steps: int
    resumed_from: int | None
    directory: Path
    summary: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparing:
    """Something is made before the first step: the token cache.

    Attributes:
        done: items so far, of this process.
        total: items that this process makes.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Noted:
    """Something that the user should know and that does not stop the run."""

    text: str


@dataclass(frozen=True)
class Stepped:
    """A step is done (or skipped: then `Skipped` came first). Steps count from 1."""

    step: int


@dataclass(frozen=True)
class Logged:
    """Means over the steps since the last one, and over all processes; sent every log.every steps, before `Stepped`.

    Attributes:
        step: the last one of them.
        metrics: loss, loss/codebook_1 …, learning_rate, gradient_norm, steps_per_second, audio_seconds_per_second,
            memory_gb, epoch, skipped_steps (since the start).
    """

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Skipped:
    """A loss or a gradient was not finite: the step changed nothing.

    Attributes:
        step: that was skipped.
        items: (song, index in the data set) of the micro-batches with such a loss; of the whole step, where only the
            gradient was not finite.
        in_a_row: such steps without a good one between them.
    """

    step: int
    items: tuple[tuple[str, int], ...]
    in_a_row: int


@dataclass(frozen=True)
class Validated:
    """A validation is done.

    Attributes:
        step: that the weights are of.
        metrics: validation/loss and others.
        best: whether validation/loss is the lowest so far.
        demos: files written.
    """

    step: int
    metrics: Mapping[str, float]
    best: bool
    demos: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Saved:
    """A checkpoint, or RUN/model, is whole on the disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class Interrupted:
    """The run was asked to stop, and has saved what `resume` needs.

    Attributes:
        step: of the last whole checkpoint.
        signal: number of the signal.
    """

    step: int
    signal: int


@dataclass(frozen=True)
class Finished:
    """All steps are done; the result is in RUN/model."""

    step: int
    directory: Path


Event = Preparing | Started | Stepped | Logged | Skipped | Validated | Saved | Noted | Interrupted | Finished
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Take an event and do nothing."""
    del event
