"""`stage docs`: the pages, from a checkout and from an installed package."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from cli.conftest import Refused, Stage
from stage_cli.cli import docs

ROOT = Path(__file__).parents[2]


def test_it_lists_pages_with_their_titles(stage: Stage) -> None:
    lines = dict(line.split("\t") for line in stage("docs").stdout.splitlines())
    assert lines["train"] == "stage train"
    assert "training.schema" in lines
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(lines)


@pytest.mark.parametrize("name", ["models", "models.md", "docs/models.md"])
def test_it_prints_a_page(name: str, stage: Stage) -> None:
    assert stage("docs", name).stdout == (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_it_prints_the_schema_for_editors(stage: Stage) -> None:
    assert json.loads(stage("docs", "training.schema").stdout)["properties"].keys() >= {"run", "data", "train"}


def test_an_unknown_page_is_told_with_the_nearest_one(refused: Refused) -> None:
    refused("docs", "trian", code=2, match="there is no page 'trian'.*did you mean train?.*the pages are: bench, ")


def test_an_installed_package_has_its_pages_inside(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "stage_cli"
    (package / "docs").mkdir(parents=True)
    (package / "docs" / "generate.md").write_text("# Inside\n")
    monkeypatch.setattr(docs, "_PACKAGE", package)
    assert stage("docs").stdout == "generate\tInside\n"
    assert stage("docs", "generate").stdout == "# Inside\n"


def test_a_package_without_pages_says_so(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "_PACKAGE", tmp_path / "stage_cli")
    refused("docs", code=1, match="install stage-cli again")


def messages(path: Path) -> set[str]:
    """The texts of a module, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documenting = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documenting)
    return {node.value for node in texts if isinstance(node.value, str)}


def test_messages_name_pages_that_it_can_print() -> None:
    """Comments and docstrings may name the developers' pages; messages may not."""
    texts = [text for path in (ROOT / "stage_cli").rglob("*.py") for text in messages(path)]
    named = {page for text in texts for page in re.findall(r"(?<!\w)docs/([\w/-]+)\.md", text)}
    assert named
    assert named <= {path.stem for path in (ROOT / "docs").glob("*.md")}
