"""What a run leaves behind to be read: metrics, TensorBoard, W&B, curves, and the card of its model.

What the files of a validation's demos are called, for those who write them and those who show them.

`metrics.jsonl`: every number of a run, one JSON object a line.

TensorBoard: the numbers of a run, and its demos to be heard and seen.

Weights & Biases, where the user asks for it.

`curves.png`: the losses of a run, and whether its model hears the context, in one picture.

Everything that is written about a run while it goes, behind one function that takes events.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stage_cli.core.files import cannot_write, display_name, write_text, write_whole
from stage_cli.core.pictures import save_png
from stage_cli.core.training.events import Event, Finished, Interrupted, Logged, Started, Validated
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.toml import to_dict, to_toml
from stage_cli.errors import StageError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DEMOS_FOLDER = "demos"
AUDIO_PARTS: tuple[str, ...] = ("context", "generated", "mix", "target")
"""The audio of a demo: what was given, what was written, both together, and what the song really has there."""

UNCHANGING_PARTS = frozenset({"context", "target"})
"""Parts that are the same in every validation, as its items are."""

_NAME = re.compile(r"(\d+)\.(?:(\w+)\.flac|png)")


@dataclass(frozen=True)
class DemoFile:
    """One file of a demo.

    Attributes:
        number: of the demo, from 1.
        part: one of `AUDIO_PARTS`, or "picture".
        path: of the file.
    """

    number: int
    part: str
    path: Path

    @property
    def name(self) -> str:
        """What it is called where all demos are shown together."""
        return f"demos/{self.number:02d}/{self.part}"


def demo_folder(run: Path, step: int) -> Path:
    """Return the folder for the demos of a step."""
    return run / DEMOS_FOLDER / f"step-{step:08d}"


def demo_path(folder: Path, number: int, part: str) -> Path:
    """Return the path of one file of a demo."""
    return folder / (f"{number:02d}.png" if part == "picture" else f"{number:02d}.{part}.flac")


def demo_files(paths: Iterable[Path]) -> list[DemoFile]:
    """Tell what files are, by their names; others are left out."""
    matches = [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [DemoFile(int(match[1]), match[2] or "picture", path) for path, match in matches]


METRICS_FILE = "metrics.jsonl"
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class MetricsLine:
    """One line.

    Attributes:
        step: of the optimizer, after which the numbers were taken.
        kind: "train" (means since the line before) or "validation".
        metrics: by name; NaN where the file says null, for JSON has no other numbers.
        time: seconds since 1970.
    """

    step: int
    kind: str
    metrics: dict[str, float]
    time: float

    def to_json(self) -> str:
        """The line, without its end."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return json.dumps({"step": self.step, "kind": self.kind, "metrics": metrics, "time": self.time})


class MetricsFile:
    """Append a line for each `Logged` and each `Validated`; start or go on at `Started`.

    A line is written by one call of the system, so a process that is killed leaves no more than its last line half
    written. What a run that was stopped wrote after its last checkpoint is cut off when it is resumed: the file then
    goes on like that of a run that was never stopped.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            StageError: the file cannot be written.
        """
        if isinstance(event, Started):
            self.cut_after(event.resumed_from)
        elif isinstance(event, Logged):
            self.append(event.step, TRAIN, event.metrics)
        elif isinstance(event, Validated):
            self.append(event.step, VALIDATION, event.metrics)

    def append(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """Write one line; whoever reads the file sees it at once.

        Raises:
            StageError: the file cannot be written.
        """
        line = MetricsLine(step, kind, dict(metrics), round(time.time(), 3))
        data = line.to_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                length = file.tell()
                if file.write(data) != len(data):  # a full disk takes a part
                    file.truncate(length)
                    raise OSError("the disk is full")
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def cut_after(self, step: int | None) -> None:
        """Leave out the lines after a step, and a last line that was never finished; None leaves out all lines.

        Raises:
            StageError: the file cannot be read or written.
        """
        if not self.path.exists():
            return
        kept = b"".join(raw for raw, line in _lines(self.path) if step is not None and line.step <= step)
        if len(kept) != self.path.stat().st_size:
            write_whole(self.path, lambda temporary: temporary.write_bytes(kept))

    def close(self) -> None:
        """Do nothing: no file is left open between two lines."""


def read_metrics(path: Path) -> list[MetricsLine]:
    """Read a `metrics.jsonl`; a last line that was never finished is left out, and no file has no lines.

    Raises:
        StageError: the file cannot be read, or is damaged before its last line.
    """
    return [line for _, line in _lines(path)] if path.exists() else []


def _lines(path: Path) -> Iterator[tuple[bytes, MetricsLine]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    raws = data.splitlines(keepends=True)
    for number, raw in enumerate(raws, 1):
        try:
            if not raw.endswith(b"\n"):
                raise ValueError("it is not finished")
            yield raw, _parse(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(raws):
                return
            raise StageError(
                f"{display_name(path)} is damaged in line {number}",
                why=str(error),
                next_step="take that line out, or move the file away: training does not need it",
            ) from None


def _parse(raw: bytes) -> MetricsLine:
    values = json.loads(raw)
    metrics = {str(name): math.nan if value is None else float(value) for name, value in values["metrics"].items()}
    return MetricsLine(int(values["step"]), str(values["kind"]), metrics, float(values["time"]))


TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """Write TensorBoard's event files.

    What a run that was stopped wrote after its last checkpoint is marked as void when it is resumed, so that no curve
    runs twice over the same steps.

    Args:
        folder: of the event files.
        recipe: the run's TOML, shown as text.
    """

    def __init__(self, folder: Path, recipe: str = "") -> None:
        self.folder = folder
        self.recipe = recipe
        self._writer: Any = None
        self._shown: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            OSError: the files cannot be written.
        """
        if isinstance(event, Started):
            self._open(event.resumed_from)
        elif isinstance(event, Logged | Validated) and self._writer is not None:
            for name, value in event.metrics.items():
                self._writer.add_scalar(name, value, event.step)
            if isinstance(event, Validated):
                for file in demo_files(event.demos):
                    self._show(file, event.step)
                self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, resumed_from: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first = 0 if resumed_from is None else resumed_from + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=first)
        if self.recipe:
            self._writer.add_text("recipe", "\n".join(f"    {line}" for line in self.recipe.splitlines()), first)

    def _show(self, file: DemoFile, step: int) -> None:
        if file.part in UNCHANGING_PARTS:
            if file.name in self._shown:
                return
            self._shown.add(file.name)
        if file.part == "picture":
            from matplotlib.image import imread

            self._writer.add_image(file.name, imread(file.path)[..., :3], step, dataformats="HWC")
        else:
            import soundfile

            audio, sample_rate = soundfile.read(file.path, dtype="float32")
            self._writer.add_audio(file.name, audio, step, sample_rate=sample_rate)


WANDB_ID_FILE = "wandb_id"

_INSTALL = "pip install 'stage-cli[wandb]'"


class WeightsAndBiases:
    """Send numbers and demos to Weights & Biases; with WANDB_MODE=offline they are kept in RUN/wandb.

    A resumed run goes on under the id that RUN/wandb_id holds. The steps are a number of their own, "step", for a run
    that was resumed goes back to that of its checkpoint, and W&B's own steps cannot.

    Args:
        run: the run's directory.
        project: the project's name.
        name: the run's.
        config: all settings of the run.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, run: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                "log.wandb = true needs the package wandb", why=str(error), next_step=f"{_INSTALL}, or set it to false"
            ) from None
        self.directory = run
        self.project = project
        self.name = name
        self.config = dict(config)
        self._wandb: Any = wandb
        self._run: Any = None
        self._shown: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            StageError: W&B refuses.
        """
        with self._as_ours():
            if isinstance(event, Started):
                self._open(event)
            elif isinstance(event, Logged | Validated) and self._run is not None:
                self._run.log({"step": event.step, **event.metrics, **self._demos(event)})

    def close(self) -> None:
        """Wait until everything is sent, or written.

        Raises:
            StageError: W&B fails.
        """
        if self._run is not None:
            with self._as_ours():
                self._run.finish()
            self._run = None

    @contextmanager
    def _as_ours(self) -> Generator[None]:
        """Turn W&B's errors into ours."""
        try:
            yield
        # ValueError: a WANDB_… variable that is not allowed.
        except (self._wandb.Error, ValueError) as error:
            raise _unusable(str(error).strip() or type(error).__name__) from None

    def _open(self, event: Started) -> None:
        """Begin a run, or go on with one."""
        id_file = self.directory / WANDB_ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else ""
        self.directory.mkdir(parents=True, exist_ok=True)
        # It neither speaks nor listens: the terminal is the command line's.
        settings = self._wandb.Settings(silent=True, console="off")
        self._check_login(settings)
        self._run = self._wandb.init(
            project=self.project,
            name=self.name,
            id=(known or None) if event.resumed_from is not None else None,
            resume="allow",
            dir=str(self.directory),
            config={**self.config, "summary": dict(event.summary)},
            settings=settings,
        )
        write_text(id_file, f"{self._run.id}\n")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _check_login(self, settings: Any) -> None:
        """Refuse to go online without a login, for which W&B would ask in the terminal."""
        online = self._wandb.setup(settings).settings.mode not in ("offline", "disabled", "dryrun")
        can_tell = "prompt" in inspect.signature(self._wandb.login).parameters
        if online and can_tell and not self._wandb.login(prompt=False):
            raise _unusable("you are not logged in")

    def _demos(self, event: Logged | Validated) -> dict[str, Any]:
        """Demos as W&B shows them; what never changes is sent once."""
        if not isinstance(event, Validated):
            return {}
        shown = {}
        for file in demo_files(event.demos):
            if file.part in UNCHANGING_PARTS and file.name in self._shown:
                continue
            self._shown.add(file.name)
            kind = self._wandb.Image if file.part == "picture" else self._wandb.Audio
            shown[file.name] = kind(str(file.path))
        return shown


def _unusable(why: str) -> StageError:
    return StageError(
        "Weights & Biases cannot be used",
        why=why,
        next_step="log in with `wandb login`, set WANDB_MODE=offline, or set log.wandb to false",
    )


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
    save_png(figure, path)


def _draw_training_loss(panel: Axes, lines: Sequence[MetricsLine]) -> None:
    panel.set_title("training loss", loc="left", fontsize=11)
    steps, loss = _series(lines, "loss")
    if not len(steps):
        _write_line(panel, "no step yet")
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
        _write_line(panel, "no validation yet")
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
        _write_line(panel, "no validation yet")
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
        _write_line(panel, "no step yet")
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


def _write_line(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color="0.5")
    panel.set_yticks([])


class Sink(Protocol):
    """Something that takes the events of a run."""

    def on_event(self, event: Event) -> None:
        """Take an event."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class Record:
    """The sinks that a run's `[log]` table asks for; only the main process has one.

    A sink that fails at `Started` stops the run: what the user asked for cannot be had. One that fails later is put
    aside with a note, for hours of training are worth more than a picture. `metrics.jsonl` is no such sink: where it
    cannot be written, no checkpoint could be, and the run stops.

    Args:
        config: the run's.
        on_note: takes what the user should know.

    Raises:
        UsageError: W&B is asked for and not installed.
    """

    def __init__(self, config: TrainingConfig, *, on_note: Callable[[str], None] = lambda _: None) -> None:
        run, log = config.directory, config.log
        self.on_note = on_note
        self._metrics = MetricsFile(run / METRICS_FILE)
        self._sinks: list[Sink] = []
        if log.tensorboard:
            self._sinks.append(TensorBoard(run / TENSORBOARD_FOLDER, to_toml(config)))
        if log.wandb:
            self._sinks.append(WeightsAndBiases(run, log.wandb_project, config.name, to_dict(config)))
        if log.curves:
            self._sinks.append(Curves(run / METRICS_FILE, run / CURVES_FILE, config.name))

    def on_event(self, event: Event) -> None:
        """Pass an event on to all sinks.

        Raises:
            StageError: `metrics.jsonl` cannot be written, or a sink cannot be opened.
        """
        self._metrics.on_event(event)
        for sink in list(self._sinks):
            self._guarded(sink, lambda sink=sink: sink.on_event(event), is_opening=isinstance(event, Started))

    def close(self) -> None:
        """Finish writing; call it however the run ends."""
        for sink in list(self._sinks):
            self._guarded(sink, sink.close, is_opening=False)
        self._sinks.clear()

    def _guarded(self, sink: Sink, action: Callable[[], None], *, is_opening: bool) -> None:
        """Let a sink act; put it aside if it fails."""
        name = type(sink).__name__
        try:
            action()
        except (StageError, OSError) as error:
            if is_opening:
                if isinstance(error, StageError):
                    raise
                raise StageError(f"{name} cannot be started", why=error.strerror or str(error)) from None
            self._sinks.remove(sink)
            self.on_note(f"{name} is off from now on: {error}")
