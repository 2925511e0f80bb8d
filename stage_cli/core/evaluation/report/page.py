"""`report.html`: one page for people to look at and listen to, which needs nothing but itself.

Text of the results goes into the page in two ways, both safe whatever a song is called: escaped HTML for the head and
the tables, and JSON without "<" for the script, which writes it as text, never as HTML.
"""

from __future__ import annotations

import json
import math
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from stage_cli.core.evaluation.report.collection import Collection, Progress
from stage_cli.core.evaluation.report.files import REPORT_FILE, read_results, write_text
from stage_cli.core.evaluation.report.heading import anchors, failures, heading, title
from stage_cli.core.evaluation.report.results import ClipResult, Results
from stage_cli.core.evaluation.report.summary import tables
from stage_cli.core.evaluation.report.wording import context_title, in_order

_SCRIPTS = ("page.js", "plots.js", "player.js", "items.js")


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
