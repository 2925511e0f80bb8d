"""What an evaluation found: the contract between the protocol that measures and the report that shows it.

Stored as `results.json`. Numbers that are undefined are None here and null there: JSON knows no nan. Times are seconds,
paths are relative to the report's folder and use forward slashes. Imports neither torch nor numpy.

The files of a report's folder: `results.json` and `items.csv`. Each is there whole, or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from stage_cli.core.files import display_name, write_text
from stage_cli.errors import StageError

SCHEMA_VERSION = 1

BETTER: tuple[str, ...] = ("higher", "lower", "none")
SCOPES: tuple[str, ...] = ("item", "set")
DIFFERENCE = "_over_shuffled"
"""Ends the names of differences: own − shuffled."""

ROLES: tuple[str, ...] = ("system", "anchor")

_ResultPart = TypeVar("_ResultPart")


@dataclass(frozen=True)
class Metric:
    """What one metric means; its name is the key in `Results.metrics`.

    Attributes:
        title: as a table shows it: "Beat F1".
        unit: "", "dB", "LUFS", …
        better: "higher", "lower" or "none".
        explanation: one sentence.
        scope: "item", measured of each output; or "set", measured of all outputs of a system together.
        range: lowest and highest possible value; None where it is open.

    Raises:
        ValueError: `better` or `scope` is none of these.
    """

    title: str
    unit: str = ""
    better: str = "higher"
    explanation: str = ""
    scope: str = "item"
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _one_of("better", self.better, BETTER)
        _one_of("scope", self.scope, SCOPES)


@dataclass(frozen=True)
class SystemResult:
    """What made the outputs that are compared.

    Attributes:
        name: "model:NAME", "files:NAME", or an anchor: "true", "shuffled", "silence", "click", "context".
        title: as a table shows it.
        role: "system" or "anchor".
        model: what is known of the model; None for files and anchors.

    Raises:
        ValueError: `role` is none of these.
    """

    name: str
    title: str
    role: str = "system"
    model: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _one_of("role", self.role, ROLES)


@dataclass(frozen=True)
class Summary:
    """One number of the summary table, with its 95 % bootstrap interval.

    Attributes:
        system: name.
        context: "mix" or "metronome".
        metric: name.
        value: None where undefined.
        low: end of the interval; None where undefined.
        high: likewise.
        n: items that have a value.
        note: what a reader must know of this number, or "".
    """

    system: str
    context: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""


@dataclass(frozen=True)
class TakeResult:
    """What one system made for one item.

    Attributes:
        system: name.
        seed: that it was made with; None where nothing was drawn.
        metrics: by name; None where undefined.
        error: why there is no output, or no measurement; None if all went well.
        files: "generated", and "mix" (context and generated together), if there are any.
    """

    system: str
    seed: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    error: str | None = None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipResult:
    """One clip of a song, and what the systems made for it.

    Attributes:
        id: unique in the report.
        song: id.
        title: of the song.
        start: of the clip in the song.
        seconds: length.
        context: "mix" or "metronome".
        context_stems: stems that are heard in the context.
        bpm: beats a minute, or None.
        beats: from the start of the clip, annotated or the click grid.
        downbeats: a subset of the beats.
        outputs: one for each system.
        files: "context", and "target" (None or missing where there is no true stem).
    """

    id: str
    song: str
    title: str
    start: float
    seconds: float
    context: str
    context_stems: tuple[str, ...] = ()
    bpm: float | None = None
    beats: tuple[float, ...] = ()
    downbeats: tuple[float, ...] = ()
    outputs: tuple[TakeResult, ...] = ()
    files: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What could not be generated or measured: item id, system name ("" for the item itself), reason."""

    item: str
    system: str
    error: str


@dataclass(frozen=True)
class Results:
    """Everything that an evaluation found.

    Attributes:
        created: ISO 8601 time.
        command: as it was typed.
        versions: by package.
        hardware: device, processor, memory, …
        seed: of the whole evaluation.
        stem: that was generated.
        settings: guidance, temperature, chunks, contexts, embedding, tracker, …
        metrics: by name, in the order of the tables.
        systems: systems and anchors, in the order of the tables.
        summaries: one for each system, context and metric that has one.
        items: in any order.
        failures: what went wrong; the rest is still of use.
    """

    created: str
    command: tuple[str, ...]
    versions: dict[str, str]
    hardware: dict[str, Any]
    seed: int
    stem: str
    settings: dict[str, Any]
    metrics: dict[str, Metric]
    systems: tuple[SystemResult, ...]
    summaries: tuple[Summary, ...]
    items: tuple[ClipResult, ...]
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, headed by the schema's version; nan and infinity become None."""
        return _plain({"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Results:
        """Read what `to_dict` wrote.

        Raises:
            StageError: another schema version, or fields that are missing, unknown or of a wrong type.
        """
        if not isinstance(values, Mapping):
            raise _damaged("it holds no JSON object")
        content = dict(values)
        version = content.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise StageError(
                f"results of schema version {version!r}, not {SCHEMA_VERSION}", next_step="run stage evaluate again"
            )
        try:
            content["metrics"] = {name: _read(Metric, metric) for name, metric in content["metrics"].items()}
            content["systems"] = [_read(SystemResult, system) for system in content["systems"]]
            content["summaries"] = [_read(Summary, summary) for summary in content["summaries"]]
            content["items"] = [_read_item(item) for item in content["items"]]
            content["failures"] = [_read(Failure, failure) for failure in content.get("failures", [])]
            return _read(cls, content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(f"{type(error).__name__}: {error}") from None


def _read_item(values: Mapping[str, Any]) -> ClipResult:
    outputs = [_read(TakeResult, output) for output in values.get("outputs", [])]
    return _read(ClipResult, {**values, "outputs": outputs})


def _read(kind: type[_ResultPart], values: Mapping[str, Any]) -> _ResultPart:
    known = {entry.name for entry in fields(kind)}  # ty: ignore[invalid-argument-type]
    unknown = set(values) - known
    if unknown:
        raise TypeError(f"unknown field {sorted(unknown)[0]!r} of {kind.__name__}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _one_of(field_name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field_name} must be one of {', '.join(allowed)}, not {value!r}")


def _damaged(why: str) -> StageError:
    return StageError("the results are damaged", why=why, next_step="run stage evaluate again")


RESULTS_FILE = "results.json"
ITEMS_FILE = "items.csv"
FINISHED_FILE = "finished.json"
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


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))
