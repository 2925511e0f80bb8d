"""`metrics.jsonl`: every number of a run, one JSON object a line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.core.training.engine.events import Event, Logged, Started, Validated
from stage_cli.core.training.record.whole_files import cannot_write, write_whole
from stage_cli.errors import StageError

METRICS_FILE = "metrics.jsonl"
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class MetricsLine:
    """One line.

    Attributes:
        step: of the optimizer, after which the numbers were taken.
        kind: "train" (means since the line before) or "validation".
        metrics: by name; NaN where the file says null, for JSON has no other numbers.
        time: seconds since 1970.
    """

    step: int
    kind: str
    metrics: dict[str, float]
    time: float

    def to_json(self) -> str:
        """The line, without its end."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return json.dumps({"step": self.step, "kind": self.kind, "metrics": metrics, "time": self.time})


class MetricsFile:
    """Append a line for each `Logged` and each `Validated`; start or go on at `Started`.

    A line is written by one call of the system, so a process that is killed leaves no more than its last line half
    written. What a run that was stopped wrote after its last checkpoint is cut off when it is resumed: the file then
    goes on like that of a run that was never stopped.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            StageError: the file cannot be written.
        """
        if isinstance(event, Started):
            self.cut_after(event.resumed_from)
        elif isinstance(event, Logged):
            self.append(event.step, TRAIN, event.metrics)
        elif isinstance(event, Validated):
            self.append(event.step, VALIDATION, event.metrics)

    def append(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """Write one line; whoever reads the file sees it at once.

        Raises:
            StageError: the file cannot be written.
        """
        line = MetricsLine(step, kind, dict(metrics), round(time.time(), 3))
        data = line.to_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                length = file.tell()
                if file.write(data) != len(data):  # a full disk takes a part
                    file.truncate(length)
                    raise OSError("the disk is full")
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def cut_after(self, step: int | None) -> None:
        """Leave out the lines after a step, and a last line that was never finished; None leaves out all lines.

        Raises:
            StageError: the file cannot be read or written.
        """
        if not self.path.exists():
            return
        kept = b"".join(raw for raw, line in _lines(self.path) if step is not None and line.step <= step)
        if len(kept) != self.path.stat().st_size:
            write_whole(self.path, lambda temporary: temporary.write_bytes(kept))

    def close(self) -> None:
        """Do nothing: no file is left open between two lines."""


def read_metrics(path: Path) -> list[MetricsLine]:
    """Read a `metrics.jsonl`; a last line that was never finished is left out, and no file has no lines.

    Raises:
        StageError: the file cannot be read, or is damaged before its last line.
    """
    return [line for _, line in _lines(path)] if path.exists() else []


def _lines(path: Path) -> Iterator[tuple[bytes, MetricsLine]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    raws = data.splitlines(keepends=True)
    for number, raw in enumerate(raws, 1):
        try:
            if not raw.endswith(b"\n"):
                raise ValueError("it is not finished")
            yield raw, _parse(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(raws):
                return
            raise StageError(
                f"{display_name(path)} is damaged in line {number}",
                why=str(error),
                next_step="take that line out, or move the file away: training does not need it",
            ) from None


def _parse(raw: bytes) -> MetricsLine:
    values = json.loads(raw)
    metrics = {str(name): math.nan if value is None else float(value) for name, value in values["metrics"].items()}
    return MetricsLine(int(values["step"]), str(values["kind"]), metrics, float(values["time"]))
