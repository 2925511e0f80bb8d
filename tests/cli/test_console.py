"""Tables in terminals of all widths."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.cells import cell_len

from stage_cli.cli import console

COLUMNS = ("name", "stem", "size")
ROWS = [("bundled-drums", "drums", "7 M"), ("a-rather-long-name-of-a-model", "bass", "1840 M")]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100, 120, 160, 200])
def test_no_cell_is_folded(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", terminal)
    console.print_table(COLUMNS, ROWS, right=(2,))
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    for row in ROWS:
        for cell in row:
            assert any(cell in line for line in lines)
    if console.fits(COLUMNS, ROWS):
        assert max(map(cell_len, lines)) <= width
        assert any("bundled-drums" in line and "7 M" in line for line in lines)
    else:
        assert "name: bundled-drums" in lines
        assert width < 60


def test_a_table_in_a_pipe_has_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines()[1] == "bundled-drums\tdrums\t7 M"
