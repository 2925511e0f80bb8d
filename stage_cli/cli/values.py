"""Values as people type them: lengths of time, tempi, bars, stems, paths. Imports no library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stage_cli.errors import UsageError

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")
_UNITS = re.compile(r"(?:(\d+)\s*h)?\s*(?:(\d+(?:[.,]\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:[.,]\d+)?)\s*s(?:ec)?)?")
_BAR = re.compile(r"(\d+)\s*/\s*(?:1|2|4|8|16|32)")


def seconds(option: str) -> Callable[[Any], float]:
    """Return the parser of an option that takes a length of time: `90`, `1:30`, `90s` and `1m30s` are the same."""

    def parse(value: Any) -> float:
        text = str(value).strip().lower()
        if (number := _number(text)) is not None:
            return number
        if match := _CLOCK.fullmatch(text):
            hours, minutes, rest = match.groups()
            if _float(rest) < 60 and (hours is None or int(minutes) < 60):
                return int(hours or 0) * 3600 + int(minutes) * 60 + _float(rest)
        elif text and (match := _UNITS.fullmatch(text)):
            hours, minutes, rest = (_float(part or "0") for part in match.groups())
            return hours * 3600 + minutes * 60 + rest
        raise UsageError(
            f"{option} cannot be {value!r}", next_step=f"give seconds, or minutes and seconds: {option} 90, 1:30, 1m30s"
        )

    parse.__name__ = "TIME"
    return parse


def tempo(option: str) -> Callable[[Any], float]:
    """Return the parser of an option that takes beats per minute; a comma is a decimal point: `90,5`."""

    def parse(value: Any) -> float:
        text = str(value).strip().lower().removesuffix("bpm").strip()
        if (number := _number(text)) is None:
            raise UsageError(f"{option} cannot be {value!r}", next_step=f"give beats per minute: {option} 120")
        return number

    parse.__name__ = "BPM"
    return parse


def beats_per_bar(option: str) -> Callable[[Any], int]:
    """Return the parser of an option that takes the beats of a bar: `6`, or the upper number of `6/8`."""

    def parse(value: Any) -> int:
        text = str(value).strip()
        match = _BAR.fullmatch(text)
        try:
            return int(match[1] if match else text)
        except ValueError:
            raise UsageError(
                f"{option} cannot be {value!r}", next_step=f"give a whole number or a time signature: {option} 6/8"
            ) from None

    parse.__name__ = "BEATS"
    return parse


def at_home(value: Any) -> Any:
    """Replace the `~` at the beginning of a path, or of each path of a list; a shell leaves it in `--output=~/x`."""
    if isinstance(value, list | tuple):
        return type(value)(map(at_home, value))
    if isinstance(value, Path) and value.parts and value.parts[0].startswith("~"):
        try:
            return value.expanduser()
        except RuntimeError:  # ~somebody who has no home here
            return value
    return value


def check_quotes(stem: str, more: Sequence[Path]) -> None:
    """Refuse `--stem bass guitar`, where the shell has made two words of a stem's name.

    Raises:
        UsageError: the words behind the stem are no files, and a stem's name together with it.
    """
    from stage_cli.core.stems import parse_stem

    for count in (2, 1):
        words = [str(path) for path in more[:count]]
        if len(words) < count or any(Path(word).exists() for word in words):
            continue
        whole = " ".join([stem, *words])
        try:
            parse_stem(whole)
        except UsageError:
            continue
        raise UsageError(f"Quotes are missing around {whole}", next_step=f'write --stem "{whole}"')


def _number(text: str) -> float | None:
    try:
        return _float(text)
    except ValueError:
        return None


def _float(text: str) -> float:
    return float(text.replace(",", "."))
