"""Checks that the configs of all codecs share. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeGuard

from stage_cli.errors import WeightsError


def is_whole(value: object) -> TypeGuard[int]:
    """Tell a whole number from anything else; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def not_allowed(key: str, value: object, allowed: str) -> WeightsError:
    """Make the error for a value that is not allowed."""
    shown = list(value) if isinstance(value, tuple) else value
    return WeightsError(f"The codec's config has {key} = {shown!r}", why=f"allowed: {allowed}")


def check_at_least(key: str, value: object, smallest: int) -> None:
    """Raise WeightsError unless a value is a whole number of at least `smallest`."""
    if not is_whole(value) or value < smallest:
        raise not_allowed(key, value, f"a whole number of at least {smallest}")


def check_keys(kind: Any, keys: Iterable[str]) -> None:
    """Raise WeightsError if a key is no field of the config class `kind`."""
    known = [field.name for field in fields(kind)]
    for key in keys:
        if key not in known:
            raise WeightsError(
                f"The codec's config has an unknown key '{key}'",
                why=f"known are: {', '.join(known)}",
                next_step="remove the key, or use the version of stage-cli that wrote the model",
            )
