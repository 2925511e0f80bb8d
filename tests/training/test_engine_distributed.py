"""Several processes on one CPU (gloo), started by torchrun, against one process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stage_cli.core.training.config.sections import RunConfig
from stage_cli.core.training.engine.all_used import AllUsed
from stage_cli.core.training.engine.events import Event, Skipped
from stage_cli.core.training.engine.processes import joined
from stage_cli.errors import DeviceError, UsageError
from training.toy_task import ToyModule, ToyTask, rows, toy_config, toy_process, train_toy

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
# Sums of float32 in another order.
TOLERANCE = 1e-5


def run_two(mode: str, directory: Path, tables: dict[str, Any]) -> tuple[int, str, str]:
    process = toy_process(mode, directory, tables, launcher=TORCHRUN)
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, errors


def assert_close(one: Path, other: Path, *names: str) -> None:
    for name in names:
        here, there = load_file(one / name), load_file(other / name)
        assert here.keys() == there.keys()
        for key, value in here.items():
            if key != "calls":  # each process counts its own passes
                torch.testing.assert_close(
                    there[key], value, rtol=0, atol=TOLERANCE, msg=lambda text, k=key: f"{k}: {text}"
                )


def assert_same_rows(one: Path, other: Path) -> None:
    for here, there in zip(rows(one), rows(other), strict=True):
        assert (here["step"], here["kind"]) == (there["step"], there["kind"])
        assert there["metrics"] == pytest.approx(here["metrics"], abs=TOLERANCE)


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """With dropout, parts that only one of them uses, and an item with a bad loss that only one of them sees."""
    tables = {"validate": {"every": 5}, "train": {"ema_decay": 0.9}, "loading": {"workers": 1}}
    events: list[Event] = []
    train_toy(toy_config(tmp_path / "one", **tables), ToyTask(bad=[13]), on_event=events.append)
    assert any(isinstance(event, Skipped) for event in events)
    code, output, errors = run_two("train", tmp_path / "two", {**tables, "task": {"bad": [13]}})
    assert code == 0, output + errors
    names = ("model.safetensors", "optimizer.safetensors", "average.safetensors")
    checkpoint = "checkpoints/step-00000012"
    assert_close(tmp_path / "one", tmp_path / "two", "model/model.safetensors", *(f"{checkpoint}/{n}" for n in names))
    assert_same_rows(tmp_path / "one", tmp_path / "two")
    # Only the main process tells what happens.
    assert output.count("Finished") == output.count("Started") == 1
    assert output.count("Skipped") == sum(isinstance(event, Skipped) for event in events)
    assert json.loads((tmp_path / "two" / checkpoint / "progress.json").read_text())["processes"] == 2


def test_sharded_weights_train_alike_and_resume_on_one_process(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"validate": {"every": 5}, "train": {"ema_decay": 0.9, "clip": "norm", "clip_at": 0.5}}
    train_toy(toy_config(tmp_path / "one", **tables))
    short = tables["train"] | {"steps": 7}
    shards = {**tables, "train": short, "run": {"sharding": "fsdp"}}
    code, output, errors = run_two("train", tmp_path / "two", shards)
    assert code == 0, output + errors
    assert "warn" not in errors.lower()
    # A sharded run resumes, on one process: its checkpoints hold whole tensors.
    train_toy(toy_config(tmp_path / "two", **tables), resume=True)
    names = ("model.safetensors", "optimizer.safetensors", "average.safetensors")
    checkpoint = "checkpoints/step-00000012"
    assert_close(tmp_path / "one", tmp_path / "two", *(f"{checkpoint}/{name}" for name in names))
    trained = [row for row in rows(tmp_path / "two") if row["kind"] == "train"]
    expected = [row for row in rows(tmp_path / "one") if row["kind"] == "train"]
    for here, there in zip(trained, expected, strict=True):
        assert here["metrics"] == pytest.approx(there["metrics"], abs=TOLERANCE)


def test_an_error_on_one_process_ends_all(tmp_path: Path) -> None:
    code, output, errors = run_two("train", tmp_path, {"task": {"broken": 13}, "train": {"steps": 100_000}})
    assert code == 1, output + errors
    assert "error: song-13 cannot be read · it is torn · mend it" in errors
    assert "[rank" not in errors, "the other one has nothing to tell of its own"
    assert "Finished" not in output


def test_a_signal_to_one_of_them_saves_and_ends_both(tmp_path: Path) -> None:
    tables = {"train": {"steps": 100_000}, "seconds_per_step": 0.01}
    process = toy_process("train", tmp_path, tables, launcher=TORCHRUN)
    try:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Stepped 3"):
            assert line, process.stderr and process.stderr.read()
        process.terminate()  # torchrun passes it on
        output, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    last = next(line for line in reversed(output.splitlines()) if line.startswith("Interrupted"))
    step = int(last.split()[1])
    assert (tmp_path / f"checkpoints/step-{step:08d}/progress.json").is_file(), errors


def test_unused_parameters_change_no_gradient() -> None:
    """Those that are not used take part in the backward pass, and have nothing to say."""
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8), torch.zeros(4, 1), False)
    gradients = []
    for wrapped in (False, True):
        module = ToyModule().eval()
        module.load_state_dict(gradients[0][1] if gradients else module.state_dict())
        (AllUsed(module) if wrapped else module)(inputs)["loss"].backward()
        gradients.append(({name: part.grad for name, part in module.named_parameters()}, module.state_dict()))
    plain, tied = gradients[0][0], gradients[1][0]
    assert plain["rare.weight"] is tied["rare.weight"] is None
    for name, gradient in plain.items():
        if gradient is not None:
            assert torch.equal(tied[name], gradient), name
    fired: list[str] = []
    module, accumulators = ToyModule(), []
    for name, part in module.named_parameters():
        if part.requires_grad:
            accumulators.append(part.expand_as(part).grad_fn.next_functions[0][0])  # kept: DDP does so too
            accumulators[-1].register_hook(lambda *_, name=name: fired.append(name))
    AllUsed(module)(inputs)["loss"].backward()
    assert "rare.weight" in fired


@pytest.mark.parametrize(
    ("run", "match"),
    [
        ({"sharding": "fsdp"}, r'run\.sharding = "fsdp" is for several processes'),
        ({"device": "auto", "precision": "float16"}, r'run\.precision = "float16" is not possible on cpu'),
    ],
)
def test_what_a_single_cpu_cannot_do_is_told(run: dict[str, str], match: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match=match), joined(RunConfig(**{"device": "cpu"} | run)):
        pytest.fail("it began")


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="cuda:99"), joined(RunConfig(device="cuda:99")):
        pytest.fail("it began")


def test_runs_of_different_precision_follow_each_other_in_one_process() -> None:
    """Accelerate keeps its state for the process; it must not keep that of the run before."""
    module = nn.Linear(4, 4)
    kinds = []
    for precision in ("bfloat16", "float32"):
        with joined(RunConfig(device="cpu", precision=precision)) as processes:
            with processes.autocast():
                kinds.append(module(torch.zeros(1, 4)).dtype)
            assert processes.gather([1]) == [1]
    assert kinds == [torch.bfloat16, torch.float32]


def test_a_batch_that_cannot_be_shared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(tmp_path)
    with joined(config.run) as processes:
        processes.count = 3
        from stage_cli.core.training.engine.loop import Loop

        with pytest.raises(UsageError, match=r"train\.batch_size = 8 cannot be divided among 3 processes"):
            Loop(config, ToyTask(), processes, validate=None, identity={}, on_event=lambda event: None)
