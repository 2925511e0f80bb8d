"""What a measurement was made with: versions and hardware, for the report."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

from stage_cli import __version__
from stage_cli.core.machine import processor

_PACKAGES = (
    "torch", "numpy", "scipy", "mir_eval", "essentia", "transformers", "soxr", "soundfile", "beat-this",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the packages that decide on numbers."""
    found = {"stage-cli": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """Return what it ran on.

    Args:
        device: of the models, as torch names it.
    """
    found: dict[str, Any] = {
        "device": device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
