"""Demos: what the model generates for some validation songs, beside what the songs have there, as audio and pictures.

They take the path of `stage generate` (`core/accompany.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stage_cli.core.accompany import AccompanySettings, accompany
from stage_cli.core.audio.spectra import HOP_SECONDS, PICTURE_BANDS, band_corners, mel_power
from stage_cli.core.audio.writing import AtomicAudioWriter, gain_for, write_scaled
from stage_cli.core.contexts import ArrayContext
from stage_cli.core.data.dataset import Item
from stage_cli.core.files import write_whole
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import forget_recordings
from stage_cli.core.training.losses import evaluating
from stage_cli.core.training.record import AUDIO_PARTS, demo_path
from stage_cli.core.training.settings import ValidateConfig
from stage_cli.core.training.stem_task import StemTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PARTS = ("context", "generated", "target")
_RANGE = 70.0  # dB, from the loudest point of the three down
_COLUMNS = 1600  # of a waveform
_BEAT, _DOWNBEAT, _WAVE = "#56B4E9", "#009E73", "#444444"
_TICKS = (200, 500, 1000, 2000, 5000, 10000)  # Hz


@dataclass(frozen=True, eq=False)
class DemoPicture:
    """What is drawn.

    Attributes:
        title: one line.
        sample_rate: Hz of all audio.
        context: `[samples]`, mono, full scale ±1.
        generated: likewise.
        target: likewise.
        beats: seconds.
        downbeats: seconds, a subset of the beats.
    """

    title: str
    sample_rate: int
    context: np.ndarray
    generated: np.ndarray
    target: np.ndarray
    beats: np.ndarray
    downbeats: np.ndarray

    @property
    def seconds(self) -> float:
        """Length of the longest part."""
        return max(len(self.context), len(self.generated), len(self.target)) / self.sample_rate


def draw_demo(picture: DemoPicture, path: Path) -> None:
    """Draw mel spectrograms and waveforms of context, generated stem and target, as a PNG file.

    All three share one scale of colours and one of heights, so a stem that is too quiet looks too quiet.

    Raises:
        StageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0, w_pad=0.04)
    figure = Figure(figsize=(14, 9), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(6, 1, sharex=True, height_ratios=[1, 3] * 3)
    powers = [mel_power(getattr(picture, part), picture.sample_rate) for part in _PARTS]
    loudest = 10 * np.log10(max(1e-10, *(float(power.max(initial=0)) for power in powers)))
    peak = max(1e-3, *(float(np.abs(getattr(picture, part)).max(initial=0)) for part in _PARTS))
    image = None
    for index, (part, power) in enumerate(zip(_PARTS, powers, strict=True)):
        strip, panel = panels[2 * index], panels[2 * index + 1]
        _draw_waveform(strip, getattr(picture, part), picture.sample_rate)
        strip.set_ylim(-1.05 * peak, 1.05 * peak)
        strip.set_ylabel(part, rotation=0, ha="right", va="center", fontsize=12, fontweight="bold")
        levels = 10 * np.log10(np.maximum(power, 1e-12)) - loudest
        image = panel.imshow(
            levels.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=-_RANGE,
            vmax=0,
            extent=(-HOP_SECONDS / 2, (len(power) - 0.5) * HOP_SECONDS, -0.5, PICTURE_BANDS - 0.5),
        )
        _label_frequencies(panel, picture.sample_rate)
        _draw_beats(strip, panel, picture)
        panel.set_xlim(0, picture.seconds)
    panels[-1].set_xlabel("seconds (thin lines: beats, thick lines: downbeats)")
    if image is not None:
        figure.colorbar(image, ax=list(panels), pad=0.01, fraction=0.02, aspect=60, label="dB below the loudest point")
    # A name may hold a $, which would begin a formula.
    figure.suptitle(picture.title.replace("$", r"\$"), x=0.01, ha="left", fontsize=13)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def _draw_waveform(strip: Axes, audio: np.ndarray, sample_rate: int) -> None:
    """Draw the lowest and the highest sample of each column."""
    if len(audio):
        starts = np.unique(np.linspace(0, len(audio), min(_COLUMNS, len(audio)), endpoint=False).astype(np.int64))
        low, high = np.minimum.reduceat(audio, starts), np.maximum.reduceat(audio, starts)
        strip.fill_between(starts / sample_rate, low, high, color=_WAVE, linewidth=0.3, step="post")
    strip.set_yticks([])
    strip.spines[["top", "right", "left", "bottom"]].set_visible(False)
    strip.tick_params(bottom=False)


def _draw_beats(strip: Axes, panel: Axes, picture: DemoPicture) -> None:
    """Draw the beats over a waveform, and fainter over its spectrogram, where they would hide what falls on them."""
    for axes, alpha in ((strip, 1.0), (panel, 0.55)):
        for times, colour, width in ((picture.beats, _BEAT, 0.7), (picture.downbeats, _DOWNBEAT, 1.5)):
            axes.vlines(times, 0, 1, transform=axes.get_xaxis_transform(), color=colour, linewidth=width, alpha=alpha)


def _label_frequencies(panel: Axes, sample_rate: int) -> None:
    centres = band_corners(sample_rate)[1:-1]
    shown = [hertz for hertz in _TICKS if hertz < sample_rate / 2]
    panel.set_yticks(np.interp(shown, centres, np.arange(PICTURE_BANDS)))
    panel.set_yticklabels([f"{hertz // 1000}k" if hertz >= 1000 else str(hertz) for hertz in shown])
    panel.set_ylabel("Hz")


class Demos:
    """Write demos of the same items again and again, from the weights of the moment.

    Args:
        task: what is trained.
        validate: how many, guidance, temperature, top-k, seed.
        items: of different songs, their contexts as long as their targets; asked for once.
    """

    def __init__(self, task: StemTask, validate: ValidateConfig, items: Callable[[], Sequence[Item]]) -> None:
        self.task = task
        self.config = GenerationConfig(
            guidance=validate.demo_guidance,
            temperature=validate.demo_temperature,
            top_k=validate.demo_top_k,
            seed=validate.seed,
        )
        self._items = items
        self._read: Sequence[Item] | None = None

    def write(self, folder: Path, step: int, check: Callable[[], None] = lambda: None) -> tuple[Path, ...]:
        """Generate, and write the audio and the picture of each demo.

        The weights are taken as they are, in fp32 and not in the precision of the training's forward pass.

        Args:
            folder: made if it does not exist; files of these names are replaced.
            step: of the weights, for the titles.
            check: called before each frame; what it raises ends the work.

        Returns:
            The files.

        Raises:
            StageError: a song cannot be read, the model returns samples that are no numbers, or a file cannot be
                written.
            DeviceError: out of memory.
        """
        paths: list[Path] = []
        with torch.no_grad(), evaluating(self.task.module), _any_algorithm():
            if self._read is None:
                self._read = self._items()
            for number, item in enumerate(self._read, 1):
                generated = self._generate(item, check)
                sounds = _sounds(item, generated)
                for part in AUDIO_PARTS:
                    paths.append(demo_path(folder, number, part))
                    _write_audio(paths[-1], sounds[part], self._sample_rate)
                paths.append(demo_path(folder, number, "picture"))
                draw_demo(self._picture(item, sounds, step), paths[-1])
        forget_recordings(self.task.model.lm)  # the training needs its memory more
        return tuple(paths)

    @property
    def _sample_rate(self) -> int:
        return self.task.model.config.codec.sample_rate

    def _generate(self, item: Item, check: Callable[[], None]) -> np.ndarray:
        """Generate the stem for an item's context: `[samples]` float32."""
        settings = AccompanySettings(
            self.config,
            description=(item.description.strip() or None) if self.task.model.config.takes_text else None,
        )
        (stem,) = accompany(
            self.task.model, ArrayContext(item.context, self._sample_rate), settings, lambda *_: check()
        )
        return stem.audio

    def _picture(self, item: Item, sounds: dict[str, np.ndarray], step: int) -> DemoPicture:
        heard = f"mix of {', '.join(item.context_stems)}" if item.context_kind == "mix" else item.context_kind
        stems = f"{item.stem} · context: {heard}".replace("_", " ")
        return DemoPicture(
            title=f"{item.song} from {item.start:.1f} s · {stems} · step {step:,}",
            sample_rate=self._sample_rate,
            context=sounds["context"],
            generated=sounds["generated"],
            target=sounds["target"],
            beats=item.beats,
            downbeats=item.downbeats,
        )


def _sounds(item: Item, generated: np.ndarray) -> dict[str, np.ndarray]:
    """All parts of a demo; the mix is as loud as its parts together, which may be above full scale."""
    mix = np.zeros(max(len(item.context), len(generated)), dtype=np.float32)
    mix[: len(item.context)] += item.context
    mix[: len(generated)] += generated
    return {"context": item.context, "generated": generated, "mix": mix, "target": item.target}


def _write_audio(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write a FLAC file; what is too loud is turned down."""
    gain = gain_for(float(np.abs(samples).max(initial=0.0)))
    with AtomicAudioWriter(path, sample_rate, 1, "flac", overwrite=True, frames=len(samples)) as writer:
        write_scaled([samples], writer, gain)


@contextmanager
def _any_algorithm() -> Generator[None]:
    """Allow algorithms that need not give the same bits each time: of those that draw tokens, CUDA has no other."""
    if not torch.are_deterministic_algorithms_enabled():  # torch imports its compiler even to switch nothing: seconds
        yield
        return
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warns)
