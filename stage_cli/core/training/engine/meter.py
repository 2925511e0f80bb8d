"""Means over the steps between two lines of the log, and how fast they went."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import torch

from stage_cli.core.training.engine.progress import Progress


class Meter:
    """Means and speed.

    The sums are kept in the progress, which a checkpoint holds, so a line that was begun before a stop is ended after
    it. The speed is that of this process since it began; validations and checkpoints do not count.

    Args:
        progress: of the run.
        device: whose memory is told.
    """

    def __init__(self, progress: Progress, device: torch.device) -> None:
        self._progress = progress
        self._device = device
        self._seconds = 0.0
        self._steps = 0
        self._audio_seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Let the clock run."""
        self._began = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a good step."""
        sums = self._progress.sums
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0.0) + value
        self._progress.summed += 1

    def count(self, audio_seconds: float) -> None:
        """Count a step, good or bad, for the speed."""
        self._steps += 1
        self._audio_seconds += audio_seconds

    def take(self) -> dict[str, float]:
        """Return the means, the speed and the memory, and begin anew."""
        self.pause()
        progress = self._progress
        metrics = {name: value / progress.summed for name, value in progress.sums.items()}
        if self._seconds > 0:
            metrics["steps_per_second"] = self._steps / self._seconds
            metrics["audio_seconds_per_second"] = self._audio_seconds / self._seconds
        metrics["memory_gb"] = memory_gigabytes(self._device)
        progress.sums, progress.summed = {}, 0
        self._seconds, self._steps, self._audio_seconds = 0.0, 0, 0.0
        self.begin()
        return metrics


def memory_gigabytes(device: torch.device) -> float:
    """Return the most memory that was in use so far: of the CUDA device, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
