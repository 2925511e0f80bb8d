"""A picture of one prepared song: its stems' waveforms, with beats and bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stage_cli.core.audio.reading import probe, read_blocks
from stage_cli.core.data.song import FEATURES_FILE, SongFeatures, read_features
from stage_cli.core.pictures import save_png
from stage_cli.errors import StageError

if TYPE_CHECKING:
    pass

PLOT_FILE = "features.png"

_COLUMNS = 2400  # of the picture; each shows the lowest and the highest sample of its time
_STEM_HEIGHT = 0.9  # inches
# Above this many beats a line would stand every few pixels: only the bars are drawn.
_MOST_BEATS = 150


def plot_song(folder: Path) -> Path:
    """Draw the song whose `features.json` lies in a folder; return the PNG file, beside it.

    Raises:
        StageError: the song is not prepared, its audio cannot be read, or matplotlib is missing.
    """
    features = read_features(folder / FEATURES_FILE)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StageError("`plot` needs matplotlib", why=str(error), next_step="pip install matplotlib") from None
    stems = list(features.stems)
    # Not pyplot: it keeps figures, and asks for a display.
    figure = Figure(figsize=(14, 1.2 + _STEM_HEIGHT * len(stems)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(stems), 1, sharex=True, squeeze=False)[:, 0]
    time = np.linspace(0, features.duration, _COLUMNS)
    for stem, panel in zip(stems, panels, strict=True):
        low, high = _envelope([folder / file for file in features.stems[stem].files], features.duration)
        panel.fill_between(time, low, high, color="C0", linewidth=0)
        loudest = max(1e-3, float(np.abs([low, high]).max()))
        panel.set(ylim=(-1.1 * loudest, 1.1 * loudest), yticks=[], xlim=(0, features.duration))
        panel.set_ylabel(_label(features, stem), rotation=0, ha="right", va="center")
        if len(features.rhythm.beats) <= _MOST_BEATS:
            panel.vlines(features.rhythm.beats, *panel.get_ylim(), color="0.6", linewidth=0.5)
        panel.vlines(features.rhythm.downbeats, *panel.get_ylim(), color="C3", linewidth=0.8)
    panels[-1].set_xlabel("seconds")
    panels[0].set_title(_title(features), loc="left")
    save_png(figure, folder / PLOT_FILE)
    return folder / PLOT_FILE


def _envelope(files: list[Path], duration: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest sample of the first channel in each column; tracks of a stem are added up."""
    low, high = np.zeros(_COLUMNS), np.zeros(_COLUMNS)
    for file in files:
        rate, position = probe(file).sample_rate, 0
        lowest, highest = np.zeros(_COLUMNS), np.zeros(_COLUMNS)
        for block in read_blocks(file):
            columns = ((position + np.arange(len(block))) * (_COLUMNS / (duration * rate))).astype(np.int64)
            columns = np.minimum(columns, _COLUMNS - 1)
            starts = np.flatnonzero(np.diff(columns, prepend=-1))
            drawn = columns[starts]
            lowest[drawn] = np.minimum(lowest[drawn], np.minimum.reduceat(block[:, 0], starts))
            highest[drawn] = np.maximum(highest[drawn], np.maximum.reduceat(block[:, 0], starts))
            position += len(block)
        low, high = low + lowest, high + highest
    return low, high


def _label(features: SongFeatures, stem: str) -> str:
    loudness = features.stems[stem].loudness
    return f"{stem.replace('_', ' ')}\n{'silent' if loudness is None else f'{loudness:.0f} LUFS'} "


def _title(features: SongFeatures) -> str:
    rhythm, key = features.rhythm, features.key
    facts = [
        " – ".join(part for part in (features.artist, features.title) if part) or features.song,
        f"{rhythm.bpm:.1f} bpm" if rhythm.bpm else "no beat",
        f"{rhythm.beats_per_bar} beats a bar ({rhythm.bars_confidence:.0%})" if rhythm.beats_per_bar else "no bars",
        f"{key.tonic} {key.scale}" if key else "no key",
        ", ".join(features.genres),
    ]
    # A name may hold a $, which would begin a formula.
    return " · ".join(fact for fact in facts if fact).replace("$", r"\$")
