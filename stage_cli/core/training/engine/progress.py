"""How far a run has come: what a checkpoint says beside its tensors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Progress:
    """Changes with every step.

    Attributes:
        step: done, from 0.
        skipped: steps that changed nothing, since the start.
        best: lowest validation/loss, None before the first.
        best_step: its step.
        validated: step of the last validation, 0 before the first.
        validation: metrics of the last validation.
        sums: of the numbers to log, since the last line, by name.
        summed: steps in them.
        scaler: state of the loss scaling; empty without it.
    """

    step: int = 0
    skipped: int = 0
    best: float | None = None
    best_step: int | None = None
    validated: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, which keeps every bit of a number."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Read what `to_dict` wrote."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})
