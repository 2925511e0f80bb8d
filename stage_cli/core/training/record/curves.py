"""`curves.png`: the losses of a run, and whether its model hears the context, in one picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stage_cli.core.training.engine.events import Event, Finished, Interrupted, Validated
from stage_cli.core.training.record.metrics_file import TRAIN, VALIDATION, MetricsLine, read_metrics
from stage_cli.core.training.record.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"

# Okabe and Ito's colours, which those with colour-blindness can tell apart.
_BLUE, _ORANGE, _GREEN, _PURPLE, _BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222"
_KINDS = {"mix": _GREEN, "metronome": _PURPLE}
_CODEBOOK = re.compile(r"loss/codebook_(\d+)")
# A point of the smooth line is the mean of this share of all points around it.
_SMOOTHING = 1 / 40
_FEWEST_TO_SMOOTH = 20


class Curves:
    """Draw `curves.png` anew at each validation and at the end.

    Args:
        metrics: the run's `metrics.jsonl`.
        path: of the picture.
        title: of the picture.
    """

    def __init__(self, metrics: Path, path: Path, title: str) -> None:
        self.metrics = metrics
        self.path = path
        self.title = title

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            StageError: the metrics cannot be read, or the picture cannot be written.
        """
        if isinstance(event, Validated | Finished | Interrupted):
            draw_curves(read_metrics(self.metrics), self.path, self.title)

    def close(self) -> None:
        """Do nothing: no file is left open between two pictures."""


def draw_curves(lines: Sequence[MetricsLine], path: Path, title: str) -> None:
    """Draw losses, context gap and learning rate over the steps, as a PNG file.

    Raises:
        StageError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps figures, and asks for a display.
    figure = Figure(figsize=(13, 8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    train = [line for line in lines if line.kind == TRAIN]
    validation = [line for line in lines if line.kind == VALIDATION]
    _draw_training_loss(panels[0, 0], train)
    _draw_validation_loss(panels[0, 1], validation)
    _draw_context_gap(panels[1, 0], validation)
    _draw_learning_rate(panels[1, 1], train)
    last = max((line.step for line in lines), default=0)
    for panel in panels.flat:
        panel.set_facecolor("white")
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(0, 1.01 * max(last, 1))
        panel.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        if panel.get_legend_handles_labels()[0]:
            # "best" compares each point with each place: too slow for as many points.
            place = "upper right" if panel is panels[0, 0] else "best"
            panel.legend(loc=place, framealpha=0.9, edgecolor="none", fontsize=9)
    for panel in panels[1]:
        panel.set_xlabel("step")
    # A name may hold a $, which would begin a formula.
    figure.suptitle(f"{title} · step {last:,}".replace("$", r"\$"), x=0.01, ha="left", fontsize=13)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _draw_training_loss(panel: Axes, lines: Sequence[MetricsLine]) -> None:
    panel.set_title("training loss", loc="left", fontsize=11)
    steps, loss = _series(lines, "loss")
    if not len(steps):
        _say(panel, "no step yet")
        return
    drawn = []
    for name, colour in _codebooks(lines):
        at, values = _series(lines, name)
        drawn.append(_line(panel, at, values, colour, name.removeprefix("loss/").replace("_", " "), width=1.2))
    drawn.append(_line(panel, steps, loss, _BLACK, "all codebooks, as weighted", width=2.2, points=True))
    low, high = min(float(line.min()) for line in drawn), max(float(line.max()) for line in drawn)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    panel.set_ylim(low - margin, high + margin)  # single bad batches do not squeeze the rest


def _draw_validation_loss(panel: Axes, lines: Sequence[MetricsLine]) -> None:
    panel.set_title("validation loss", loc="left", fontsize=11)
    steps, loss = _series(lines, "validation/loss")
    if not len(steps):
        _say(panel, "no validation yet")
        return
    shuffled_steps, shuffled = _series(lines, "validation/loss_shuffled_context")
    if len(shuffled_steps):
        panel.plot(shuffled_steps, shuffled, color=_ORANGE, linewidth=1.8, marker="o", markersize=3, linestyle="--")
        panel.lines[-1].set_label("with another song's context")
        if np.array_equal(steps, shuffled_steps):
            panel.fill_between(steps, loss, shuffled, color=_ORANGE, alpha=0.1, linewidth=0)
    panel.plot(steps, loss, color=_BLUE, linewidth=2.2, marker="o", markersize=3, label="with its own context")
    best = int(np.argmin(loss))
    label = f"best: {loss[best]:.3f} at step {steps[best]:,}"
    panel.plot(steps[best], loss[best], "o", color="none", markeredgecolor=_BLUE, markersize=11, label=label)


def _draw_context_gap(panel: Axes, lines: Sequence[MetricsLine]) -> None:
    panel.set_title("context gap: how much worse with another song's context", loc="left", fontsize=11)
    steps, gap = _series(lines, "validation/context_gap")
    if not len(steps):
        _say(panel, "no validation yet")
        return
    panel.axhline(0, color="0.5", linewidth=1)
    for kind, colour in _KINDS.items():
        at, values = _series(lines, f"validation/context_gap/{kind}")
        if len(at):
            panel.plot(at, values, color=colour, linewidth=1.3, marker="o", markersize=2.5, label=kind)
    label = f"all: {gap[-1]:.3f} at step {steps[-1]:,} (0: the context is not heard)"
    panel.plot(steps, gap, color=_BLACK, linewidth=2.2, marker="o", markersize=3, label=label)


def _draw_learning_rate(panel: Axes, lines: Sequence[MetricsLine]) -> None:
    panel.set_title("learning rate", loc="left", fontsize=11)
    names = sorted({name for line in lines for name in line.metrics if name.startswith("learning_rate")})
    highest = 0.0
    for name, colour in zip(names, (_BLUE, _ORANGE, _GREEN, _PURPLE), strict=False):
        steps, values = _series(lines, name)
        panel.plot(steps, values, color=colour, linewidth=1.8)
        if len(names) > 1:
            panel.lines[-1].set_label(name.removeprefix("learning_rate").strip("/_") or "others")
        highest = max(highest, float(values.max(initial=0)))
    if not highest:
        _say(panel, "no step yet")
        return
    panel.set_ylim(0, 1.1 * highest)
    panel.yaxis.set_major_formatter(lambda rate, _: f"{rate:.3g}")


def _series(lines: Iterable[MetricsLine], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one number, where it is finite."""
    points = [(line.step, line.metrics[name]) for line in lines if np.isfinite(line.metrics.get(name, np.nan))]
    return np.array([step for step, _ in points], dtype=np.int64), np.array([value for _, value in points])


def _codebooks(lines: Sequence[MetricsLine]) -> list[tuple[str, tuple[float, ...]]]:
    """Names of the codebooks' losses, each with a colour: the first one dark, the last one light."""
    from matplotlib import colormaps

    names = {name for line in lines for name in line.metrics if _CODEBOOK.fullmatch(name)}
    ordered = sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    shades = np.linspace(0.1, 0.8, len(ordered))
    return [(name, colormaps["viridis"](shade)) for name, shade in zip(ordered, shades, strict=True)]


def _line(
    panel: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    colour: str | tuple[float, ...],
    label: str,
    *,
    width: float,
    points: bool = False,
) -> np.ndarray:
    """Draw a smooth line, and with `points` faintly what was smoothed; return the smooth values."""
    smooth = smoothed(values)
    if points and len(values) >= _FEWEST_TO_SMOOTH:
        panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
    panel.plot(steps, smooth, color=colour, linewidth=width, label=label)
    return smooth


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the means `[n]` of the values around each; at the ends of as many as there are. Few stay as they are."""
    half = int(len(values) * _SMOOTHING / 2) if len(values) >= _FEWEST_TO_SMOOTH else 0
    if not half:
        return values
    sums = np.cumsum(np.concatenate([[0.0], values]))
    places = np.arange(len(values))
    first, end = np.maximum(0, places - half), np.minimum(len(values), places + half + 1)
    return (sums[end] - sums[first]) / (end - first)


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color="0.5")
    panel.set_yticks([])
