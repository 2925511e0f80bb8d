"""The head of the page: what was measured, how, and what went wrong."""

from __future__ import annotations

import shlex
from datetime import datetime
from html import escape

from stage_cli.core.evaluation.report.results import Results, SystemResult
from stage_cli.core.evaluation.report.wording import ANCHORS, context_title, counted, facts, in_order, plain, words

_OPEN_FAILURES = 5  # more are folded away


def title(results: Results) -> str:
    """Return the page's title, not escaped."""
    return f"{words(results.stem).capitalize()}: {', '.join(system.title for system in _systems(results))}"


def heading(results: Results) -> str:
    """Return the HTML of the head: title, one line of facts, settings, and how to repeat it."""
    songs = len({item.song for item in results.items})
    seconds = sorted({round(item.seconds, 2) for item in results.items})
    length = f" of {seconds[0]:g} s" if len(seconds) == 1 else ""
    kinds = " and ".join(
        context_title(context).lower() for context in in_order({item.context for item in results.items})
    )
    line = [counted(len(results.items), "item") + length, f"from {counted(songs, 'song')}"]
    if kinds:
        line.append(f"context: {kinds}")
    line.append(_date(results.created))
    names = " <i>vs</i> ".join(escape(system.title) for system in _systems(results)) or "anchors only"
    return (
        f'<p class="kicker">stage evaluate · {escape(words(results.stem))}</p>'
        f"<h1>{names}</h1>"
        f'<p class="line">{escape(" · ".join(line))}</p>'
        f"{facts({'seed': results.seed, **results.settings})}"
        f"{_models(results)}{_repeat(results)}"
    )


def failures(results: Results, unreadable: list[tuple[str, str]]) -> str:
    """Return the HTML of what went wrong, "" if nothing did.

    Args:
        results: with failures of the run.
        unreadable: name and reason of each file that could not be shown.
    """
    named = {system.name: system.title for system in results.systems}
    titles = {item.id: item.title or item.song for item in results.items}
    listed = {(failure.item, failure.system): failure.error for failure in results.failures}
    for item in results.items:
        for output in item.outputs:
            if output.error is not None:
                listed.setdefault((item.id, output.system), output.error)
    rows = [
        (item, " · ".join(part for part in (titles.get(item, ""), named.get(system, system)) if part), error)
        for (item, system), error in listed.items()
    ] + [("file", name, error) for name, error in unreadable]
    if not rows:
        return ""
    entries = "".join(
        f"<li><b>{escape(item)}</b> <span>{escape(what)}</span> <em>{escape(error)}</em></li>"
        for item, what, error in rows
    )
    is_open = " open" if len(rows) <= _OPEN_FAILURES else ""
    return (
        f'<section class="failures" aria-label="Failures"><details{is_open}>'
        f"<summary>{counted(len(rows), 'failure')}: the numbers are of what remained</summary>"
        f"<ul>{entries}</ul></details></section>"
    )


def anchors(results: Results) -> str:
    """Return the HTML that says what the anchors are."""
    entries = [
        f"<li><b>{escape(system.title)}</b> {escape(ANCHORS[kind])}</li>"
        for system in results.systems
        if system.role == "anchor" and (kind := system.name.split(":")[0]) in ANCHORS
    ]
    if not entries:
        return '<p class="warning">No anchors were measured: these numbers have nothing to be compared with.</p>'
    return f'<ul class="anchors" aria-label="Anchors">{"".join(entries)}</ul>'


def _models(results: Results) -> str:
    described = [(system.title, system.model) for system in _systems(results) if system.model]
    parts = [f"<h3>{escape(name)}</h3>{facts(model)}" for name, model in described if model]
    return f"<details><summary>Models</summary>{''.join(parts)}</details>" if parts else ""


def _repeat(results: Results) -> str:
    return (
        "<details><summary>Command, versions and hardware</summary>"
        f"<h3>Command</h3><pre><code>{escape(shlex.join(plain(part) for part in results.command))}</code></pre>"
        f"<h3>Versions</h3>{facts(results.versions)}<h3>Hardware</h3>{facts(results.hardware)}</details>"
    )


def _systems(results: Results) -> list[SystemResult]:
    return [system for system in results.systems if system.role == "system"]


def _date(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M}"
