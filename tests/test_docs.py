"""The pages hold what they promise: links lead somewhere, and commands, settings and code are the program's."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from typer.main import get_command

from stage_cli.cli.app import app
from stage_cli.core.training.toml import TABLES, load_config, recipes

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def prose(text: str) -> str:
    """A page without its fenced code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as links spell them."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_and_pictures_lead_somewhere() -> None:
    broken, seen = [], 0
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []
    assert seen > 50


def code_lines(text: str) -> Iterator[str]:
    """Shell lines of a page: fenced and indented blocks, continued lines joined, and code inside a line."""
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```(?:sh|bash|)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.+)$", prose(text), flags=re.MULTILINE)
    yield from (line for block in (*fenced, *indented) for line in block.splitlines())
    yield from re.findall(r"(?<!`)`((?:uv run )?stage [^`]+)`", prose(text))


def commands_in(text: str) -> Iterator[list[str]]:
    """Calls of `stage` on a page, as words after `stage`."""
    for line in code_lines(text):
        try:
            words = shlex.split(line.replace("\\|", "|"), comments=True)
        except ValueError:
            continue
        for index, word in enumerate(words):
            before = words[index - 1] if index else ""
            if word == "stage" and before in ("", "run", "&&", ";", "then"):
                ends = (i for i in range(index, len(words)) if words[i] in ("|", "&&", ";", ">", "…"))
                yield words[index + 1 : next(ends, len(words))]


@functools.cache
def program() -> Any:
    """The command line; building it takes a while."""
    return get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a call means, and the words after its name."""
    command = program()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def unknown_commands(text: str) -> list[str]:
    """Calls of `stage` on a page that name a command or an option which the program does not have."""
    unknown = []
    for words in commands_in(text):
        command, rest = find_command(words)
        known = {option for item in command.params for option in (*item.opts, *item.secondary_opts)}
        known |= {"--help", "-h", "--version"}
        if hasattr(command, "commands") and rest and re.fullmatch(r"[a-z-]+", rest[0]):
            unknown.append(f"stage {shlex.join(words)}: no such command")
        for word in rest:
            option = word.partition("=")[0]
            if re.match(r"--?[a-z]", word) and option not in known:
                unknown.append(f"stage {shlex.join(words)}: {option}")
    return unknown


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_exist(name: str) -> None:
    assert unknown_commands((ROOT / name).read_text(encoding="utf-8")) == []


def test_the_walk_over_commands_finds_them() -> None:
    """A check that sees nothing would pass everything."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ["generate", "--context", "docs/audio/example.flac", "--stem", "drums"] in list(commands_in(readme))
    wrong = """
        stage generate a.wav --stim drums

    Or `uv run stage modles list`, or

    ```sh
    cd there && stage bench \\
      --repeat 3 | cat --number
    ```
    """
    assert unknown_commands(inspect.cleandoc(wrong)) == [
        "stage bench --repeat 3: --repeat",
        "stage generate a.wav --stim drums: --stim",
        "stage modles list: no such command",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_runs_exist(name: str) -> None:
    keys = {f"{table}.{key}" for table, names in TABLES.items() for key in names} | set(TABLES)
    said = re.findall(r"--set '?([a-z_.]+)=", (ROOT / name).read_text(encoding="utf-8"))
    assert sorted(set(said) - keys) == []


@pytest.mark.parametrize("name", NAMES)
def test_python_code_imports_what_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stage_cli"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_pages_that_the_program_names_exist() -> None:
    missing, seen = [], 0
    for path in sorted([*(ROOT / "stage_cli").rglob("*.py"), *(ROOT / "stage_cli").rglob("*.toml")]):
        for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            seen += 1
            if not (ROOT / page).exists():
                missing.append(f"{path.relative_to(ROOT)}: {page}")
    assert missing == []
    assert seen > 10


@pytest.fixture(scope="module")
def generated_pages() -> Iterator[ModuleType]:
    """The script that writes the generated pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "scripts"))
        yield importlib.import_module("generated_pages")


@pytest.fixture(scope="module")
def schema(generated_pages: ModuleType) -> dict[str, Any]:
    return generated_pages.schema()


def test_generated_pages_are_up_to_date(generated_pages: ModuleType) -> None:
    for path, text in generated_pages.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: uv run python docs/scripts/generated_pages.py"


def test_recipes_fit_the_schema(schema: dict[str, Any]) -> None:
    paths = list((ROOT / "stage_cli").rglob("recipes/*.toml"))
    assert sorted(path.stem for path in paths) == list(recipes())
    for path in paths:
        jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), schema)
        load_config(path.stem)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[train]\nstep = 1", ["train"]),
        ("[trian]", []),
        ("[train]\nsteps = 1.5", ["train", "steps"]),
        ('[train]\noptimizer = "sgd"', ["train", "optimizer"]),
        ("[train]\nbetas = [0.9]", ["train", "betas"]),
        ('[lora]\ntargets = ["attention"]', ["lora", "targets", 0]),
        ('[model.lm]\npositions = "rotary"', ["model", "lm", "positions"]),
        ('[codec.shape]\nkind = "dac"', ["codec", "shape", "kind"]),
        ("[data]\nroot = 3", ["data", "root"]),
    ],
)
def test_the_schema_finds_mistakes(text: str, where: list[str | int], schema: dict[str, Any]) -> None:
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text)))
    assert [list(error.absolute_path) for error in errors] == [where]


def test_the_schema_has_every_key(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    for table, keys in TABLES.items():
        place = schema
        for name in table.split("."):
            place = place["properties"][name]
        below = {name.rpartition(".")[2] for name in TABLES if name.rpartition(".")[0] == table}
        assert set(place["properties"]) == {*keys, *below}, table


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/dev/architecture.md", "docs/dev/release.md"])
def test_files_that_developers_pages_name_exist(name: str) -> None:
    said = re.findall(r"`((?:stage_cli|tests|docs|core|cli)/[\w./-]*)`", (ROOT / name).read_text(encoding="utf-8"))
    roots = (ROOT, ROOT / "stage_cli")
    assert [path for path in said if not any((root / path).exists() for root in roots)] == []
    assert said
