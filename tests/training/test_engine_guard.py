"""Losses and gradients that are not finite, the loss scaling, and what a step does to the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stage_cli.core.training.checkpoints import Checkpoints
from stage_cli.core.training.distributed import joined
from stage_cli.core.training.events import Event, Logged, Skipped, Stepped
from stage_cli.core.training.loader import DataOrder
from stage_cli.core.training.loop import Stepper
from stage_cli.core.training.optimizers import Optimizers
from stage_cli.errors import DeviceError, StageError
from training.toy_task import ToyTask, toy_config, train_toy


def steps_with(index: int, order: DataOrder, steps: int) -> list[int]:
    return [step for step in range(1, steps + 1) if index in [at for _, at in order.batch(step)]]


def test_a_step_with_a_bad_loss_changes_nothing_and_names_its_micro_batch(tmp_path: Path) -> None:
    order = DataOrder(40, 8, 2, seed=0)
    bad = order.batch(3)[5][1]
    task = ToyTask(bad=[bad])
    states: dict[int, dict[str, Tensor]] = {}

    def keep(event: Event) -> None:
        if isinstance(event, Stepped):
            states[event.step] = {name: value.clone() for name, value in task.module.state_dict().items()}

    result, events = train_toy(toy_config(tmp_path), task, on_event=keep)
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert [event.step for event in skipped] == steps_with(bad, order, 12)
    part = next(part for part in order.micro_batches(3) if bad in [index for _, index in part.draws])
    assert skipped[0] == Skipped(3, tuple((f"song-{index}", index) for _, index in part.draws), 1)
    assert result.progress.skipped == len(skipped)
    # Weights, and the buffer that each pass counts up, are as they were.
    for name, value in states[3].items():
        assert torch.equal(value, states[2][name]), name
    assert not torch.equal(states[4]["norm.weight"], states[3]["norm.weight"])
    # The means leave the bad step out.
    logged = {event.step: event.metrics for event in events if isinstance(event, Logged)}
    assert math.isfinite(logged[4]["loss"])
    assert logged[4]["skipped_steps"] == 1


def test_a_run_stops_after_a_few_bad_steps_in_a_row_and_overwrites_nothing(tmp_path: Path) -> None:
    task = ToyTask()

    def spoil(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            task.dataset.bad = set(range(40))

    config = toy_config(tmp_path, train={"steps": 40, "most_bad_steps": 4})
    events: list[Event] = []
    with pytest.raises(StageError, match=r"4 times in a row, last at step 9 · .*song-\d+ \(item \d+\), .* of step 4"):
        train_toy(config, task, on_event=lambda event: (events.append(event), spoil(event)))
    assert [event.in_a_row for event in events if isinstance(event, Skipped)] == [1, 2, 3, 4]
    # Step 8 would have been a checkpoint.
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [4]
    assert not (tmp_path / "model").exists()


def test_a_good_step_ends_a_row(tmp_path: Path) -> None:
    task = ToyTask()

    def change(event: Event) -> None:
        if isinstance(event, Stepped):
            task.dataset.bad = set() if event.step % 3 == 0 else set(range(40))

    config = toy_config(tmp_path, train={"most_bad_steps": 3, "checkpoint_every": 2, "keep_last": 9})
    result, events = train_toy(config, task, on_event=change)
    assert [event.in_a_row for event in events if isinstance(event, Skipped)] == [1, 2] * 3 + [1, 2]
    assert result.progress.step == 12
    # A checkpoint that is due waits for the next good step; the last step is saved in any case.
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [4, 7, 10, 12]


def test_a_gradient_that_is_not_finite_counts_where_the_loss_is_fine(tmp_path: Path) -> None:
    task = ToyTask()
    task.module.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(StageError, match="not finite 2 times in a row"):
        train_toy(toy_config(tmp_path, train={"most_bad_steps": 2}), task)
    with pytest.raises(StageError, match="not finite"):
        train_toy(toy_config(tmp_path, train={"most_bad_steps": 1}), task, on_event=_all_items)


def _all_items(event: Event) -> None:
    if isinstance(event, Skipped):
        assert len(event.items) == 8


class CpuScaler(torch.amp.GradScaler):
    """The scaler of float16, whose scale is too large at first."""

    def __init__(self, scale: float) -> None:
        super().__init__("cpu", init_scale=scale, growth_interval=100)


def scaled_steps(task: ToyTask, scale: float, steps: int, **train: Any) -> tuple[list[Any], Any]:
    config = toy_config(Path("unused"), train={"learning_rate": 0.01, **train})
    with joined(config.run) as processes:
        processes.scaler = CpuScaler(scale) if scale else None
        processes._accelerator.scaler = processes.scaler
        module = processes.prepare(task.module, config.run, task.units)
        named = {name: part for name, part in task.module.named_parameters() if part.requires_grad}
        optimizers = Optimizers(config.train, named, task.parameter_groups(task.module))
        stepper = Stepper(task, module, optimizers, None, processes, config.train, 0, 4)
        order = DataOrder(40, 8, 2, 0)

        def batches() -> Any:
            for step in range(1, steps + 1):
                for part in order.micro_batches(step):
                    task.dataset.set_epoch(part.epoch)
                    yield part, task.collate([task.dataset[index] for _, index in part.draws])

        made = batches()
        outcomes = [stepper.step(step, made, None) for step in range(1, steps + 1)]
        return outcomes, processes.scaler


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_scaling_the_loss_changes_no_step(optimizer: str) -> None:
    plain, scaled = ToyTask(), ToyTask()
    scaled_steps(plain, 0.0, 4, optimizer=optimizer)
    outcomes, scaler = scaled_steps(scaled, 1024.0, 4, optimizer=optimizer)
    assert [outcome.overflowed for outcome in outcomes] == [False] * 4
    assert scaler.get_scale() == 1024.0
    for name, value in plain.module.state_dict().items():
        torch.testing.assert_close(scaled.module.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_an_overflow_of_the_scaling_is_no_bad_step() -> None:
    task = ToyTask()
    before = task.module.norm.weight.detach().clone()
    # As if in half precision: gradients above 65504 are infinite.
    task.module.norm.weight.register_hook(lambda gradient: gradient.half().float())
    outcomes, scaler = scaled_steps(task, 2.0**20, 8)
    overflowed = [outcome.overflowed for outcome in outcomes]
    assert overflowed[0]
    assert not overflowed[-1]
    assert all(outcome.bad_items is None for outcome in outcomes)
    assert scaler.get_scale() == 2.0 ** (20 - sum(overflowed))
    assert not torch.equal(task.module.norm.weight, before)


def test_a_bad_loss_does_not_change_the_scale() -> None:
    task = ToyTask(bad=range(40))
    outcomes, scaler = scaled_steps(task, 1024.0, 3)
    assert all(outcome.bad_items for outcome in outcomes)
    assert scaler.get_scale() == 1024.0


def test_where_scaling_cannot_be_the_cause_a_gradient_is_bad() -> None:
    task = ToyTask()
    task.module.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    outcomes, _ = scaled_steps(task, 4.0, 4)
    assert [outcome.overflowed for outcome in outcomes] == [True, True, False, False]
    assert [outcome.bad_items is None for outcome in outcomes] == [True, True, False, False]


def test_micro_batches_add_up_to_their_batch() -> None:
    """Without dropout, which is drawn for each pass, the size of a pass changes nothing but the rounding."""
    ends = []
    for size in (8, 2, 1):
        task = ToyTask()
        for block in task.module.blocks:
            block.dropout.p = 0.0
        with torch.no_grad():
            task.module.calls.zero_()
        config = toy_config(Path("unused"), train={"micro_batch_size": size})
        with joined(config.run) as processes:
            named = {name: part for name, part in task.module.named_parameters() if part.requires_grad}
            optimizers = Optimizers(config.train, named, task.parameter_groups(task.module))
            stepper = Stepper(task, task.module, optimizers, None, processes, config.train, 0, 8 // size)
            order = DataOrder(40, 8, size, 0)
            # Whether the rare part is used differs between micro-batches.
            task.inputs = lambda batch, epoch, own=task.inputs: (*own(batch, epoch)[:2], True)
            for step in (1, 2, 3):
                parts = order.micro_batches(step)
                batches = [(part, task.collate([task.dataset[index] for _, index in part.draws])) for part in parts]
                outcome = stepper.step(step, iter(batches), None)
        ends.append((task.module.state_dict(), outcome.report))
    for state, report in ends[1:]:
        assert report.numbers["loss"] == pytest.approx(ends[0][1].numbers["loss"], abs=1e-5)
        assert report.norm == pytest.approx(ends[0][1].norm, abs=1e-5)
        for name, value in state.items():
            if name != "calls":
                torch.testing.assert_close(value, ends[0][0][name], rtol=0, atol=1e-5)


def test_a_device_without_memory_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ToyTask()

    def inputs(batch: Any, epoch: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words")

    monkeypatch.setattr(task, "inputs", inputs)
    with pytest.raises(DeviceError, match=r"cpu has too little memory .* 2\.00 GiB\. · set train\.micro_batch_size"):
        train_toy(toy_config(tmp_path), task)
