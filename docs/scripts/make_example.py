"""Make the README's example: the mix of a demo song without one stem, and a picture of context, written and true stem.

stage demo-data example --songs 1 --seconds 14 --seed 4242 --sounds soundfont --tempo-changes never
stage prepare-data example --beats annotations
uv run python docs/scripts/make_example.py context example docs/audio/song.flac
stage generate --context docs/audio/song.flac --stem drums --seed 1 --format flac
uv run python docs/scripts/make_example.py picture example docs/audio/song.flac drums docs/audio/song.drums.flac \
        docs/audio/song.drums.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

from stage_cli.core.data.audio_chunks import resample
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.indexed_song import IndexedSong

RATE = 32000


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    context = commands.add_parser("context")
    context.add_argument("songs")
    context.add_argument("output", type=Path)
    context.add_argument("--without", nargs="+", default=["drums", "percussion"])
    picture = commands.add_parser("picture")
    picture.add_argument("songs")
    picture.add_argument("context", type=Path)
    picture.add_argument("stem")
    picture.add_argument("written", type=Path)
    picture.add_argument("output", type=Path)
    options = parser.parse_args()
    song = find_songs((options.songs,))[0]
    if options.command == "context":
        stems = [stem for stem in song.stems if stem not in options.without]
        mix = np.sum([read(song, stem) for stem in stems], axis=0)
        soundfile.write(options.output, mix * (0.7 / np.abs(mix).max()), RATE, subtype="PCM_16")
        print(f"{options.output}: {', '.join(stems)}; {song.duration:g} s")
        return
    draw(song, options.stem, options.context, options.written, options.output)


def read(song: IndexedSong, stem: str) -> np.ndarray:
    """Read a whole stem."""
    return resample(song.read(stem, 0.0, song.duration), song.sample_rate, RATE)


def draw(song: IndexedSong, stem: str, context: Path, written: Path, output: Path) -> None:
    """Draw three log-mel spectrograms with the song's beats."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from stage_cli.core.training.codec.losses import mel_filters, spectra

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
