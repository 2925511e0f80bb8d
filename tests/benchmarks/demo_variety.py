"""Count how much the songs of `stage demo-data` differ: meters, swing, tempos, and grooves that recur.

    uv run python tests/benchmarks/demo_variety.py [--songs 300] [--seed 5] [--seconds 30]

Nothing is rendered. Two grooves are alike if nine tenths of the strokes of two bars (ghost notes left out) are common
to both. The same seed gives the same figures on every machine.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import numpy as np
from environment import describe

from stage_cli.core.band.composer import compose
from stage_cli.core.band.instruments import KICK, SNARE
from stage_cli.core.band.score import Score


def kick_and_snare(song: Score) -> frozenset[tuple[int, int]]:
    return frozenset(stroke for stroke in song.groove if stroke[0] in (KICK, SNARE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    print(describe("numpy"))
    songs = [compose(arguments.seed, index, arguments.seconds) for index in range(arguments.songs)]
    meters = Counter(song.meter.name for song in songs)
    print("meters:", ", ".join(f"{meter} {count / len(songs):.0%}" for meter, count in meters.most_common()))
    print(f"swung: {np.mean([song.swing > 0.5 for song in songs]):.0%}")
    tempos = [float(np.median(60 / np.diff(song.beat_times))) for song in songs]
    low, first, third, high = np.percentile(tempos, [0, 25, 75, 100])
    print(f"tempos: {low:.0f} to {high:.0f}, the middle half {first:.0f} to {third:.0f}")
    print(f"styles: {len({song.style for song in songs})}")
    pairs = list(itertools.combinations(songs, 2))
    alike = np.mean([len(a.groove & b.groove) >= 0.9 * len(a.groove | b.groove) for a, b in pairs])
    same = np.mean([kick_and_snare(a) == kick_and_snare(b) for a, b in pairs])
    print(f"pairs with grooves alike: {alike:.2%}; with the same kick and snare: {same:.2%}")


if __name__ == "__main__":
    main()
