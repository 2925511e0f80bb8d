"""What `stage generate` tells of each stem: a row of a table, a JSON object, notes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stage_cli.cli import console
from stage_cli.errors import StageError

if TYPE_CHECKING:
    from stage_cli.core.accompaniment.accompany import Accompaniment, WrittenStem
    from stage_cli.core.accompaniment.request import Request

STEM_COLUMNS = ("file", "seconds", "peak dBFS", "LUFS", "seed", "× real time")


def report_failure(request: Request, error: StageError, *, json: bool) -> None:
    """Tell of a context for which nothing was written."""
    if json:
        failed = {"context": request.context.name, "error": error.what, "why": error.why, "next": error.next_step}
        console.print_json(failed)
    else:
        console.print_error(error)


def notes_on(result: Accompaniment) -> list[str]:
    """Tell what the user should know of it."""
    from stage_cli.core.audio.files import display_name

    notes = list(result.notes)
    for stem in result.stems:
        name = "What was streamed" if stem.path is None else display_name(stem.path)
        if stem.silent:
            notes.append(f"{name} is silent (peak under −60 dBFS): try another --seed.")
        if stem.turned_down:
            notes.append(f"{name} was turned down by {stem.turned_down:.1f} dB to avoid clipping.")
        if stem.mix_path is not None and stem.mix_turned_down:
            mix_name = display_name(stem.mix_path)
            notes.append(f"{mix_name} was turned down by {stem.mix_turned_down:.1f} dB to avoid clipping.")
    return notes


def _speed(result: Accompaniment) -> float:
    return sum(stem.seconds for stem in result.stems) / max(result.compute_seconds, 1e-9)


def table_row(result: Accompaniment, stem: WrittenStem) -> tuple[str, ...]:
    """A stem's row under `STEM_COLUMNS`."""
    return (
        "stdout" if stem.path is None else str(stem.path),
        f"{stem.seconds:.2f}",
        f"{stem.peak:.1f}",
        f"{stem.loudness:.1f}",
        str(stem.seed),
        f"{_speed(result):.2f}",
    )


def stem_as_json(request: Request, result: Accompaniment, stem: WrittenStem, model_name: str) -> dict[str, Any]:
    """A stem's JSON object."""
    return {
        "context": request.context.name,
        "stem": request.stem,
        "model": model_name,
        **{key: str(value) if isinstance(value, Path) else value for key, value in asdict(stem).items()},
        "compute_seconds": result.compute_seconds,
        "speed": _speed(result),
        "notes": notes_on(result),
    }
