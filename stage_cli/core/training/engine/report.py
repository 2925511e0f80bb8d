"""The numbers of a step, brought together over passes and processes, and from the device in one transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.training.engine.processes import Processes
from stage_cli.core.training.engine.stop_requests import SIGNALS


@dataclass(frozen=True)
class StepReport:
    """What all processes know of a step before its gradients are used.

    Attributes:
        numbers: means over the step's micro-batches, by name; "loss" is one of them.
        norm: of the gradients.
        bad_losses: micro-batches whose loss is not finite.
        audio_seconds: of all of them together.
        signal: one that a process was sent, or None.
    """

    numbers: dict[str, float]
    norm: float
    bad_losses: int
    audio_seconds: float
    signal: int | None


class StepNumbers:
    """Collects the numbers of one step on one process; nothing waits for the device before `report`."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._passes = 0
        self._audio_seconds = 0.0
        self.finite: list[Tensor] = []

    def add(self, outputs: Mapping[str, Tensor], audio_seconds: float) -> None:
        """Take what the module returned for a micro-batch."""
        numbers = {name: outputs[name].detach() for name in sorted(outputs)}
        self._names = [entry for name, value in numbers.items() for entry in _entries(name, value)]
        flat = torch.cat([value.reshape(-1).float() for value in numbers.values()])
        self._sum = flat if self._sum is None else self._sum + flat
        self.finite.append(torch.isfinite(numbers["loss"]).reshape(1))
        self._passes += 1
        self._audio_seconds += audio_seconds

    def report(self, processes: Processes, norm: Tensor, signal: int | None) -> StepReport:
        """Sum over the processes; every process has the same report, but for rounding none."""
        if self._sum is None:
            raise ValueError("a step without a micro-batch")
        device = self._sum.device
        known = [self._audio_seconds, *(float(signal == number) for number in SIGNALS)]
        bad = (~torch.cat(self.finite)).sum().reshape(1).float()
        summed = processes.sum(torch.cat([torch.tensor(known, device=device), bad, self._sum]))
        audio_seconds, *rest, norm_value = torch.cat([summed, norm.reshape(1).float()]).tolist()
        stops, (bad_losses, *sums) = rest[: len(SIGNALS)], rest[len(SIGNALS) :]
        passes = self._passes * processes.count
        return StepReport(
            numbers={name: value / passes for name, value in zip(self._names, sums, strict=True)},
            norm=norm_value,
            bad_losses=round(bad_losses),
            audio_seconds=audio_seconds,
            signal=next((number for number, stop in zip(SIGNALS, stops, strict=True) if stop), None),
        )


def _entries(name: str, value: Tensor) -> list[str]:
    """Name the numbers of an output: codebook_losses → loss/codebook_1, …; others of a vector → name/1, …."""
    if value.ndim == 0:
        return [name]
    stem = f"loss/{name.removesuffix('_losses')}_" if name.endswith("_losses") else f"{name}/"
    return [f"{stem}{number}" for number in range(1, value.numel() + 1)]
