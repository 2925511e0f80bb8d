"""Values as people type them, and what the shell completes. Imports no torch."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import typer

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,3}):(\d{1,2}(?:[.,]\d+)?)")
_UNITS = re.compile(r"(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+(?:[.,]\d+)?)\s*s(?:ec)?)?")


def seconds(text: str | float) -> float:
    """Read a time: `90`, `90s`, `1:30`, `1m30s`, `1:02:03.5`, `0,5`.

    Raises:
        typer.BadParameter: it is none.
    """
    if isinstance(text, float | int):
        return float(text)
    typed = text.strip().lower()
    if match := _CLOCK.fullmatch(typed):
        hours, minutes, rest = match.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + _number(rest)
    if typed and (match := _UNITS.fullmatch(typed)) and any(match.groups()):
        hours, minutes, rest = match.groups()
        return int(hours or 0) * 3600 + int(minutes or 0) * 60 + _number(rest or "0")
    try:
        return _number(typed)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: give seconds, as 90, 1:30 or 1m30s") from None


def tempo(text: str | float) -> float:
    """Read beats a minute: `120`, `90.5`, `90,5`, `120bpm`.

    Raises:
        typer.BadParameter: it is no number.
    """
    try:
        return _number(str(text).strip().lower().removesuffix("bpm"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no tempo: give beats a minute, as 120 or 90,5") from None


def beats_in_bar(text: str | int) -> int:
    """Read a metre: `4`, `3`, or a time signature: `3/4`, `6/8`.

    In 6/8, 9/8 and 12/8 a beat is a dotted quarter, so 6/8 has two. In all others it is the note below the stroke.

    Raises:
        typer.BadParameter: it is none.
    """
    typed = str(text).strip()
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", typed)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no metre: give beats in a bar, as 4, or a time signature, as 6/8")
    upper, lower = int(match[1]), int(match[2] or 4)
    if lower == 8 and upper % 3 == 0 and upper > 3:
        return int(Fraction(upper, 3))
    return upper


def _number(text: str) -> float:
    value = float(text.strip().replace(",", "."))
    if math.isnan(value):
        raise ValueError(text)
    return value


def path(text: str | Path) -> Path:
    """Read a path; `~` is the user's home, also where the shell left it alone (`--output=~/x`)."""
    typed = Path(text)
    try:
        return typed.expanduser()
    except RuntimeError:  # ~somebody who has no home here
        return typed


def complete_stem(incomplete: str) -> list[str]:
    """List the stems that begin so."""
    from stage_cli.core.stems import STEMS

    return [stem for stem in STEMS if stem.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """List the models that begin so: the bundled, the user's own, and those that can be fetched by name."""
    from stage_cli.core.weights.hub import BUNDLED_PREFIX, CATALOG, bundled_stems, local_models

    names = [f"{BUNDLED_PREFIX}{stem}" for stem in bundled_stems()]
    names += [path.name for path in local_models()] + [entry.name for entry in CATALOG]
    return [name for name in names if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """List the recipes that begin so."""
    from stage_cli.core.training.toml import recipes

    return [name for name in recipes() if name.startswith(incomplete)]
