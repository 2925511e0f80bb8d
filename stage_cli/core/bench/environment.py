"""On what a figure was measured: it means nothing without. Imports no torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from stage_cli import __version__
from stage_cli.core.data.processes import available_cores
from stage_cli.core.machine import load_average, processor

# Up to here a load is what a system does beside its work: half a core, or a sixteenth of many.
_QUIET_LOAD, _QUIET_SHARE = 0.5, 1 / 16


@dataclass(frozen=True)
class Environment:
    """Machine, date, versions and command.

    Attributes:
        date: of the start, ISO 8601 with the time zone.
        processor: its name.
        cores: that this process may use.
        threads: that torch works with.
        device: of the language model, as torch names it.
        gpu: its name, or None.
        system: and its architecture.
        load: means of 1, 5 and 15 minutes before the start; None where a system does not tell.
        versions: of this program, Python and torch.
        command: as it was typed.
    """

    date: str
    processor: str
    cores: int
    threads: int
    device: str
    gpu: str | None
    system: str
    load: tuple[float, float, float] | None
    versions: dict[str, str]
    command: tuple[str, ...]

    @property
    def busy(self) -> bool:
        """Whether other programs were at work before the start."""
        return self.load is not None and self.load[0] > max(_QUIET_LOAD, self.cores * _QUIET_SHARE)


@dataclass(frozen=True)
class Start:
    """What has to be read before the measuring begins, for it changes the load."""

    date: str
    load: tuple[float, float, float] | None

    @classmethod
    def now(cls) -> Start:
        """Read clock and load."""
        return cls(datetime.now().astimezone().isoformat(timespec="seconds"), load_average())


def describe(start: Start, *, device: str, gpu: str | None, threads: int, command: tuple[str, ...]) -> Environment:
    """Put together what a run is told by."""
    return Environment(
        date=start.date,
        processor=processor(),
        cores=available_cores(),
        threads=threads,
        device=device,
        gpu=gpu,
        system=f"{platform.system()} {platform.machine()}",
        load=start.load,
        versions={"stage": __version__, "Python": platform.python_version(), "torch": version("torch")},
        command=command,
    )
