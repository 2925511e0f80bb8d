"""A run that was stopped, in whatever way, ends as one that never was: the same bits, the same lines of metrics."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from stage_cli.core.training.checkpoints import Checkpoints
from stage_cli.core.training.events import Event, Finished, Interrupted, Saved, Started, Stepped, Validated
from stage_cli.errors import StageError, UsageError
from training.toy_task import ToyTask, files, rows, toy_config, toy_process, train_toy

MOMENTS = {"steps": 12, "checkpoint_every": 4, "schedule": "cosine", "warmup_steps": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"train": MOMENTS},
    "muon with an average": {"train": MOMENTS | {"optimizer": "muon", "ema_decay": 0.8}, "validate": {"every": 3}},
    "two epochs in a batch": {"train": MOMENTS, "task": {"items": 5}},
}


def stopping_after(step: int) -> Any:
    """Ask the run to stop at a step, as a terminal or a batch system does."""

    def on_event(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            signal.raise_signal(signal.SIGTERM)

    return on_event


def assert_same_end(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    assert files(one / "model") == files(other / "model")
    name = "checkpoints/step-00000012"
    assert files(one / name).keys() == files(other / name).keys()
    for file, content in files(one / name).items():
        assert files(other / name)[file] == content, file


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(variant: str, step: int, tmp_path: Path) -> None:
    tables = dict(VARIANTS[variant])
    options = tables.pop("task", {})
    whole, stopped = (toy_config(tmp_path / name, **tables) for name in ("whole", "stopped"))
    train_toy(whole, ToyTask(**options))
    result, events = train_toy(stopped, ToyTask(**options), on_event=stopping_after(step))
    assert result.signal == signal.SIGTERM
    assert events[-1] == Interrupted(step, signal.SIGTERM)
    result, events = train_toy(stopped, ToyTask(seed=0, **options), resume=True)
    assert (result.signal, result.progress.step) == (None, 12)
    assert [event.resumed_from for event in events if isinstance(event, Started)] == [step]
    assert [event.step for event in events if isinstance(event, Stepped)] == list(range(step + 1, 13))
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


def test_what_is_compared_would_show_a_difference(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        train_toy(toy_config(tmp_path / name, run={"seed": seed}))
    # The same weights at first, and the same items in another order with another dropout.
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "one", tmp_path / "other")


def test_items_seen_before_are_not_read_again(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run")
    whole = ToyTask()
    train_toy(toy_config(tmp_path / "whole"), whole)
    first, second = ToyTask(), ToyTask()
    train_toy(config, first, on_event=stopping_after(3))
    train_toy(config, second, resume=True)
    assert first.seen + second.seen == whole.seen
    assert len(first.seen) == 24


def test_a_run_may_be_resumed_with_other_micro_batches_and_a_validation_that_is_due_is_made_up_for(
    tmp_path: Path,
) -> None:
    tables = {"validate": {"every": 4}}
    _, events = train_toy(toy_config(tmp_path, **tables), on_event=stopping_after(4))
    assert not [event for event in events if isinstance(event, Validated)]
    changed = toy_config(tmp_path, train={"micro_batch_size": 4}, **tables)
    _, events = train_toy(changed, resume=True)
    assert [event.step for event in events if isinstance(event, Validated)] == [4, 8, 12]
    assert [type(event) for event in events[:3]] == [Started, Validated, Saved]


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(tmp_path: Path) -> None:
    config = toy_config(tmp_path, validate={"every": 4})
    train_toy(config)
    before = files(tmp_path / "model"), rows(tmp_path)
    _, events = train_toy(config, resume=True)
    assert [type(event) for event in events] == [Started, Finished]
    assert (files(tmp_path / "model"), rows(tmp_path)) == before
    result, _ = train_toy(toy_config(tmp_path, validate={"every": 4}, train={"steps": 14}), resume=True)
    assert result.progress.step == 14


def test_without_a_checkpoint_a_resumed_run_begins_at_the_start(tmp_path: Path) -> None:
    _, events = train_toy(toy_config(tmp_path, train={"steps": 2}), resume=True)
    assert [event.resumed_from for event in events if isinstance(event, Started)] == [None]


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    train_toy(config, on_event=stopping_after(2), identity={"data.stem": "drums", "data.speed": (0.8, 1.2)})
    with pytest.raises(UsageError, match=r"another data\.stem · it began with 'drums', now it is 'bass'"):
        train_toy(config, resume=True, identity={"data.stem": "bass", "data.speed": (0.8, 1.2)})
    with pytest.raises(UsageError, match=r"another number of items · it began with 40, now it is 39"):
        train_toy(config, ToyTask(39), resume=True, identity={"data.stem": "drums", "data.speed": (0.8, 1.2)})
    result, _ = train_toy(config, resume=True, identity={"data.stem": "drums", "data.speed": (0.8, 1.2)})
    assert result.progress.step == 12


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    tables = {"train": {"keep_last": 3}}
    train_toy(toy_config(tmp_path / "whole", **tables))
    config = toy_config(tmp_path / "run", **tables)
    train_toy(config, on_event=stopping_after(9))
    damaged = tmp_path / "run/checkpoints/step-00000009/optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _, events = train_toy(config, resume=True)
    assert [event.resumed_from for event in events if isinstance(event, Started)] == [8]
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_a_half_written_checkpoint_is_ignored_and_deleted(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    train_toy(config, on_event=stopping_after(5))
    half = tmp_path / "checkpoints/.step-00000006.part"
    shutil.copytree(tmp_path / "checkpoints/step-00000005", half)
    (half / "progress.json").unlink()
    _, events = train_toy(config, resume=True)
    assert [event.resumed_from for event in events if isinstance(event, Started)] == [5]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    config = toy_config(tmp_path, train={"checkpoint_every": 2, "keep_last": 2}, validate={"every": 4})
    losses = {4: 1.0, 8: 2.0, 12: 1.5}
    from stage_cli.core.training.loop import Loop
    from training.toy_task import ToyValidation, joined

    with joined(config.run) as processes:
        Loop(
            config,
            ToyTask(),
            processes,
            validate=lambda step, check: ToyValidation({"validation/loss": losses[step]}),
            identity={},
            on_event=lambda event: None,
        ).run(resume=False)
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [4, 10, 12]
    progress = json.loads((tmp_path / "checkpoints/step-00000012/progress.json").read_text())["progress"]
    assert (progress["best"], progress["best_step"], progress["validated"]) == (1.0, 4, 12)


def test_killed_at_random_moments_a_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    tables = {
        "kills": 8,
        "seed": 1,
        "train": {"steps": 12, "checkpoint_every": 1, "ema_decay": 0.9},
        "validate": {"every": 2},
        "seconds_per_step": 0.03,
    }
    process = toy_process("kills", tmp_path / "run", tables)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert output.count("Started") >= 5, "too few kills hit the run"
    assert_same_end(tmp_path / "run-whole", tmp_path / "run")
    assert not [path.name for path in (tmp_path / "run").rglob(".*")]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_leaves_the_checkpoints_before_it_whole(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run")
    whole = toy_config(tmp_path / "whole")
    train_toy(whole)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 6:
            size = (tmp_path / "run/checkpoints/step-00000004/optimizer.safetensors").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, limits[1]))

    try:
        with pytest.raises(StageError, match=r"cannot write the checkpoint of step 8 .* · File too large · free some"):
            train_toy(config, on_event=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    train_toy(config, resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(tmp_path, train={"steps": 4}, validate={"every": 2})
    task = ToyTask()
    write = task.save

    def save(directory: Path, *arguments: Any) -> None:
        write(directory, *arguments)
        if len(task.saved) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(task, "save", save)
    with pytest.raises(StageError, match=r"cannot write the model to .* · No space left on device"):
        train_toy(config, task)
    assert list(files(tmp_path / "model")) == ["model.safetensors"]
    assert not (tmp_path / ".model.part").exists()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    task = ToyTask()

    def spoil(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 8:
            with torch.no_grad():
                task.module.norm.weight.fill_(torch.inf)

    with pytest.raises(StageError, match=r"not finite 5 times in a row, last at step 13.* step 4 is untouched"):
        train_toy(toy_config(tmp_path, train={"steps": 20}), task, on_event=spoil)
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_folder_is_whole_whatever_call_it_is_killed_at(tmp_path: Path) -> None:
    """Killed at each of the system calls that replacing a folder makes: afterwards there is the old, or the new."""
    script = Path(__file__).with_name("killed_folder.py")
    done = forked.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) > 10
    assert {content for _, content in found} == {"old", "new"}
    assert found[-1][1] == "new"
    # It changes from the old to the new once, for good.
    assert [content for _, content in found] == sorted((content for _, content in found), reverse=True)
