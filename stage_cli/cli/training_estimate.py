"""What `stage train --dry-run` says of a run: its estimate as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stage_cli.cli import console

if TYPE_CHECKING:
    from stage_cli.core.training.estimate import Estimate


def estimate_as_json(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON types."""
    return {
        "parameters": {part.name: {"all": part.parameters, "trained": part.trained} for part in found.parts},
        "trained_parameters": found.trained,
        "data": asdict(found.data),
        "steps": found.steps,
        "epochs": found.epochs,
        "audio_hours": found.audio_hours,
        "memory_bytes": {share.name: share.size for share in found.memory},
        "notes": list(found.notes),
    }


def print_estimate(found: Estimate) -> None:
    """Print an estimate as tables, and what is not known as notes."""
    if found.parts:
        _print_parts(found)
    _print_data(found)
    if found.memory:
        rows = [(share.name, f"{share.size / 1e9:.3f}", share.formula) for share in found.memory]
        total = f"{sum(share.size for share in found.memory) / 1e9:.3f}"
        columns = ("memory on each device", "GB", "estimated as")
        console.print_table(columns, [*rows, ("together", total, "")], right=(1,))
    for note in found.notes:
        console.print_note(note)


def _print_parts(found: Estimate) -> None:
    rows = [
        (part.name, "not known" if part.parameters is None else f"{part.parameters:,}", f"{part.trained:,}")
        for part in found.parts
    ]
    rows.append(("together", f"{found.trained + found.frozen:,}", f"{found.trained:,}"))
    console.print_table(("parameters", "all", "trained"), rows, right=(1, 2))


def _print_data(found: Estimate) -> None:
    data = found.data
    rows = [
        ("songs that train", f"{data.training_songs:,}"),
        ("songs that validate", f"{data.validation_songs:,}"),
        ("songs left out (twins of those)", f"{data.left_out:,}"),
        ("items an epoch", f"{data.items:,}"),
        ("items of a validation", f"{data.validation_items:,}"),
        ("steps", f"{found.steps:,}"),
        ("epochs", f"{found.epochs:,.1f}"),
        ("hours of targets", f"{found.audio_hours:,.1f}"),
    ]
    console.print_table(("data and steps", ""), rows, right=(1,))
