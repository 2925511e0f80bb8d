"""A picture of what a song costs by its length: seconds of compute, and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stage_cli.core.bench.results import BenchResult, LengthResult, Measured
from stage_cli.core.pictures import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
