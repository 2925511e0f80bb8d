"""The summary tables: a row for each metric, a column for each system and anchor, cells with bars and intervals."""

from __future__ import annotations

import math
from html import escape

from stage_cli.core.evaluation.report.results import ROLES, Metric, Results, Summary, SystemResult
from stage_cli.core.evaluation.report.wording import context_title, decimals, in_order, number

_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "none": ("", "")}

FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Time", ("beat_", "onset_", "tempo_")),
    ("Harmony", ("chroma_", "key_")),
    ("Fit with the context and the description", ("cocola", "apa_", "clap_")),
    ("Distance to real stems", ("fad_", "kad_")),
    ("Level", ("loudness", "silent", "clipped")),
    ("Cost", ("speed", "peak_memory")),
)
"""Groups of rows, each by how its metrics' names begin."""

_OTHER = "Other"
# An anchor may lie far beyond all systems (silence is far from everything): it does not set the scale.
_FARTHEST_ANCHOR = 2.5


def tables(results: Results) -> str:
    """Return the HTML of the summary tables, one for each kind of context."""
    contexts = in_order({summary.context for summary in results.summaries})
    if not contexts:
        return '<p class="warning">Nothing could be measured.</p>'
    return "".join(_table(results, context) for context in contexts)


def _table(results: Results, context: str) -> str:
    found = {(entry.metric, entry.system): entry for entry in results.summaries if entry.context == context}
    shown = [system for system in results.systems if any(system.name == name for _, name in found)]
    systems = [system for system in shown if system.role == "system"]
    columns = systems + [system for system in shown if system.role == "anchor"]
    items = max((entry.n for entry in found.values()), default=0)
    body = []
    for family, names in _families([name for name in results.metrics if any(name == metric for metric, _ in found)]):
        rows = [
            _row(results.metrics[name], [found.get((name, system.name)) for system in columns], columns, items)
            for name in names
        ]
        body.append(
            f'<tbody role="rowgroup"><tr role="row" class="family"><th role="columnheader" scope="colgroup" '
            f'colspan="{len(columns) + 1}">{escape(family)}</th></tr>{"".join(rows)}</tbody>'
        )
    heads = "".join(
        f'<th role="columnheader" scope="col" class="{_class(system, columns)}">{escape(system.title)}'
        f"{'<small>anchor</small>' if system.role == 'anchor' else ''}</th>"
        for system in columns
    )
    name = escape(context_title(context))
    best = " · ● best system" if len(systems) > 1 else ""
    return (
        f'<div class="scroll" role="region" aria-label="Summary, context {name}" tabindex="0">'
        f'<table role="table" class="summary" style="--columns:{len(columns)}"><caption>Context: {name} '
        f"<span>n = {items} · with 95 % intervals{best}</span></caption>"
        f'<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Metric</th>{heads}</tr></thead>'
        f"{''.join(body)}</table></div>"
    )


def _families(names: list[str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {family: [] for family, _ in FAMILIES} | {_OTHER: []}
    for name in names:
        family = next((family for family, starts in FAMILIES if name.startswith(starts)), _OTHER)
        groups[family].append(name)
    return [(family, members) for family, members in groups.items() if members]


def _row(metric: Metric, entries: list[Summary | None], columns: list[SystemResult], items: int) -> str:
    places = _places(metric, entries, columns)
    scale = _scale(metric, entries, columns)
    best = _best(metric, entries, columns)
    cells = "".join(
        _cell(
            entry,
            system,
            places,
            scale,
            items,
            classes=f"{_class(system, columns)}{' best' if system.name in best else ''}",
        )
        for entry, system in zip(entries, columns, strict=True)
    )
    arrow, meaning = _ARROWS[metric.better]
    arrow_text = f' <abbr title="{meaning}" aria-label="{meaning}">{arrow}</abbr>' if arrow else ""
    unit = f" <small>{escape(metric.unit)}</small>" if metric.unit else ""
    label = f"{escape(metric.title)}{unit}{arrow_text}"
    if metric.explanation:
        label = f"<details><summary>{label}</summary><p>{escape(metric.explanation)}</p></details>"
    return f'<tr role="row"><th role="rowheader" scope="row">{label}</th>{cells}</tr>'


def _places(metric: Metric, entries: list[Summary | None], columns: list[SystemResult]) -> int:
    """Return the decimals of a row: two for scores from 0 to 1, else what the systems' values need."""
    if metric.range == (0, 1):
        return 2
    values = {
        role: [
            entry.value
            for entry, system in zip(entries, columns, strict=True)
            if entry and entry.value is not None and system.role == role
        ]
        for role in ROLES
    }
    return decimals(values["system"] or values["anchor"])


def _cell(
    entry: Summary | None, system: SystemResult, places: int, scale: tuple[float, float], items: int, *, classes: str
) -> str:
    start = f'<td role="cell" class="{classes}" data-system="{escape(system.title)}">'
    note = f'<small class="note">{escape(entry.note)}</small>' if entry and entry.note else ""
    if entry is None or entry.value is None:
        return f'{start}<span class="missing" title="not defined">–</span>{note}</td>'
    span = ""
    if entry.low is not None and entry.high is not None:
        span = f"<small>{number(entry.low, places)} – {number(entry.high, places)}</small>"
    fewer = f'<small class="note">n = {entry.n}</small>' if entry.n < items else ""
    value = f'<span class="number"><b>{number(entry.value, places)}</b> {span}</span>'
    return f"{start}{_bar(entry, scale)}{value}{fewer}{note}</td>"


def _bar(entry: Summary, scale: tuple[float, float]) -> str:
    low, high = scale
    assert entry.value is not None

    def share(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    base, end = share(0.0 if low <= 0 <= high else low), share(entry.value)
    beyond = " beyond" if entry.value > high or entry.value < low else ""
    whisker = ""
    if entry.low is not None and entry.high is not None:
        first, last = share(entry.low), share(entry.high)
        whisker = f'<i class="whisker" style="left:{first:.1f}%;width:{last - first:.1f}%"></i>'
    fill = f'<i class="fill{beyond}" style="left:{min(base, end):.1f}%;width:{abs(end - base):.1f}%"></i>'
    return f'<span class="bar" aria-hidden="true">{fill}{whisker}</span>'


def _scale(metric: Metric, entries: list[Summary | None], columns: list[SystemResult]) -> tuple[float, float]:
    """Return the ends of a row's bars: the metric's range if it is closed, else what holds the values, and zero."""
    if (
        metric.range is not None
        and all(math.isfinite(end) for end in metric.range)
        and metric.range[0] < metric.range[1]
    ):
        return metric.range[0], metric.range[1]

    def ends(role: str) -> list[float]:
        of_role = [entry for entry, system in zip(entries, columns, strict=True) if entry and system.role == role]
        return [value for entry in of_role for value in (entry.value, entry.low, entry.high) if value is not None]

    systems, anchors = ends("system"), ends("anchor")
    low, high = min(systems + anchors, default=0.0), max(systems + anchors, default=1.0)
    if high <= 0:  # loudness: bars from a floor, since zero says nothing
        return low - max(0.25 * (high - low), 1.0), high + 0.05 * (high - low)
    if systems and max(systems) > 0:
        high = min(high, _FARTHEST_ANCHOR * max(systems))
    low = min(0.0, low)
    return low, high if high > low else low + 1.0


def _best(metric: Metric, entries: list[Summary | None], columns: list[SystemResult]) -> set[str]:
    """Return the systems, not anchors, with the best value; none where all are alike."""
    values = {
        system.name: entry.value
        for entry, system in zip(entries, columns, strict=True)
        if entry and entry.value is not None and system.role == "system"
    }
    if len(set(values.values())) < 2 or metric.better == "none":
        return set()
    best = max(values.values()) if metric.better == "higher" else min(values.values())
    return {name for name, value in values.items() if value == best}


def _class(system: SystemResult, columns: list[SystemResult]) -> str:
    if system.role == "system":
        return f"system colour-{columns.index(system) % 6}"
    first = next(column for column in columns if column.role == "anchor")
    return "anchor first" if system is first else "anchor"
