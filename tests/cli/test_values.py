"""Values as people type them, help in panels, tables that fit."""

from __future__ import annotations

import re
import sys

import pytest
import typer

from stage_cli.cli import console, values
from stage_cli.cli.app import app

run = pytest.importorskip("typer.testing").CliRunner()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("90", 90), ("90s", 90), ("1:30", 90), ("1m30s", 90), ("1m", 60), ("2min", 120), ("0,5", 0.5),
        ("1:02:03.5", 3723.5),
        ("1h", 3600), (" 12.25 ", 12.25), ("90 s", 90), (7.5, 7.5), ("-1", -1),
    ],
)  # fmt: skip
def test_times(typed: str | float, expected: float) -> None:
    assert values.seconds(typed) == expected


@pytest.mark.parametrize("typed", ["", "a", "1:2:3:4", "1m1m", "nan", "5 beats", "1:xx"])
def test_what_is_no_time(typed: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        values.seconds(typed)


def test_tempos_and_metres() -> None:
    assert [values.tempo(text) for text in ("120", "90,5", "90.5", "120 bpm", "120BPM")] == [120, 90.5, 90.5, 120, 120]
    metres = {"4": 4, "3": 3, "3/4": 3, "6/8": 2, "9/8": 3, "12/8": 4, "7/8": 7, "5/4": 5, "3/8": 3, "2/2": 2}
    assert {text: values.beats_in_bar(text) for text in metres} == metres
    for wrong in ("x", "6/", "-3", "3.5"):
        with pytest.raises(typer.BadParameter, match="is no metre"):
            values.beats_in_bar(wrong)
    with pytest.raises(typer.BadParameter, match="is no tempo"):
        values.tempo("fast")


def test_completion() -> None:
    assert values.complete_stem("b") == ["bass", "bowed_strings"]
    assert "bundled-drums" in values.complete_model("bundled-")
    assert {"tiny", "drums"} <= set(values.complete_recipe(""))


COMMANDS = ("generate", "demo-data", "prepare-data", "prepare", "train", "evaluate", "bench", "docs")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_three_examples(command: str) -> None:
    page = run.invoke(app, [command, "--help"]).output
    examples = page.split("Examples:\n")[1].strip().splitlines()
    assert len(examples) == 3
    assert all(line.strip().startswith("stage ") for line in examples)


def test_help_is_whole() -> None:
    page = run.invoke(app, ["--help"]).output
    assert "..." not in page.split("Commands:")[1]
    assert "prepare " in page
    assert "Sampling:" in run.invoke(app, ["evaluate", "--help"]).output


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_tables_fit_or_become_lines(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    name = "a-model-with-a-long-name"
    row = (name, "7 M", "small, trained on synthetic songs of a band")
    console.print_table(("name", "size", "note"), [row], right=(1,))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert any(name in line for line in lines)  # never folded
    is_table = width >= len(name) + 4 + 16 + 4
    assert is_table == any("name" in line and "size" in line for line in lines)
    if is_table:
        assert max(len(line.rstrip()) for line in lines) <= width
    else:
        assert [line.strip() for line in lines][1] == "size: 7 M"
