"""On what a figure was measured: it means nothing without. Imports no torch.

What a run of `stage bench` has found. Imports no torch.

A picture of what a song costs by its length: seconds of compute, and memory.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from stage_cli import __version__
from stage_cli.core.machine import available_cores, load_average, processor
from stage_cli.core.pictures import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


@dataclass(frozen=True)
class Measured:
    """One figure, as it came out in each round.

    Attributes:
        values: one a round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The lowest of the rounds."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest of the rounds."""
        return max(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"median": self.median, "low": self.low, "high": self.high, "values": list(self.values)}


Figures = Mapping[str, Measured]


@dataclass(frozen=True)
class PrecisionResult:
    """What one precision costs.

    Attributes:
        precision: of the language model.
        figures: `loading_seconds`; of one window of the model `encode_seconds`, `prefill_seconds` (to the first
            tokens), `step_seconds`, `decode_seconds`; of the audio that is written `total_seconds`, `real_time`
            (seconds of audio a second), `speed_ratio` (to the first precision); if there are variations
            `variations_seconds` and `variations_ratio` (to one); `resident_bytes`, on CUDA `cuda_bytes`, and with
            variations both of them headed by `variations_`.
    """

    precision: str
    figures: Figures


@dataclass(frozen=True)
class LengthResult:
    """What a song of one length costs in one precision.

    Attributes:
        precision: of the language model.
        length: seconds of audio.
        figures: `total_seconds`, `real_time`, `time_ratio` (time for a second of audio, to the shortest length's),
            `memory_ratio` (to the shortest length's), `resident_bytes`, and on CUDA `cuda_bytes`.
    """

    precision: str
    length: float
    figures: Figures


@dataclass(frozen=True)
class BenchResult:
    """Everything that a run has found.

    Attributes:
        environment: on what it was measured.
        model: its name.
        parameters: of the language model.
        window_seconds: of the model.
        guidance: that it is drawn with; 1 is off.
        duration: seconds of audio that were written.
        variations: that were measured beside one.
        repeats: rounds.
        precisions: in the order of the options.
        lengths: for each precision, the shortest first.
    """

    environment: Environment
    model: str
    parameters: int
    window_seconds: float
    guidance: float
    duration: float
    variations: int
    repeats: int
    precisions: tuple[PrecisionResult, ...]
    lengths: tuple[LengthResult, ...]


# Okabe and Ito's colours, which those with colour-blindness can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw_lengths(result: BenchResult, path: Path) -> None:
    """Draw time and memory over the lengths, a line for each precision, as a PNG file.

    Raises:
        StageError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps figures, and asks for a display.
    figure = Figure(figsize=(11, 4.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2, sharex=True)
    time.set_title("seconds of compute", loc="left", fontsize=11)
    memory.set_title("peak memory, GB", loc="left", fontsize=11)
    precisions = list(dict.fromkeys(found.precision for found in result.lengths))
    for precision, colour in zip(precisions, _COLOURS, strict=False):
        found = [length for length in result.lengths if length.precision == precision]
        _draw(time, found, lambda length: length.figures["total_seconds"], 1.0, colour)
        _draw(memory, found, _peak, 1e-9, colour)
        shortest, longest = found[0], found[-1]
        per_second = shortest.figures["total_seconds"].median / shortest.length
        label = f"proportional to that of {shortest.length:g} s" if precision == precisions[-1] else None
        time.plot([0, longest.length], [0, per_second * longest.length], ":", color="0.5", linewidth=1, label=label)
    for panel in (time, memory):
        panel.set_xlabel("length of the song, seconds")
        panel.set_xlim(0, 1.03 * max(found.length for found in result.lengths))
        panel.set_ylim(0, 1.15 * panel.dataLim.ymax)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)
    environment = result.environment
    title = f"{result.model} · {environment.gpu or environment.processor} · {environment.date[:10]}"
    # A name may hold a $, which would begin a formula.
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=12)
    save_png(figure, path)


def _draw(
    panel: Axes, found: Sequence[LengthResult], of: Callable[[LengthResult], Measured | None], unit: float, colour: str
) -> None:
    """Draw the medians, with a bar from the lowest to the highest round."""
    known = [(length, figure) for length in found if (figure := of(length)) is not None]
    if not known:
        return
    middle = [unit * figure.median for _, figure in known]
    below = [unit * (figure.median - figure.low) for _, figure in known]
    above = [unit * (figure.high - figure.median) for _, figure in known]
    panel.errorbar(
        [length.length for length, _ in known],
        middle,
        yerr=(below, above),
        color=colour,
        linewidth=1.8,
        marker="o",
        markersize=4,
        capsize=3,
        label=known[0][0].precision,
    )


def _peak(found: LengthResult) -> Measured | None:
    return found.figures.get("cuda_bytes", found.figures.get("resident_bytes"))
