"""One line that says on what a figure was measured."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import version

from stage_cli import __version__
from stage_cli.core.machine import processor


def describe(*packages: str) -> str:
    """Date, processor, cores, and versions (of torch and transformers, if no others are named): a table's head."""
    # Its own is read where it is: benchmarks also run from a checkout that is not installed.
    others = (f"{name} {version(name)}" for name in packages or ("torch", "transformers"))
    versions = ", ".join((f"stage-cli {__version__}", *others))
    return f"{date.today()} · {processor()}, {os.cpu_count()} cores · Python {platform.python_version()}, {versions}"
