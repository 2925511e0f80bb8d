"""Measure how loud a stem is beside the rest of its song, and how loud a player's is: `BALANCE` of the players.

    stage demo-data songs --songs 24 --seconds 30 --seed 8001 --sounds mixed
    uv run python tests/benchmarks/stem_balance.py songs [--stem drums] [--player player-drums] [--songs 24]

The rest is measured as players hear it: in mono, from two speakers.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.players.accompanist import StagePlayer


def read(paths: list[Path]) -> tuple[np.ndarray, int]:
    """Return the sum of files, `[frames, 2]`, and their rate."""
    parts = [soundfile.read(path, dtype="float32", always_2d=True) for path in paths]
    frames = max(len(audio) for audio, _ in parts)
    total = np.zeros((frames, 2), dtype=np.float32)
    for audio, _ in parts:
        total[: len(audio)] += audio
    return total, parts[0][1]


def loudness(audio: np.ndarray, rate: int) -> float:
    """Return LUFS."""
    meter = LoudnessMeter(rate, audio.shape[1])
    meter.push(audio)
    return meter.integrated


def main() -> None:
    """Print a line for each song, then medians and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stem", default="drums")
    parser.add_argument("--player")
    parser.add_argument("--songs", type=int, default=24)
    options = parser.parse_args()
    player = StagePlayer.from_pretrained(options.player) if options.player else None
    true, played = [], []
    for song in sorted(path.parent for path in options.folder.glob("*/data.json"))[: options.songs]:
        # Beside the stems lie folders of their sums.
        stems = [path for path in sorted(song.glob("*/*.wav")) if not path.parent.name.endswith("_mixed")]
        own = [path for path in stems if path.parent.name == options.stem]
        rest = [path for path in stems if path.parent.name != options.stem]
        if not own or not rest:
            continue
        context, rate = read(rest)
        mono = context.mean(axis=1)
        beside = loudness(mono[:, None], rate) + 10 * math.log10(2)
        true.append(loudness(read(own)[0], rate) - beside)
        line = f"{song.name}: {options.stem} {true[-1]:+.1f} LU"
        if player is not None:
            stem = player.accompany(mono, sample_rate=rate, seed=1)
            played.append(stem.loudness + stem.turned_down - beside)
            line += f", player {played[-1]:+.1f} LU, {len(stem.notes)} notes"
        print(line, flush=True)
    for name, values in ((options.stem, true), ("player", played)):
        if values:
            low, middle, high = np.percentile(values, [25, 50, 75])
            print(f"{name}: median {middle:+.2f} LU, quartiles {low:+.2f} to {high:+.2f}, {len(values)} songs")
    if played:
        print(f"within 3 LU of the true stem: {np.mean(np.abs(np.subtract(played, true)) <= 3):.0%}")


if __name__ == "__main__":
    main()
