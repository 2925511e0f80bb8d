"""`stage train` from the command line: what it reads, says and leaves behind."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
from prepared_songs import write_song

from cli.conftest import Outcome, Refused, Stage, snapshot
from stage_cli.cli.training_display import TrainingDisplay, duration
from stage_cli.core.training.events import (
    Event,
    Finished,
    Interrupted,
    Logged,
    Noted,
    Preparing,
    Saved,
    Skipped,
    Started,
    Stepped,
    Validated,
)
from stage_cli.core.training.run import TrainingResult
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.toml import load_config
from stage_cli.errors import StageError

RUN = Path("runs/mine")
DEMOS = RUN / "demos" / "step-00000020"
EVENTS: tuple[Event, ...] = (
    Preparing(1, 8),
    Started(40, None, RUN, {"device": "cpu", "trainable_parameters": 83072}),
    Stepped(1),
    Skipped(2, (("song a", 3), ("song b", 11)), 1),
    Stepped(2),
    Logged(10, {"loss": 2.5, "loss/codebook_1": math.nan, "steps_per_second": 0.5, "audio_seconds_per_second": 8.0}),
    Validated(20, {"validation/loss": 1.25, "validation/context_gap": 0.75}, True, (DEMOS / "01.mix.flac",)),
    Saved(20, RUN / "model"),
    Noted("W&B is off from now on"),
    Finished(40, RUN),
)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A TOML file for three songs and the tiny model."""
    for number in range(3):
        write_song(tmp_path / "songs" / f"song {number}", seconds=6)
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""
        [model]
        base = {json.dumps(str(tiny_model_dir))}
        [data]
        root = "songs"
        chunk_seconds = 1.0
        context_seconds = [0.5, 1.0]
        validation_songs = 1
        workers = 0
        [train]
        steps = 4
        batch_size = 2
        micro_batch_size = 1
        learning_rate = 1e-3
        checkpoint_every = 2
        [validate]
        every = 2
        items_per_song = 2
        demos = 0
        [log]
        every = 1
        tensorboard = false
        curves = false
        """,
        encoding="utf-8",
    )
    return path


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Put a run in the engine's place that sends these events and then ends so; returns the calls."""

    def replace(events: Sequence[Event] = EVENTS, error: BaseException | None = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def train(config: TrainingConfig, *, on_event: Callable[[Event], None], **options: Any) -> TrainingResult:
            calls.append({"config": config, **options})
            for event in events:
                on_event(event)
            if error is not None:
                raise error
            return TrainingResult(RUN, RUN / "model", 40, 1.25, 20, {"validation/context_gap": 0.75})

        module = ModuleType("stage_cli.core.training.run")
        module.__dict__["train"] = train
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return calls

    return replace


def test_a_run_from_config_to_generated_stem(stage: Stage, recipe: Path, tmp_path: Path) -> None:
    outcome = stage("train", "--config", recipe)
    assert outcome.code == 0, outcome.stderr
    run = tmp_path / "runs" / "mine"
    # What is printed is where it is, and it works.
    rows = dict(line.split("\t") for line in outcome.stdout.splitlines())
    assert rows["model"] == "runs/mine/model"
    assert rows["steps"] == "4"
    assert re.fullmatch(r"\d\.\d{4} \(the best, at step [24]\)", rows["validation loss"])
    assert re.search(r"step 4: saved runs/mine/checkpoints/step-00000004\n", outcome.stderr)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4]
    assert load_config(str(run / "config.toml"), []) == load_config(str(recipe), ["run.directory=runs/mine"])
    arguments = rows["try it"].split()
    assert arguments[:2] == ["stage", "generate"]
    mix = tmp_path / "mix.wav"
    soundfile.write(mix, [0.1, -0.1] * 4000, 8000)
    generated = stage(*arguments[1:])
    assert generated.code == 0, generated.stderr
    assert soundfile.info(tmp_path / "mix.drums.wav").frames == 8000
    # Once more: not over it, but after it.
    before = snapshot(run)
    again = stage("train", "--config", recipe)
    assert (again.code, again.stdout) == (2, "")
    assert re.search(r"there is a run in runs/mine already.*step 4.*--resume.*run\.directory=", again.stderr, re.DOTALL)
    assert snapshot(run) == before
    longer = stage("train", "--config", recipe, "--set", "train.steps=6", "--resume", "--json")
    assert longer.code == 0, longer.stderr
    assert longer.results[0] | {"summary": None} == {
        "event": "started",
        "steps": 6,
        "resumed_from": 4,
        "directory": "runs/mine",
        "summary": None,
    }
    assert [result["step"] for result in longer.results if result["event"] == "logged"] == [5, 6]
    assert longer.results[-1] == {"event": "finished", "step": 6, "directory": "runs/mine"}


def test_a_dry_run_prints_the_config_and_the_figures_and_writes_nothing(
    stage: Stage, recipe: Path, tmp_path: Path
) -> None:
    before = snapshot(tmp_path)
    outcome = stage("train", "-c", recipe, "--set", "train.steps=90", "--set", "train.batch_size=4", "--dry-run")
    assert outcome.code == 0, outcome.stderr
    assert snapshot(tmp_path) == before
    text, _, tables = outcome.stdout.partition("\nparameters\t")
    (tmp_path / "again.toml").write_text(text, encoding="utf-8")
    expected = load_config(str(recipe), ["run.directory=runs/mine", "train.steps=90", "train.batch_size=4"])
    assert load_config(str(tmp_path / "again.toml"), []) == expected
    assert re.search(r"^together\t[\d,]+\t83,072$", tables, re.MULTILINE)
    # Two songs of 6 s, in chunks of 1 s, whose stems sound all the time.
    assert re.search(r"^songs that train\t2\nsongs that validate\t1\n.*\nitems an epoch\t12$", tables, re.MULTILINE)
    assert re.search(r"^steps\t90\nepochs\t30\.0\nhours of targets\t0\.1$", tables, re.MULTILINE)
    assert re.search(r"^weights\t0\.000\t4 bytes × 83,072$", tables, re.MULTILINE)


def test_a_dry_run_as_json(stage: Stage, recipe: Path) -> None:
    result = stage("train", "-c", recipe, "--set", "lora.rank=2", "--dry-run", "--json").result
    assert result["config"]["run"]["directory"] == "runs/mine"
    assert result["config"]["lora"]["rank"] == 2
    found = result["estimate"]
    assert found["parameters"]["language model"] == {"all": 83072, "trained": 0}
    assert found["parameters"]["adapter"]["all"] == found["trained_parameters"] > 0
    assert found["data"] == {
        "training_songs": 2,
        "validation_songs": 1,
        "left_out": 0,
        "items": 12,
        "validation_items": 2,
    }
    assert (found["steps"], found["notes"]) == (4, [])
    assert found["memory_bytes"]["optimizer states"] == 8 * found["trained_parameters"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), r"--config is missing.*bundled-drums, drums, lora, player-drums, tiny"),
        (("-c", "drumz"), r"no file drumz.*did you mean the recipe drums\?"),
        (
            ("-c", "mine.toml", "--set", "train.stepz=5"),
            r"--set train\.stepz=5: unknown key.*did you mean train\.steps",
        ),
        (("-c", "mine.toml", "--set", "train.steps=many"), r"--set train\.steps=many: .*cannot be 'many'"),
        (("-c", "mine.toml", "--set", "steps"), r"--set steps is not of the form"),
        (("-c", "mine.toml", "--set", "data.root=gone", "--dry-run"), r"no folder gone.*data\.root"),
        (("-c", "mine.toml", "--set", "model.base=gone", "--dry-run"), r"model\.base: There is no model 'gone'"),
    ],
)
def test_wrong_use(refused: Refused, recipe: Path, arguments: tuple[str, ...], match: str) -> None:
    refused("train", *arguments, code=2, match=match)


def test_events_as_lines(stage: Stage, recipe: Path, told: Run) -> None:
    calls = told()
    outcome = stage("train", "-c", recipe, "--offline", "--resume")
    assert outcome.code == 0, outcome.stderr
    assert [(call["resume"], call["offline"]) for call in calls] == [(True, True)]
    assert outcome.stderr.splitlines() == [
        "Getting ready …",
        "making tokens: 1 of 8 items",
        "Training runs/mine: 40 steps; device cpu, trainable parameters 83,072.",
        "step 2 is skipped: its loss or gradient is not finite; 1 in a row. Items: song a (item 3), song b (item 11)",
        "step 10 of 40: loss 2.500, 0.50 steps/s, 8.0 s of audio/s, 1 min 00 s left",
        "step 20: validation loss 1.2500 (best so far), context gap 0.7500, demos in runs/mine/demos/step-00000020",
        "step 20: saved runs/mine/model",
        "W&B is off from now on",
    ]
    assert outcome.stdout.splitlines() == [
        "model\truns/mine/model",
        "steps\t40",
        "validation loss\t1.2500 (the best, at step 20)",
        "context gap\t0.7500",
        "try it\tstage generate mix.wav --stem drums --model runs/mine/model",
    ]


def test_events_as_json(stage: Stage, recipe: Path, told: Run) -> None:
    told()
    outcome = stage("train", "-c", recipe, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert [result["event"] for result in outcome.results] == [
        type(event).__name__.lower() for event in EVENTS if not isinstance(event, Stepped)
    ]
    named = {result["event"]: result for result in outcome.results}
    assert named["logged"]["metrics"]["loss/codebook_1"] is None
    assert named["skipped"]["items"] == [["song a", 3], ["song b", 11]]
    assert named["validated"]["demos"] == ["runs/mine/demos/step-00000020/01.mix.flac"]
    assert named["started"]["summary"] == {"device": "cpu", "trainable_parameters": 83072}


def test_a_stop_says_how_to_go_on(stage: Stage, recipe: Path, told: Run) -> None:
    told([*EVENTS[:-1], Interrupted(20, 2)], KeyboardInterrupt())
    outcome = stage("train", "-c", recipe, "--set", "data.root=my songs", "--set", "train.steps=40")
    assert (outcome.code, outcome.stdout) == (130, "")
    last = outcome.stderr.splitlines()[-1]
    assert last == (
        f"Stopped; step 20 is saved. Go on with: stage train --config {recipe} --set 'data.root=my songs' "
        "--set train.steps=40 --resume"
    )


def test_a_failure_is_told_once(stage: Stage, recipe: Path, told: Run) -> None:
    told(EVENTS[:3], StageError("the loss was not finite 5 times in a row", next_step="look at the songs"))
    outcome = stage("train", "-c", recipe)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.endswith("Error: the loss was not finite 5 times in a row\n  next: look at the songs\n")


def test_one_of_several_processes_speaks(
    stage: Stage, recipe: Path, told: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(events=())
    monkeypatch.setenv("RANK", "1")
    for arguments, code in ((("train", "-c", recipe), 0), (("train", "-c", "drumz"), 2)):
        assert stage(*arguments) == Outcome(code, "", "")
    assert stage("train", "-c", recipe, "--dry-run") == Outcome(0, "", "")


class Terminal(io.StringIO):
    """What is drawn in a terminal."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    numbers = {"loss": 1.5, "steps_per_second": 2.0, "audio_seconds_per_second": 30.0}
    with TrainingDisplay("[mine]", "stage train --resume", quiet=False) as display:
        for event in (*EVENTS[:8], Logged(30, numbers), Stepped(30), Interrupted(30, 15)):
            display.on_event(event)
    drawn = terminal.text()
    assert re.search(r"making tokens ━*[╸╺]?━* 1 / 8", drawn)
    # A name is no markup; the numbers are the last ones, the gap that of the validation.
    assert re.search(
        r"\[mine\] ━*[╸╺]?━* 30 / 40 loss 1\.500 · context gap 0\.750 · 2\.00 steps/s · 30\.0 s of audio/s · 5 s left",
        drawn,
    )
    assert "validation loss 1.2500 (best so far)" in drawn
    assert "step 30 is saved. Go on with: stage train --resume" in drawn
    assert display.interrupted


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingDisplay("mine", "", quiet=True) as display:
        for event in (*EVENTS, Interrupted(30, 15)):
            display.on_event(event)
    assert capsys.readouterr() == ("", "")
    assert display.interrupted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.4, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_whole_config_can_be_redirected(stage: Stage, recipe: Path) -> None:
    """The tables come after the TOML; `--json` gives the config alone in `config`."""
    config = stage("train", "-c", recipe, "--dry-run", "--json").result["config"]
    text = stage("train", "-c", recipe, "--dry-run").stdout.partition("\nparameters\t")[0]
    assert tomllib.loads(text) == config
