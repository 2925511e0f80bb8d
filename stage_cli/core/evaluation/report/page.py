"""Numbers, times and names as the page writes them.

The head of the page: what was measured, how, and what went wrong.

The summary tables: a row for each metric, a column for each system and anchor, cells with bars and intervals.

`report.html`: one page for people to look at and listen to, which needs nothing but itself.

Text of the results goes into the page in two ways, both safe whatever a song is called: escaped HTML for the head and
the tables, and JSON without "<" for the script, which writes it as text, never as HTML.
"""

from __future__ import annotations

import json
import math
import shlex
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from stage_cli.core.evaluation.report.clips import Collection, Progress
from stage_cli.core.evaluation.report.results import (
    DIFFERENCE,
    REPORT_FILE,
    ROLES,
    ClipResult,
    Metric,
    Results,
    Summary,
    SystemResult,
    read_results,
)
from stage_cli.core.files import write_text

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


_SHORT = 12
_OPEN_FAILURES = 5  # more are folded away


def title(results: Results) -> str:
    """Return the page's title, not escaped."""
    return f"{words(results.stem).capitalize()}: {', '.join(system.title for system in _systems(results))}"


def heading(results: Results) -> str:
    """Return the HTML of the head: title, one line of facts, and the verdict."""
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
        f"{_verdict(results)}"
    )


def about(results: Results) -> str:
    """Return the HTML of what can be folded away: settings, models, and how to repeat it."""
    settings = facts({"seed": results.seed, **results.settings})
    return f"<details><summary>Settings</summary>{settings}</details>{_models(results)}{_repeat(results)}"


_FOLLOWING = ("chroma_similarity", "onset_f", "beat_f1")
"""Metrics by which a stem follows its song; the first one of which a difference was measured gives the verdict."""


def _verdict(results: Results) -> str:
    """Return one line for each system: whether it follows its songs, and what the true stems come to."""
    lines = []
    contexts = in_order({summary.context for summary in results.summaries})
    for context in contexts:
        found = {(entry.metric, entry.system): entry for entry in results.summaries if entry.context == context}
        measured = {name for (name, _), entry in found.items() if entry.value is not None}
        metric = next((name + DIFFERENCE for name in _FOLLOWING if name + DIFFERENCE in measured), None)
        if metric is None:
            continue
        title = results.metrics[metric].title
        true = next((entry for (name, of), entry in found.items() if name == metric and of.startswith("true")), None)
        reference = "" if true is None or true.value is None else f"; true stems {signed(true.value)}"
        for system in _systems(results):
            entry = found.get((metric, system.name))
            if entry is None or entry.value is None:
                continue
            follows = entry.low is None or entry.low > 0
            words_of = "follows its songs" if follows and entry.value > 0 else "does not clearly follow its songs"
            where = f"{context_title(context)}: " if len(contexts) > 1 else ""
            lines.append(
                f"<p><b>{escape(where + system.title)}</b> {words_of}: "
                f"{escape(title)} {signed(entry.value)}{reference}</p>"
            )
    return f'<div class="verdict">{"".join(lines)}</div>' if lines else ""


def signed(value: float) -> str:
    """Return a difference with its sign and two decimals."""
    text = number(value, 2)
    return text if text.startswith(_MINUS) else f"+{text}"


def short_titles(titles: list[str]) -> dict[str, str]:
    """Return names of at most twelve letters for narrow screens, each another one."""
    shortened: dict[str, str] = {}
    for title_ in titles:
        name = title_.rstrip("/").rpartition("/")[2] or title_
        short = name if len(name) <= _SHORT else f"{name[: _SHORT - 6]}…{name[-5:]}"
        shortened[title_] = short if short not in shortened.values() else f"{short[: _SHORT - 2]} {len(shortened) + 1}"
    return shortened


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
    listed = f'<ul class="anchors" aria-label="Anchors">{"".join(entries)}</ul>'
    return f"<details><summary>What the anchors are</summary>{listed}</details>"


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
            _row(name, results.metrics[name], [found.get((name, system.name)) for system in columns], columns, items)
            for name in names
        ]
        body.append(
            f'<tbody role="rowgroup"><tr role="row" class="family"><th role="columnheader" scope="colgroup" '
            f'colspan="{len(columns) + 1}">{escape(family)}</th></tr>{"".join(rows)}</tbody>'
        )
    heads = "".join(
        f'<th role="columnheader" scope="col" class="{_class(system, columns)}">{_head(system)}'
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


def _head(system: SystemResult) -> str:
    """Return a column's head: of a system a button that shows its items."""
    name = escape(system.title)
    return f'<button type="button" class="head" data-show="{escape(system.name)}">{name}</button>'


def _families(names: list[str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {family: [] for family, _ in FAMILIES} | {_OTHER: []}
    for name in names:
        family = next((family for family, starts in FAMILIES if name.startswith(starts)), _OTHER)
        groups[family].append(name)
    return [(family, members) for family, members in groups.items() if members]


def _row(name: str, metric: Metric, entries: list[Summary | None], columns: list[SystemResult], items: int) -> str:
    places = _places(metric, entries, columns)
    scale = _scale(metric, entries, columns)
    best = _best(metric, entries, columns)
    short = short_titles([system.title for system in columns])
    cells = "".join(
        _cell(
            entry,
            system,
            places,
            scale,
            items,
            classes=f"{_class(system, columns)}{' best' if system.name in best else ''}",
            short=short[system.title],
        )
        for entry, system in zip(entries, columns, strict=True)
    )
    arrow, meaning = _ARROWS[metric.better]
    arrow_text = f' <abbr title="{meaning}" aria-label="{meaning}">{arrow}</abbr>' if arrow else ""
    unit = f" <small>{escape(metric.unit)}</small>" if metric.unit else ""
    label = f"{escape(metric.title)}{unit}{arrow_text}"
    if metric.explanation:
        label = f"<details><summary>{label}</summary><p>{escape(metric.explanation)}</p></details>"
    if metric.scope == "item":
        sort = f"Sort the items by {metric.title}"
        label += (
            f'<button type="button" class="sorter" data-sort="{escape(name)}" aria-label="{escape(sort)}">⇅</button>'
        )
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
    entry: Summary | None,
    system: SystemResult,
    places: int,
    scale: tuple[float, float],
    items: int,
    *,
    classes: str,
    short: str,
) -> str:
    start = f'<td role="cell" class="{classes}" data-system="{escape(system.title)}" data-short="{escape(short)}">'
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


_SCRIPTS = ("page.js", "plots.js", "player.js", "mixer.js", "items.js")


def write_report(folder: Path, *, progress: Progress | None = None) -> Path:
    """Write `report.html` from `results.json` and the audio files beside it; return its path.

    Audio that is missing or damaged is named in the page and does not end anything. The sound of few items has
    64 kbit/s, that of many less, so that the page stays below 60 MB, but no less than 40 kbit/s.

    Args:
        folder: of the report.
        progress: called with the number of clips done and of all.

    Raises:
        StageError: the results cannot be read, or the page cannot be written.
    """
    results = read_results(folder)
    collection = Collection(folder, results, progress)
    return write_text(folder / REPORT_FILE, _page(results, collection))


def _page(results: Results, collection: Collection) -> str:
    files = resources.files("stage_cli.core.evaluation.report").joinpath("page")
    script = "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    sounds = "\n".join(
        f'<script type="text/plain" id="sound-{place}">{clip.sound}</script>'
        for place, clip in enumerate(collection.clips)
        if clip.sound
    )
    return Template(files.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title(results)),
        style=files.joinpath("page.css").read_text(encoding="utf-8"),
        heading=heading(results),
        failures=failures(results, collection.unreadable()),
        anchors=anchors(results),
        about=about(results),
        tables=tables(results),
        sound=f"MP3, mono, {collection.kilobits} kbit/s",
        data=json_for_script(_data(results, collection)),
        script=script,
        sounds=sounds,
    )


def json_for_script(value: Any) -> str:
    """Return JSON that can stand in a script element: no "<", so that nothing in it ends or opens an element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _data(results: Results, collection: Collection) -> dict[str, Any]:
    """Return what the script shows: systems, item metrics, items, and clips without their sound."""
    contexts = in_order({item.context for item in results.items})
    return {
        "systems": [{"name": entry.name, "title": entry.title, "role": entry.role} for entry in results.systems],
        "metrics": [
            {"name": name, "title": metric.title, "unit": metric.unit, "better": metric.better, "range": metric.range}
            for name, metric in results.metrics.items()
            if metric.scope == "item"
        ],
        "contexts": [{"name": context, "title": context_title(context)} for context in contexts],
        "items": [_item(item, collection) for item in results.items],
        "clips": [
            {"seconds": clip.seconds, "outline": clip.outline, "picture": clip.picture, "error": clip.error}
            for clip in collection.clips
        ],
    }


def _item(item: ClipResult, collection: Collection) -> dict[str, Any]:
    return {
        "id": item.id,
        "title": item.title or item.song,
        "start": item.start,
        "seconds": item.seconds,
        "context": item.context,
        "stems": list(item.context_stems),
        "bpm": item.bpm,
        "beats": [round(beat, 3) for beat in item.beats],
        "downbeats": [round(beat, 3) for beat in item.downbeats],
        "clips": {role: collection.place(item.files.get(role)) for role in ("context", "target")},
        "outputs": [
            {
                "system": output.system,
                "seed": output.seed,
                "metrics": {name: _number(value) for name, value in output.metrics.items()},
                "error": output.error,
                "clips": {role: collection.place(output.files.get(role)) for role in ("generated", "mix")},
            }
            for output in item.outputs
        ],
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
