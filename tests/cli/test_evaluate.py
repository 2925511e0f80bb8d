"""`stage evaluate` from the command line: what it reads, prints and leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile
from prepared_songs import write_song

from cli.conftest import Refused, Stage, snapshot

OPTIONS = ("--data", "songs", "--songs", 2, "--chunks", 2, "--seconds", 1)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for number in range(3):
        write_song(tmp_path / "songs" / f"song {number}", seconds=5, bpm=100 + 20 * number)
    return tmp_path / "songs"


@pytest.fixture
def evaluate(stage: Stage, songs: Path, tiny_model_dir: Path) -> Callable[..., object]:
    return lambda *arguments: stage("evaluate", "--model", tiny_model_dir, *OPTIONS, "--out", "report", *arguments)


def test_a_report(evaluate: Stage, tmp_path: Path) -> None:
    outcome = evaluate()
    assert outcome.code == 0, outcome.stderr
    head, *rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    assert head == ["context: mix", "tiny", "tiny, shuffled", "true stems"]  # the others are in the report
    assert len(rows) == 6
    assert any("own − shuffled" in row[0] for row in rows)
    assert all(len(row) == len(head) for row in rows)
    assert "Report: report/report.html" in outcome.stderr
    report = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert (report["schema_version"], report["stem"], report["seed"]) == (1, "drums", 0)
    assert report["settings"]["guidance"] == "the model's own"
    tiny = next(system for system in report["systems"] if system["title"] == "tiny")
    drawn = {"guidance": 3.0, "temperature": 1.0, "top_k": 250, "top_p": 1.0, "advance": 0.5, "lookahead": 0.0}
    assert drawn.items() <= tiny["model"].items()
    assert report["settings"]["data"] == ["songs"]
    assert report["hardware"]["device"] == "cpu"
    assert str(tmp_path) not in json.dumps({key: report[key] for key in ("settings", "systems")})
    again = evaluate("--json")
    assert again.code == 0, again.stderr
    assert {(entry["system"], entry["metric"]) for entry in again.results} == {
        (entry["system"], entry["metric"]) for entry in report["summaries"]
    }


def test_files_of_any_system(stage: Stage, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for folder in ("contexts", "one", "two"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            soundfile.write(tmp_path / folder / f"{name}.wav", generator.uniform(-0.1, 0.1, 16000), 8000)
    (tmp_path / "two" / "b.wav").write_bytes(b"RIFF")
    outcome = stage(
        "evaluate", "--generated", "one", "-g", "two", "--context", "contexts", "--stem", "bass", "--out", "report"
    )
    assert outcome.code == 1
    assert outcome.stdout.splitlines()[0].split("\t")[:4] == ["context: mix", "one", "one, shuffled", "two"]
    assert "0002 files:two: cannot read" in outcome.stderr
    assert "1 failed; the numbers are of what remained." in outcome.stderr
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), r"--output is missing"),
        (("--out", "r"), r"nothing to evaluate on"),
        (("--out", "r", "--data", "songs"), r"nothing to evaluate.*--model"),
        (("--out", "r", "--data", "songs", "--context", "metro"), r"--context cannot be 'metro'.*mix, metronome, both"),
        (("--out", "r", "--generated", "songs", "--context", "nowhere"), r"--context: there is no folder nowhere"),
        (("--out", "r", "--model", "m", "--data", "songs", "--guidance", "-1"), r"--guidance -1\.0 is not possible"),
        (("--out", "r", "--model", "m", "--data", "songs", "--chunks", "0"), r"--chunks cannot be 0"),
        (("--out", "r", "--model", "nothing", "--data", "songs"), r"nothing"),
    ],
)
def test_wrong_use(refused: Refused, songs: Path, arguments: tuple[str, ...], match: str) -> None:
    assert songs.is_dir()
    refused("evaluate", *arguments, code=2, match=match)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on(
    evaluate: Stage, songs: Path, tiny_model_dir: Path, tmp_path: Path, end: signal.Signals
) -> None:
    assert songs.is_dir()
    options = [*map(str, OPTIONS), "--embedding", f"codec={tiny_model_dir}", "--out", "report"]
    command = [sys.executable, "-m", "stage_cli", "evaluate", "--model", str(tiny_model_dir), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = forked.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    report = tmp_path / "report"
    deadline = time.monotonic() + 120
    while not list(report.glob("items/0002.shuffled.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[end]
    assert "Traceback" not in errors
    assert not (report / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in report.glob("items/*.json")}
    if end is signal.SIGINT:
        assert not list(report.rglob("*.part"))
    outcome = evaluate("--embedding", f"codec={tiny_model_dir}")
    assert outcome.code == 0, outcome.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(report.rglob("*.part"))
    assert len(list(report.glob("items/*.model-tiny.json"))) == 4


def test_ctrl_c_before_anything_is_made(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stage_cli.core.evaluation import run

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_source", stop)
    before = snapshot(tmp_path)
    outcome = stage("evaluate", "--model", "x", "--metronome-set", "--out", "report")
    assert outcome.code == 130
    assert "Nothing half-written is left." in outcome.stderr
    assert snapshot(tmp_path) == before


def test_a_finished_evaluation_is_not_made_again(
    evaluate: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate()
    assert first.code == 0, first.stderr
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "report").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "stage_cli.core.evaluation.run", None)  # importing it would fail
        again = evaluate()
    assert (again.code, again.stdout) == (0, first.stdout)
    assert "finished already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "report").rglob("*") if path.is_file()} == made
    # A song that has changed is looked at again.
    next((tmp_path / "songs").rglob("features.json")).touch()
    assert "finished already" not in evaluate().stderr
