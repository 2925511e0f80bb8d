"""One training run from its configuration to a model directory: everything else in this room is wired here."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stage_cli.core.files import display_name, write_text
from stage_cli.core.training.building import build_model
from stage_cli.core.training.card import DataSummary, ModelCard, write_codec_card, write_model_card
from stage_cli.core.training.checkpoints import Checkpoints, check_identity
from stage_cli.core.training.codec_task import CodecTask, CodecValidator
from stage_cli.core.training.distributed import Processes, joined, locked
from stage_cli.core.training.events import Event, Noted, OnEvent, Preparing, ignore
from stage_cli.core.training.loader import deterministic_algorithms
from stage_cli.core.training.loop import CHECKPOINTS_FOLDER, ITEMS, Loop
from stage_cli.core.training.milestones import MODEL_FOLDER, Describe, Validate
from stage_cli.core.training.player_task import PlayerTask, PlayerValidator, prepare_songs, write_player_card
from stage_cli.core.training.record import Record
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.stem_task import StemTask
from stage_cli.core.training.task import Task
from stage_cli.core.training.toml import to_dict, to_toml
from stage_cli.core.training.validation import Validator
from stage_cli.errors import StageError, UsageError

CONFIG_FILE = "config.toml"

# Keys that may differ when a run is resumed: they change how fast, where and how long it goes, not what it is.
_FREE = frozenset(
    {
        "model.checkpointing",
        "model.licence",
        "player.licence",
        "player.credit",
        "player.drummers",
        "data.root",
        "data.workers",
        "data.cache_directory",
    }
)
_FIXED_TABLES = ("model", "model.lm", "data", "lora", "codec", "codec.shape", "player", "player.items", "player.sizes")
_FIXED_KEYS = (("run", "seed"), ("train", "batch_size"), ("train", "optimizer"))


@dataclass(frozen=True)
class TrainingResult:
    """What a run has come to.

    Attributes:
        directory: of the run.
        model: directory of the result.
        step: the last one done.
        best: lowest validation loss, None without a validation.
        best_step: its step.
        metrics: of the last validation.
    """

    directory: Path
    model: Path
    step: int
    best: float | None
    best_step: int | None
    metrics: Mapping[str, float]


def train(
    config: TrainingConfig, *, resume: bool = False, offline: bool = False, on_event: OnEvent = ignore
) -> TrainingResult:
    """Train a model as a configuration says; alone, or as one of the processes that `torchrun` started.

    In the main thread, SIGINT, SIGTERM and SIGHUP end the run after the current step, when everything is saved; the
    signal is then raised again, for whoever handles it here (as a rule, by ending the program). A second one is not
    waited for.

    Args:
        config: of the run.
        resume: go on from the last whole checkpoint; from the start, if there is none.
        offline: use only models that are already on this machine.
        on_event: takes events, on the main process only.

    Raises:
        UsageError: the run exists and is not to be resumed, or is another one; another process is training there; the
            configuration does not fit the data, the model or the number of processes.
        StageError: see `Loop.run`; files that cannot be read or written, models that cannot be used.
    """
    with joined(config.run) as processes, ExitStack() as stack:
        processes.only_main(partial(_begin, config, stack, resume=resume))
        stack.enter_context(deterministic_algorithms(config.run.deterministic))
        record = _record(config, processes, stack, on_event)

        def tell(event: Event) -> None:
            if record is not None:
                record.on_event(event)
            on_event(event)

        if processes.is_main and config.run.precision not in ("auto", processes.precision):
            text = "This processor has no arithmetic for {}, which would take it many times as long: {} instead."
            tell(Noted(text.format(config.run.precision, processes.precision)))
        make = _player_setup if config.player is not None else _codec_setup if config.codec is not None else _stem_setup
        parts = make(config, processes, tell, offline=offline)
        loop = Loop(
            config,
            parts.task,
            processes,
            validate=parts.validate,
            describe=parts.describe,
            identity=identity(config),
            on_event=tell,
        )
        ended = loop.run(resume=resume)
    progress = ended.progress
    if ended.signal is not None:
        signal.raise_signal(ended.signal)
    return TrainingResult(
        directory=config.directory,
        model=config.directory / MODEL_FOLDER,
        step=progress.step,
        best=progress.best,
        best_step=progress.best_step,
        metrics=progress.validation,
    )


def identity(config: TrainingConfig) -> dict[str, Any]:
    """Return what a run must keep when it is resumed, by key: what is trained, on what data, in what order."""
    content = to_dict(config)
    kept = {
        f"{table}.{key}": value
        for table in _FIXED_TABLES
        for key, value in content.get(table, {}).items()
        if f"{table}.{key}" not in _FREE
    }
    kept |= {f"{table}.{key}": content[table][key] for table, key in _FIXED_KEYS}
    return kept | {"train.ema_decay": "on" if config.train.ema_decay > 0 else "off"}


def check_directory(config: TrainingConfig, *, resume: bool) -> None:
    """Make sure that no earlier run is lost.

    Raises:
        UsageError: there is one, and it is not to be resumed.
    """
    steps = Checkpoints(config.directory / CHECKPOINTS_FOLDER, config.train.keep_last).steps()
    has_model = (config.directory / MODEL_FOLDER).exists()
    if (steps or has_model) and not resume:
        raise UsageError(
            f"there is a run in {display_name(config.directory)} already",
            why=f"its last checkpoint is of step {steps[-1]}" if steps else f"it has a folder {MODEL_FOLDER}",
            next_step="go on with it: `resume`; or start another beside it: `set` run.directory=FOLDER",
        )


def _begin(config: TrainingConfig, stack: ExitStack, *, resume: bool) -> None:
    """Take the run's folder, and note there what the run is."""
    stack.enter_context(locked(config.directory))
    check_directory(config, resume=resume)
    checkpoints = Checkpoints(config.directory / CHECKPOINTS_FOLDER, config.train.keep_last)
    if resume and (steps := checkpoints.steps()):
        # Now, before tokens are made. The number of items is known later, and is compared when the checkpoint is read.
        before = {name: value for name, value in _saved_identity(checkpoints, steps).items() if name != ITEMS}
        if before:
            check_identity(config.directory, before, identity(config))
    write_text(config.directory / CONFIG_FILE, to_toml(config))


def _saved_identity(checkpoints: Checkpoints, steps: Sequence[int]) -> Mapping[str, Any]:
    try:
        return dict(checkpoints.read(max(steps))["run"])
    except (OSError, ValueError, KeyError, TypeError, StageError):
        return {}  # a broken checkpoint is told of where the run goes on from one


def _record(config: TrainingConfig, processes: Processes, stack: ExitStack, on_event: OnEvent) -> Record | None:
    if not processes.is_main:
        return None
    return stack.enter_context(closing(Record(config, on_note=lambda text: on_event(Noted(text)))))


@dataclass(frozen=True)
class _Setup:
    """What the loop is given: what is trained, how it is validated, and what is written beside the result."""

    task: Task
    validate: Validate | None
    describe: Describe


def _stem_setup(config: TrainingConfig, processes: Processes, tell: OnEvent, *, offline: bool) -> _Setup:
    task = StemTask(config, build_model(config, offline=offline))
    _tell_of_few_songs(config, task, tell)
    task.place(processes.device)
    told = (lambda done, total: tell(Preparing(done, total))) if processes.is_main else None
    task.prepare_tokens(process=processes.number, processes=processes.count, on_progress=told)
    processes.wait()
    return _Setup(task, _validator(config, task, processes), _describer(config, task))


def _codec_setup(config: TrainingConfig, processes: Processes, tell: OnEvent, *, offline: bool) -> _Setup:
    del offline  # a codec starts from scratch, and its audio is read while it learns
    if processes.count > 1:
        raise UsageError(
            f"a codec is trained by one process, not by {processes.count}",
            why="its codebooks follow the latents of one process's batches",
            next_step="start stage train without torchrun",
        )
    task = CodecTask(config)
    _tell_of_few_songs(config, task, tell)
    validate = CodecValidator(config, task, processes.device) if config.validate.every else None
    data = DataSummary.of(config, task.training_songs, task.validation_songs)
    return _Setup(task, validate, partial(write_codec_card, config, data))


def _player_setup(config: TrainingConfig, processes: Processes, tell: OnEvent, *, offline: bool) -> _Setup:
    del offline  # a player starts from scratch
    processes.only_main(partial(prepare_songs, config, lambda done, total: tell(Preparing(done, total))))
    task = PlayerTask(config)
    validate = PlayerValidator(config, task, processes.device, processes.autocast) if config.validate.every else None
    return _Setup(task, validate, partial(write_player_card, config, task))


def _tell_of_few_songs(config: TrainingConfig, task: StemTask | CodecTask, tell: OnEvent) -> None:
    kept, wanted = len(task.validation_songs), config.data.validation_songs
    if config.data.split == "last" and kept < wanted:
        songs = len(task.training_songs) + kept
        tell(Noted(f"There are only {songs} songs: {kept} of them validate, not {wanted} (data.validation_songs)."))


def _validator(config: TrainingConfig, task: StemTask, processes: Processes) -> Validator | None:
    if not config.validate.every:
        return None
    return Validator(
        config,
        task,
        process=processes.number,
        processes=processes.count,
        reduce=processes.sum,
        autocast=processes.autocast,
    )


def _describer(config: TrainingConfig, task: StemTask) -> Describe:
    data = DataSummary.of(config, task.training_songs, task.validation_songs)

    def describe(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        write_model_card(folder, ModelCard(config, task.model.config, data, step, metrics))

    return describe
