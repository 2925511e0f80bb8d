"""The files of a report's folder: `results.json` and `items.csv`. Each is there whole, or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.core.evaluation.report.results import Results
from stage_cli.errors import StageError

RESULTS_FILE = "results.json"
ITEMS_FILE = "items.csv"
REPORT_FILE = "report.html"


def read_results(folder: Path) -> Results:
    """Read the `results.json` of a report's folder.

    Raises:
        StageError: it is missing, damaged, or of another schema version.
    """
    path = folder / RESULTS_FILE
    try:
        return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    except ValueError as error:
        why, step = str(error), "run stage evaluate again"
        raise StageError(f"{display_name(path)} is damaged", why=why, next_step=step) from None


def write_results(folder: Path, results: Results) -> Path:
    """Write `results.json` into a report's folder; return its path.

    Raises:
        StageError: it cannot be written.
    """
    text = json.dumps(results.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(folder / RESULTS_FILE, text)


def write_items(folder: Path, results: Results) -> Path:
    """Write `items.csv`: one line for each item and system, with each metric that is measured of items.

    Numbers that are undefined are empty cells. Lines end as RFC 4180 has it.

    Raises:
        StageError: it cannot be written.
    """
    names = [name for name, metric in results.metrics.items() if metric.scope == "item"]
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["id", "song", "start", "context", "system", "seed", *names, "error"])
    for item in results.items:
        for output in item.outputs:
            numbers = [_cell(output.metrics.get(name)) for name in names]
            seed = "" if output.seed is None else output.seed
            row = [item.id, item.song, _cell(item.start), item.context, output.system, seed]
            table.writerow([*row, *numbers, output.error or ""])
    return write_text(folder / ITEMS_FILE, text.getvalue())


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file, line ends as they are, whole or not at all; missing folders are made.

    Raises:
        StageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        why, step = error.strerror or str(error), "free some space, or choose another --out"
        raise StageError(f"cannot write {display_name(path)}", why=why, next_step=step) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))
