"""Draw the README's example: its context, what a model wrote to it, and the song's own stem.

    stage demo-data example --songs 8 --seconds 10 --seed 3 --sounds synth
    stage prepare-data example --beats annotations
    stage generate --context docs/audio/example.flac --stem drums --seed 1 --format flac --output docs/audio/written
    uv run python docs/scripts/make_example.py example docs/audio/example.flac drums \
        docs/audio/written/example.drums.flac docs/images/example-drums.png

The song is the one whose other stems are the context.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

from stage_cli.core.audio.chunks import resample
from stage_cli.core.data.index import IndexedSong, find_songs

RATE = 32000
SAME = 0.99  # correlation


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", help="folder of prepared songs, one of which the context was made of")
    parser.add_argument("context", type=Path)
    parser.add_argument("stem")
    parser.add_argument("written", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    heard = load(options.context)
    for song in find_songs((options.songs,)):
        others = np.sum([read(song, stem) for stem in song.stems if stem != options.stem], axis=0)
        if others.shape == heard.shape and np.corrcoef(others, heard)[0, 1] > SAME:
            print(f"{options.context} is {song.id}")
            draw(song, options.stem, options.context, options.written, options.output)
            return
    parser.error(f"{options.context} was made of none of the songs in {options.songs}")


def read(song: IndexedSong, stem: str) -> np.ndarray:
    """Read a whole stem."""
    return resample(song.read(stem, 0.0, song.duration), song.sample_rate, RATE)


def draw(song: IndexedSong, stem: str, context: Path, written: Path, output: Path) -> None:
    """Draw three log-mel spectrograms with the song's beats."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from stage_cli.core.training.codec_task import mel_filters, spectra

    rows = [("context", load(context)), ("written", load(written)), ("true", read(song, stem))]
    figure, axes = plt.subplots(3, 1, figsize=(10, 6.2), sharex=True, layout="constrained")
    for axis, (title, audio) in zip(axes, rows, strict=True):
        power = spectra(torch.from_numpy(audio)[None].float(), 1024)[0].abs() @ mel_filters(1024, 80, RATE)
        decibels = 20 * power.clamp(min=1e-5).log10().numpy().T
        top = float(decibels.max())
        seconds = len(audio) / RATE
        axis.imshow(
            decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, 80), vmin=top - 70, vmax=top, cmap="magma"
        )
        axis.vlines(song.beats, 0, 4, color="white", linewidth=0.8)
        axis.set_ylabel(f"{title}\nmel band")
    axes[-1].set_xlabel("seconds; white ticks: the song's beats")
    figure.savefig(output, dpi=80)


def load(path: Path) -> np.ndarray:
    """Read a file as mono."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(audio.mean(axis=1), rate, RATE)


if __name__ == "__main__":
    main()
