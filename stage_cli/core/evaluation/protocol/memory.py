"""How much memory generating takes at its peak, on the device that it runs on."""

from __future__ import annotations

from pathlib import Path

import torch

from stage_cli.core.machine import resident_peak

_RESET = Path("/proc/self/clear_refs")


def begin_peak(device: torch.device) -> None:
    """Forget earlier peaks, where that is possible: on CUDA, and of processes on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:  # another system, or a container that hides it: the peak is the whole process's so far
        return


def peak_memory(device: torch.device) -> int | None:
    """Return bytes since `begin_peak`: what torch held on CUDA, elsewhere what this process held; None: unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident_peak()
