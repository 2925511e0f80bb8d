"""Numbers, times and names as the page writes them."""

from __future__ import annotations

import json
from html import escape
from typing import Any

CONTEXTS = {"mix": "Mix", "metronome": "Metronome"}
"""Titles of the kinds of context, in the order of the page."""

ANCHORS = {
    "true": "the real stems of the same clips: as good as it gets",
    "shuffled": "stems heard against another song than their own: what chance agreement is worth",
    "silence": "nothing at all",
    "click": "a plain click on every annotated beat: perfect time, no music",
    "context": "what can be heard in the context itself, without any stem",
    "codec": "the true stems after the model's codec: it can sound no better",
}
"""What the anchors are, by the part of their name before a colon."""

_MINUS = "\N{MINUS SIGN}"


def decimals(values: list[float]) -> int:
    """Return how many decimals tell values of this size apart: two digits of the smallest one, but three at most."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    if smallest >= 100:
        return 0
    if smallest >= 10:
        return 1
    return 2 if smallest >= 0.1 else 3


def number(value: float, places: int) -> str:
    """Return a number with a true minus sign, and none before zero."""
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", _MINUS)


def in_order(contexts: set[str]) -> list[str]:
    """Return kinds of context in the page's order, unknown ones last."""
    known = list(CONTEXTS)
    return sorted(contexts, key=lambda context: (known.index(context) if context in known else len(known), context))


def context_title(context: str) -> str:
    """Return the title of a kind of context."""
    return CONTEXTS.get(context, context)


def words(name: str) -> str:
    """Return a key of the results as words: "top_k" → "top k"."""
    return name.replace("_", " ")


def plain(value: Any) -> str:
    """Return a setting as text: lists with commas, yes and no, none as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def counted(count: int, noun: str) -> str:
    """Return "1 song", "24 songs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def facts(pairs: dict[str, Any]) -> str:
    """Return a description list; names and values are escaped."""
    entries = [
        f"<div><dt>{escape(words(name))}</dt><dd>{escape(plain(value))}</dd></div>" for name, value in pairs.items()
    ]
    return f'<dl class="facts">{"".join(entries)}</dl>'
