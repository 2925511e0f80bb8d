"""Read a run's TOML file, or a shipped recipe, with the changes of `--set`."""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage_cli.core.training.config.checks import printable
from stage_cli.core.training.config.tables import read_tables
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.errors import UsageError

_RECIPES = Path(__file__).parent.parent / "recipes"


def recipes() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.toml")))


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a run's configuration.

    Relative paths in it mean what they would mean on the command line: they count from the current directory.

    Args:
        name_or_path: a TOML file, else the name of a shipped recipe: `drums` or `drums.toml`.
        overrides: changes like `train.steps=100`; the value is TOML, and a bare word is a text.

    Raises:
        UsageError: no such file; not TOML; an unknown key, a value that is not allowed, a contradiction.
    """
    path = _find(name_or_path)
    content = _parse(path)
    changed: dict[str, str] = {}
    for text in overrides:
        changed[_override(content, text)] = text
    try:
        return read_tables(content, path.stem)
    except UsageError as error:
        raise _placed(error, path, changed) from None


def _find(name: str) -> Path:
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who has no home here
        path = Path(name)
    if path.is_file():
        return path
    stem = name.removesuffix(".toml")
    if stem in recipes():
        return _RECIPES / f"{stem}.toml"
    near = difflib.get_close_matches(stem, recipes(), n=1)
    is_folder = "it is a folder" if path.is_dir() else ""
    raise UsageError(
        f"--config: there is no file {printable(path)}",
        why=f"did you mean the recipe {near[0]}?" if near else is_folder,
        next_step=f"give a TOML file, or one of the shipped recipes: {', '.join(recipes())}",
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}", why=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{printable(path)} is not UTF-8 text", why=str(error)) from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r"\(at line (\d+), column \d+\)", message)
        line = f"line {place[1]}" if place else "the last line"
        what = re.sub(r" \(at .*\)$", "", message)
        raise UsageError(
            f"{printable(path)}, {line}: not valid TOML",
            why=what[:1].lower() + what[1:],
            next_step='texts stand in quotes, lists in brackets: stem = "drums", betas = [0.9, 0.95]',
        ) from None


def _override(content: dict[str, Any], text: str) -> str:
    """Change one value of the parsed file; returns its key."""
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or len(path) < 2 or not all(path):
        raise UsageError(
            f"--set {printable(text)} is not of the form table.key=value",
            next_step="for example: --set train.steps=100",
        )
    place = content
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):  # the file is wrong, and is told so when its tables are read
            return ".".join(path)
    place[path[-1]] = _value(value.strip())
    return ".".join(path)


def _value(text: str) -> Any:
    """Parse a value as TOML; what is none is a text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    # One value and nothing more; dates are texts, for no key takes a date.
    plain = len(parsed) == 1 and isinstance(value, bool | int | float | str | list | dict)
    return copy.copy(value) if plain else text


def _placed(error: UsageError, path: Path, changed: dict[str, str]) -> UsageError:
    """Say where the key of an error stands: in an option, or in the file."""
    for key, text in changed.items():
        table = key.rpartition(".")[0]
        if re.search(rf"(?<![\w.])({re.escape(key)}|unknown table \[{re.escape(table)}\])(?!\w)", error.what):
            return UsageError(f"--set {printable(text)}: {error.what}", why=error.why, next_step=error.next_step)
    return UsageError(f"{printable(path)}: {error.what}", why=error.why, next_step=error.next_step)
