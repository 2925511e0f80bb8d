"""Checks of single values; each error names the TOML key, the value and what is allowed."""

from __future__ import annotations

import math
from typing import TypeGuard

from stage_cli.errors import UsageError

MOST = 2**62


def check(key: str, value: object, allowed: bool, what: str) -> None:
    """Refuse a value.

    Args:
        key: with its table, `train.steps`.
        value: as the user gave it.
        allowed: whether it is.
        what: is allowed, in words.

    Raises:
        UsageError: it is not allowed.
    """
    if not allowed:
        raise UsageError(f"{key} cannot be {shown(value)}", next_step=f"allowed: {what}")


def check_text(key: str, value: object) -> None:
    """Refuse what is no text."""
    check(key, value, isinstance(value, str), 'a text, in quotes: "…"')


def check_switch(key: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    check(key, value, isinstance(value, bool), "true, false")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of some texts."""
    check(key, value, value in choices, ", ".join(f'"{choice}"' for choice in choices))


def check_whole(key: str, value: object, low: int, high: int = MOST) -> None:
    """Refuse what is no whole number from `low` to `high`."""
    allowed = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    check(key, value, allowed, f"a whole number from {low} {'on' if high == MOST else f'to {high}'}")


def check_number(key: str, value: object, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
    """Refuse what is no number from `low` (with `above`: higher) to `high` (with `below`: lower)."""
    inside = is_number(value) and low <= value <= high
    allowed = inside and not (above and value == low) and not (below and value == high)
    lowest = f"above {low:g}, up to" if above else f"from {low:g} to"
    check(key, value, allowed, f"a number {lowest} {'below ' if below else ''}{high:g}")


def is_number(value: object) -> TypeGuard[float]:
    """Tell a finite number from anything else; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def contradiction(first: str, second: str, *, why: str, next_step: str) -> UsageError:
    """Make the error for two keys that cannot both be as they are; each is given as `key = value`."""
    return UsageError(f"{first} contradicts {second}", why=why, next_step=next_step)


def shown(value: object) -> str:
    """Return a value as a TOML file would hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def printable(text: object) -> str:
    """Return a text as an error message shows it: line breaks and other control characters are escaped."""
    return str(text) if str(text).isprintable() else repr(str(text))
