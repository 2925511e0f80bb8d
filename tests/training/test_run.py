"""Whole runs on real items: a tiny codec and language model, prepared songs, everything that a run writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from prepared_songs import tone, write_song
from safetensors.torch import load_file

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.model import StageModel
from stage_cli.core.training.distributed import locked
from stage_cli.core.training.events import Event, Finished, Interrupted, Noted, Preparing, Saved, Started, Stepped
from stage_cli.core.training.run import TrainingResult, identity, train
from stage_cli.core.training.settings import LoraConfig, TrainingConfig
from stage_cli.core.training.stem_task import StemTask
from stage_cli.core.training.toml import load_config, to_toml
from stage_cli.errors import UsageError
from training.tiny_run import run_config, write_songs
from training.toy_task import files, rows, toy_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def whole(
    songs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingConfig, TrainingResult, list[Event]]:
    """A run that is never stopped."""
    config = run_config(songs, tiny_model_dir, tmp_path_factory.mktemp("runs") / "whole")
    events: list[Event] = []
    return config, train(config, on_event=events.append), events


def test_a_precision_that_the_processor_has_not_is_told(
    songs: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage_cli.core.precision.computes_bfloat16", lambda device: False)
    config = run_config(songs, tiny_model_dir, tmp_path / "run")
    config = replace(config, run=replace(config.run, precision="bfloat16"), train=replace(config.train, steps=1))
    events: list[Event] = []
    train(config, on_event=events.append)
    noted = [event.text for event in events if isinstance(event, Noted)]
    assert "no arithmetic for bfloat16, which would take it many times as long: float32 instead" in noted[0]
    assert len(noted) == 1


@pytest.fixture
def noted_signals() -> Any:
    """Signals that arrive outside a run, in place of the end of this process."""
    arrived: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    yield arrived
    signal.signal(signal.SIGTERM, before)


def test_a_run_leaves_a_model_that_plays(whole: tuple[TrainingConfig, TrainingResult, list[Event]]) -> None:
    config, result, events = whole
    assert (result.directory, result.model, result.step) == (config.directory, config.directory / "model", 6)
    assert result.best == result.metrics["validation/loss"]
    assert (type(events[0]), type(events[-1])) == (Started, Finished)
    model = StageModel.from_pretrained(str(config.directory), device="cpu")  # the run itself names its model
    with torch.no_grad():
        context = model.codec.encode(torch.zeros(1, 1, 8000))
        parts = generate_song(model.lm, context, GenerationConfig(seed=1), window=model.config.window_frames)
        audio = model.codec.decode(torch.cat(list(parts), dim=2))
    assert audio.shape[-1] == 8000
    assert torch.isfinite(audio).all()
    assert (model.config.stem, model.config.licence, model.config.window_seconds) == ("drums", "MIT", 1.0)
    assert "# tiny" in (result.model / "README.md").read_text()
    names = {path.name for path in config.directory.iterdir()}
    assert names == {".lock", "checkpoints", "config.toml", "curves.png", "demos", "metrics.jsonl", "model"}
    assert load_config(str(config.directory / "config.toml"), []) == config


def test_the_codec_stays_as_it_was_and_the_language_model_learns(
    whole: tuple[TrainingConfig, TrainingResult, list[Event]], tiny_model_dir: Path
) -> None:
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(whole[1].model / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name.startswith("codec."):
            assert torch.equal(value, after[name]), name
    assert all(not torch.equal(value, after[name]) for name, value in before.items() if name.endswith("qkv.weight"))


def test_an_interrupted_run_ends_as_the_whole_one(
    whole: tuple[TrainingConfig, TrainingResult, list[Event]], noted_signals: list[int], tmp_path: Path
) -> None:
    config = replace(whole[0], run=replace(whole[0].run, directory=str(tmp_path / "stopped")))
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if event == Stepped(3):
            signal.raise_signal(signal.SIGTERM)

    assert train(config, on_event=stop).step == 3
    assert noted_signals == [signal.SIGTERM]
    assert events[-1] == Interrupted(3, signal.SIGTERM)
    result = train(config, resume=True)
    assert result.metrics == whole[1].metrics
    assert (result.best, result.best_step) == (whole[1].best, whole[1].best_step)
    assert rows(config.directory) == rows(whole[0].directory)
    for folder in ("model", "checkpoints/step-00000006"):
        mine, theirs = files(config.directory / folder), files(whole[0].directory / folder)
        assert mine.keys() == theirs.keys()
        assert {name for name, content in mine.items() if content != theirs[name]} <= {"README.md"}


def test_a_run_that_is_there_is_not_begun_again(whole: tuple[TrainingConfig, TrainingResult, list[Event]]) -> None:
    config = whole[0]
    before = files(config.directory / "model")
    with pytest.raises(UsageError, match=r"there is a run in .* already · its last checkpoint is of step 6"):
        train(config)
    other = replace(config, data=replace(config.data, stem="bass"))
    with pytest.raises(UsageError, match=r"with another data\.stem · it began with 'drums', now it is 'bass'"):
        train(other, resume=True)
    with locked(config.directory), pytest.raises(UsageError, match="another process is training in"):
        train(config, resume=True)
    assert files(config.directory / "model") == before


def test_what_a_resumed_run_may_change(songs: Path, tiny_model_dir: Path) -> None:
    config = run_config(songs, tiny_model_dir, Path("runs/x"))
    kept = identity(config)
    assert (
        identity(replace(config, train=replace(config.train, steps=9, learning_rate=0.5, micro_batch_size=4))) == kept
    )
    assert identity(replace(config, run=replace(config.run, directory="elsewhere", precision="bfloat16"))) == kept
    assert identity(replace(config, data=replace(config.data, root=("elsewhere",)))) == kept
    for table, change in (
        ("run", {"seed": 1}),
        ("train", {"batch_size": 8}),
        ("train", {"ema_decay": 0.5}),
        ("train", {"optimizer": "muon"}),
        ("data", {"stem": "bass"}),
        ("model", {"base": "other"}),
    ):
        changed = identity(replace(config, **{table: replace(getattr(config, table), **change)}))
        assert {name for name in kept if kept[name] != changed[name]} == {f"{table}.{key}" for key in change}
    assert identity(replace(config, lora=LoraConfig()))["lora.rank"] == LoraConfig().rank


def test_cached_tokens_train_as_those_of_the_step_and_are_made_once(
    songs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    still = {"speed_probability": 0.0, "pitch_probability": 0.0}
    results = {}
    for tokens in ("step", "cache"):
        loading = {"tokens": tokens, "cache_epochs": 4}
        config = run_config(
            songs,
            tiny_model_dir,
            tmp_path / tokens,
            data=still,
            loading=loading,
            train={"steps": 3},
            validate={"every": 0},
        )
        events: list[Event] = []
        results[tokens] = train(config, on_event=events.append)
        assert any(isinstance(event, Preparing) for event in events) is (tokens == "cache")
        assert [event.path.name for event in events if isinstance(event, Saved)][-2:] == ["model", "step-00000003"]
    step, cache = (load_file(results[tokens].model / "model.safetensors") for tokens in ("step", "cache"))
    for name, value in step.items():
        torch.testing.assert_close(cache[name], value, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_a_lora_run_stores_an_adapter(songs: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    config = run_config(songs, tiny_model_dir, tmp_path / "run", lora=LoraConfig(rank=2), train={"steps": 2})
    result = train(config)
    assert {path.name for path in result.model.iterdir()} == {"README.md", "adapter.safetensors", "config.json"}
    assert json.loads((result.model / "config.json").read_text())["model_type"] == "stage-adapter"
    assert StageModel.from_pretrained(str(result.model), device="cpu").config.stem == "drums"
    # The checkpoint holds what is trained, not the frozen base.
    saved = load_file(tmp_path / "run/checkpoints/step-00000002/model.safetensors")
    assert saved
    assert all("lora" in name for name in saved)


def test_items_that_cannot_be_read_end_the_run_and_name_the_song(
    songs: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(songs, tiny_model_dir, tmp_path / "run")
    damaged = tmp_path / "songs"
    for name in ("ant", "bee", "cat", "dog"):
        write_song(damaged / name, {"drums": tone(450, 5.0), "bass": tone(200, 5.0)})
    for path in (damaged / "ant").rglob("*.wav"):
        path.write_bytes(b"RIFF")
    from stage_cli.errors import StageError

    with pytest.raises(StageError, match="ant"):
        train(replace(config, data=replace(config.data, root=(str(damaged),))))


def test_the_command_saves_ends_with_143_and_goes_on(songs: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    config = run_config(songs, tiny_model_dir, tmp_path / "run", train={"steps": 100_000}, validate={"every": 0})
    (tmp_path / "run.toml").write_text(to_toml(config))
    command = [sys.executable, "-m", "stage_cli", "train", "--config", str(tmp_path / "run.toml"), "--json"]
    process = forked.Popen(
        command, cwd=ROOT, env=toy_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    while json.loads(line := process.stdout.readline())["event"] != "logged":
        assert line
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    saved, interrupted = (json.loads(line) for line in output.splitlines()[-2:])
    assert (saved["event"], interrupted["event"], interrupted["signal"]) == ("saved", "interrupted", 15)
    step = interrupted["step"]
    events: list[Event] = []
    longer = replace(config, train=replace(config.train, steps=step + 2))
    assert train(longer, resume=True, on_event=events.append).step == step + 2
    assert [event.resumed_from for event in events if isinstance(event, Started)] == [step]
    assert [row["step"] for row in rows(config.directory)] == list(range(2, step + 3, 2))


def test_torchrun_gives_the_weights_of_one_process(songs: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """`torchrun -m stage_cli train`, two processes on the CPU."""
    tables = {"train": {"steps": 4, "ema_decay": 0.5}, "validate": {"demos": 0}}
    config = run_config(songs, tiny_model_dir, tmp_path / "one", **tables)
    train(config)
    two = replace(config, run=replace(config.run, directory=str(tmp_path / "two")))
    (tmp_path / "two.toml").write_text(to_toml(two))
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stage_cli", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--config", str(tmp_path / "two.toml"), "--offline"],
        cwd=ROOT,
        env=toy_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for name in ("model/model.safetensors", "checkpoints/step-00000004/model.safetensors"):
        here, there = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
        assert here.keys() == there.keys()
        for key, value in here.items():
            torch.testing.assert_close(there[key], value, rtol=0, atol=1e-5, msg=lambda text, k=key: f"{k}: {text}")
    for here, there in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert there["metrics"] == pytest.approx(here["metrics"], abs=1e-5)
    assert done.stderr.count("step 4: saved") == 2, "only one process speaks"


def test_the_task_is_what_the_engine_asks_for(songs: Path, tiny_model_dir: Path) -> None:
    from stage_cli.core.training.building import build_model
    from stage_cli.core.training.task import Task

    config = run_config(songs, tiny_model_dir, Path("runs/x"))
    task = StemTask(config, build_model(config))
    assert isinstance(task, Task)
    trained = [name for name, part in task.module.named_parameters() if part.requires_grad]
    assert sorted(name for group in task.parameter_groups(task.module) for name in group.names) == sorted(trained)
