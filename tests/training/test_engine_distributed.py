"""Several processes on one CPU (gloo), started by torchrun, against one process."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stage_cli.core.training.checkpoints import Checkpoints
from stage_cli.core.training.distributed import UnusedParameters, joined
from stage_cli.core.training.events import Event, Skipped
from stage_cli.core.training.loader import DataOrder
from stage_cli.core.training.run import train
from stage_cli.core.training.settings import RunConfig, TrainingConfig
from stage_cli.core.training.toml import to_toml
from stage_cli.errors import DeviceError, UsageError
from training.tiny_run import run_config, write_songs
from training.toy_task import ToyModule, ToyTask, rows, toy_config, toy_process, train_toy

# Sums of float32 in another order.
TOLERANCE = 1e-5


PLAIN: dict[str, Any] = {"validate": {"every": 5}, "train": {"ema_decay": 0.9}}
CLIPPED: dict[str, Any] = {"validate": {"every": 5}, "train": {"ema_decay": 0.9, "clip": "norm", "clip_at": 0.5}}
PAIRS: dict[str, dict[str, Any]] = {
    "plain": {**PLAIN, "task": {"bad": [13]}},
    "sharded": {**CLIPPED, "train": CLIPPED["train"] | {"steps": 7}, "run": {"sharding": "fsdp"}},
    "broken": {"task": {"broken": 13}},
    "signalled": {"task": {"signal_after": 9}},
}


@dataclass(frozen=True)
class Pair:
    """How two processes ended, and what each said."""

    directory: Path
    ends: list[int]
    said: list[str]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


def sharded_model(songs: Path, base: Path, directory: Path, sharding: str) -> TrainingConfig:
    tables = {"train": {"steps": 4, "ema_decay": 0.5}, "validate": {"demos": 0}, "run": {"sharding": sharding}}
    return run_config(songs, base, directory, **tables)


@pytest.fixture(scope="module")
def pairs(songs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Train on two processes, once for each of `PAIRS`, and once a language model."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "model.toml").write_text(to_toml(sharded_model(songs, tiny_model_dir, folder / "model", "fsdp")))
    jobs = PAIRS | {"model": {"toml": str(folder / "model.toml")}}
    output, errors = toy_process("pairs", folder, jobs).communicate(timeout=250)
    assert (folder / "ends.json").is_file(), output + errors
    ends = json.loads((folder / "ends.json").read_text())
    return {
        name: Pair(folder / name, ends[name], [(folder / f"{name}.{rank}").read_text() for rank in range(2)])
        for name in jobs
    }


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


def test_two_processes_end_with_the_weights_of_one(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """With dropout, parts that only one of them uses, and an item with a bad loss that only one of them sees."""
    events: list[Event] = []
    train_toy(toy_config(tmp_path, **PLAIN), ToyTask(bad=[13]), on_event=events.append)
    assert any(isinstance(event, Skipped) for event in events)
    two = pairs["plain"]
    assert two.ends == [0, 0], two.said
    names = ("model.safetensors", "optimizer.safetensors", "average.safetensors")
    checkpoint = "checkpoints/step-00000012"
    assert_close(tmp_path, two.directory, "model/model.safetensors", *(f"{checkpoint}/{name}" for name in names))
    assert_same_rows(tmp_path, two.directory)
    assert json.loads((two.directory / checkpoint / "progress.json").read_text())["processes"] == 2
    # Only the main process tells what happens.
    assert two.said[0].count("Skipped") == sum(isinstance(event, Skipped) for event in events)
    assert "Finished" in two.said[0]
    assert two.said[1] == ""


def test_sharded_weights_train_alike_and_resume_on_one_process(pairs: dict[str, Pair], tmp_path: Path) -> None:
    train_toy(toy_config(tmp_path / "one", **CLIPPED))
    two = pairs["sharded"]
    assert two.ends == [0, 0], two.said
    assert two.said[1] == "", "a warning"
    shutil.copytree(two.directory, tmp_path / "two")
    # Its checkpoints hold whole tensors.
    train_toy(toy_config(tmp_path / "two", **CLIPPED), resume=True)
    names = ("model.safetensors", "optimizer.safetensors", "average.safetensors")
    assert_close(tmp_path / "one", tmp_path / "two", *(f"checkpoints/step-00000012/{name}" for name in names))
    trained = [row for row in rows(tmp_path / "two") if row["kind"] == "train"]
    expected = [row for row in rows(tmp_path / "one") if row["kind"] == "train"]
    for here, there in zip(trained, expected, strict=True):
        assert here["metrics"] == pytest.approx(there["metrics"], abs=TOLERANCE)


def test_a_sharded_language_model_learns_as_a_whole_one(
    pairs: dict[str, Pair], songs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    train(sharded_model(songs, tiny_model_dir, tmp_path, "ddp"))
    two = pairs["model"]
    assert two.ends == [0, 0], two.said
    assert_close(tmp_path, two.directory, "model/model.safetensors", "checkpoints/step-00000004/model.safetensors")
    assert_same_rows(tmp_path, two.directory)


def test_an_error_on_one_process_ends_both(pairs: dict[str, Pair]) -> None:
    two = pairs["broken"]
    assert two.ends == [1, 1], two.said
    order = DataOrder(40, 8, 2, 0)
    parts = (part for step in range(1, 13) for part in order.micro_batches(step))
    reads = next(part.number % 2 for part in parts if 13 in [index for _, index in part.draws])
    assert "error: song-13 cannot be read · it is torn · mend it" in two.said[reads]
    assert "error: another process of this run has ended" in two.said[1 - reads]


def test_a_signal_to_one_of_them_saves_and_ends_both(pairs: dict[str, Pair]) -> None:
    two = pairs["signalled"]
    # Its ninth micro-batch belongs to step 5; both end by the signal, when all is saved.
    assert two.ends == [-signal.SIGTERM] * 2, two.said
    assert two.said[0].splitlines()[-1] in ("Interrupted 5", "Interrupted 6")
    step = int(two.said[0].split()[-1])
    assert Checkpoints(two.directory / "checkpoints", 2).steps() == [4, step]


def test_unused_parameters_change_no_gradient() -> None:
    """Those that are not used take part in the backward pass, and have nothing to say."""
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8), torch.zeros(4, 1), False)
    gradients = []
    for wrapped in (False, True):
        module = ToyModule().eval()
        module.load_state_dict(gradients[0][1] if gradients else module.state_dict())
        (UnusedParameters(module) if wrapped else module)(inputs)["loss"].backward()
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
    UnusedParameters(module)(inputs)["loss"].backward()
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


def test_a_processor_without_arithmetic_for_bfloat16_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("stage_cli.core.precision.computes_bfloat16", lambda device, x=there: x)
        with joined(RunConfig(device="cpu", precision="bfloat16")) as processes:
            assert processes.precision == expected


def test_runs_of_different_precision_follow_each_other_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate keeps its state for the process; it must not keep that of the run before."""
    monkeypatch.setattr("stage_cli.core.precision.computes_bfloat16", lambda device: True)
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
        from stage_cli.core.training.loop import Loop

        with pytest.raises(UsageError, match=r"train\.batch_size = 8 cannot be divided among 3 processes"):
            Loop(config, ToyTask(), processes, validate=None, identity={}, on_event=lambda event: None)
