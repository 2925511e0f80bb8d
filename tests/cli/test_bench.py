"""`stage bench` from the command line. What it measures is told by no test: only that it is there, and adds up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

from cli.conftest import Refused, Stage
from stage_cli.core.bench import run

QUICK = ("--duration", 0.5, "--repeats", 1)
SECONDS = ("encode_seconds", "prefill_seconds", "step_seconds", "decode_seconds", "loading_seconds", "total_seconds")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no processes, each of which would import torch anew."""
    monkeypatch.setattr(run, "in_fresh_process", lambda function, *arguments: function(*arguments))


@pytest.fixture
def bench(stage: Stage, tiny_model_dir: Path, in_this_process: None) -> Stage:
    """Run `stage bench` on the tiny model, which must succeed."""

    def measured(*arguments: object) -> Any:
        outcome = stage("bench", "--model", tiny_model_dir, "--device", "cpu", *QUICK, *arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    return measured


def test_everything_as_json(bench: Stage, tmp_path: Path) -> None:
    outcome = bench(
        "--json", "--precision", "float32,bfloat16", "--precision", "float32", "--variations", 2,
        "--lengths", "1,0.5,1", "--plot", "cost.png", "--repeats", 2,
    )  # fmt: skip
    about, *results = outcome.results
    assert about["kind"] == "run"
    assert (about["duration"], about["variations"], about["repeats"], about["guidance"]) == (0.5, 2, 2, 3.0)
    assert about["device"] == "cpu"
    assert set(about["versions"]) == {"stage", "Python", "torch"}
    assert about["command"].startswith("stage")
    assert about["processor"]
    assert (about["cores"] >= 1, about["threads"] >= 1, about["window_seconds"]) == (True, True, 1.0)
    kinds = [(found["kind"], found["precision"], found.get("length")) for found in results]
    assert kinds == [
        ("precision", "float32", None),
        ("precision", "bfloat16", None),
        *(("length", precision, length) for precision in ("float32", "bfloat16") for length in (0.5, 1.0)),
    ]
    for found in results:
        figures = {name: value for name, value in found.items() if isinstance(value, dict)}
        expected = {"total_seconds", "real_time", "resident_bytes", "loading_seconds"}
        if found["kind"] == "precision":
            ratios = {"speed_ratio", "variations_ratio"}
            expected |= {*SECONDS, *ratios, "variations_seconds", "variations_resident_bytes"}
        else:
            expected |= {"time_ratio", "memory_ratio"}
        assert set(figures) == expected
        for figure in figures.values():
            assert len(figure["values"]) == 2
            assert 0 < figure["low"] <= figure["median"] <= figure["high"]
    first, second = results[0], results[1]
    assert first["speed_ratio"]["values"] == [1.0, 1.0]
    for number in range(2):
        one, other = (found["total_seconds"]["values"][number] for found in (first, second))
        assert first["real_time"]["values"][number] == pytest.approx(0.5 / one)
        assert second["speed_ratio"]["values"][number] == pytest.approx(one / other)
    short, long = results[2], results[3]
    ratio = long["total_seconds"]["values"][0] / short["total_seconds"]["values"][0] / 2
    assert long["time_ratio"]["values"][0] == pytest.approx(ratio)
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.png"]


def test_tables(bench: Stage, tiny_model_dir: Path) -> None:
    outcome = bench("--precision", "float32", "--precision", "bfloat16", "--lengths", 0.5, "--repeats", 2)
    rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    about = {row[0]: row[1] for row in rows if len(row) == 2}
    assert {"date", "processor", "device", "system", "load before (1, 5, 15 min)", "versions", "command"} < set(about)
    assert about["model"].startswith(str(tiny_model_dir))
    assert about["figures"] == "median (lowest–highest) of 2 rounds"
    heads = [row for row in rows if row[0] == "precision"]
    assert heads[0][1:] == ["loading, s", "encode 1 s, s", "prefill, ms", "decode step, ms", "decode 1 s, s"]
    assert heads[1][1:] == ["0.5 s of audio, s", "× real time", "× float32", "peak, GB"]
    assert heads[2][1:4] == ["song, s", "compute, s", "× real time"]
    assert [row[0] for row in rows].count("float32") == [row[0] for row in rows].count("bfloat16") == len(heads)
    for row in rows:
        if row[0] in ("float32", "bfloat16"):
            assert all(float(cell.split(" (")[0]) > 0 for cell in row[1:])


def test_a_busy_machine_is_told(bench: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage_cli.core.bench.results.load_average", lambda: (2.5, 1.0, 0.5))
    outcome = bench()
    assert "the load average was 2.50: other programs are, or were, at work" in outcome.stderr
    assert "load before (1, 5, 15 min)\t2.50, 1.00, 0.50" in outcome.stdout
    monkeypatch.setattr("stage_cli.core.bench.results.load_average", lambda: None)
    outcome = bench("--json")
    assert outcome.stderr == ""
    assert (outcome.results[0]["load"], outcome.results[0]["busy"]) == (None, False)


def test_random_weights_of_a_size(
    stage: Stage, in_this_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tiny_sizes import TINY_CODEC, TINY_LM

    from stage_cli.core.model_config import StageConfig

    tiny = StageConfig(codec=TINY_CODEC, lm=TINY_LM, text_encoder=None, window_seconds=1.0)
    monkeypatch.setattr(run, "random_config", lambda _: tiny)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = stage("bench", "--random", "musicgen-small", "--device", "cpu", *QUICK, "--json")
    assert outcome.code == 0, outcome.stderr
    about, found = outcome.results
    assert about["model"] == "random weights, musicgen-small"
    assert (found["kind"], found["precision"]) == ("precision", "float32")
    assert list(tmp_path.iterdir()) == [], "the weights are gone"


def test_each_measurement_has_a_process_of_its_own(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Without a fixture that spares them; nothing is left in the folder for temporary files."""
    command = [sys.executable, "-m", "stage_cli", "bench", "--model", str(tiny_model_dir), "--device", "cpu", "--json"]
    done = forked.run(
        [*command, *map(str, QUICK), "--lengths", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    about, whole, length = map(json.loads, done.stdout.splitlines())
    assert (about["threads"], whole["kind"], length["kind"]) == (1, "precision", "length")
    assert about["command"].startswith("stage bench --model ")
    assert whole["resident_bytes"]["median"] > 50e6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        (("--random", "huge"), 2, "--random huge is unknown.*allowed: musicgen-small, musicgen-medium, musicgen-large"),
        (("--random", "musicgen-small", "--model", "m"), 2, "--model and --random name two models"),
        (("--model", "nothing"), 2, "There is no model 'nothing'"),
        (("--device", "tpu"), 2, "--device tpu is unknown"),
        (("--device", "cuda:99"), 1, "--device cuda:99: there is no such device"),
        (("--precision", "float32,fp64"), 2, "--precision fp64 is unknown"),
        (("--precision", ","), 2, "--precision is empty"),
        (("--duration", 0), 2, "--duration 0 is not possible.*allowed: 0.1 to 86400 seconds"),
        (("--duration", "-1"), 2, "--duration -1 is not possible"),
        (("--duration", "nan"), 2, "--duration nan is not possible"),
        (("--variations", 0), 2, "--variations 0 is not possible"),
        (("--repeats", 0), 2, "--repeats 0 is not possible.*allowed: 1 to 100"),
        (("--lengths", "30,many"), 2, "--lengths 30,many: 'many' is no number.*--lengths 30,60,120"),
        (("--lengths", "30,0"), 2, "--lengths 0 is not possible"),
        (("--lengths", ""), 2, "'' is no number"),
        (("--plot", "x.png"), 2, "--plot draws the cost of --lengths"),
        (("--lengths", "1", "--plot", "x.pdf"), 2, "--plot x.pdf is no PNG file"),
        (("--lengths", "1", "--plot", "nowhere/x.png"), 2, "there is no folder nowhere"),
    ],
)  # fmt: skip
def test_wrong_use(refused: Refused, options: tuple[object, ...], code: int, match: str) -> None:
    refused("bench", *options, code=code, match=match)


def test_a_plot_that_exists(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "cost.png").write_bytes(b"")
    refused("bench", "--lengths", 1, "--plot", "cost.png", code=2, match="cost.png already exists.*--overwrite")


def test_no_bundled_model(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "bundled_stems", tuple)
    refused("bench", code=2, match="--model is missing.*--random SIZE")


def test_ctrl_c_leaves_nothing(
    stage: Stage, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "in_fresh_process", stop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = stage("bench", "--model", tiny_model_dir, "--device", "cpu")
    assert outcome.code == 130
    assert list(tmp_path.iterdir()) == []
