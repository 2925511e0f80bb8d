"""Measure how often tempo, beats and key that `stage prepare-data` finds are right, on songs whose truth is exact.

    uv run python tests/benchmarks/feature_accuracy.py [--seeds 0 1 2 3] [--songs 10] [--seconds 60] [--sounds synth]

Right is: a tempo within 2 %, beats of F ≥ 0.9 (mir_eval, ± 70 ms, from the first beat on), tonic and scale of the key.
Then every song that misses one of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mir_eval
import numpy as np
from environment import describe

from stage_cli.core.band.demo_data import SongReport, write_demo_data
from stage_cli.core.band.settings import SOUNDS, DemoSettings
from stage_cli.core.data.layouts import find_songs, read_song
from stage_cli.core.data.prepare import prepare_songs
from stage_cli.core.data.settings import PrepareSettings
from stage_cli.core.machine import available_cores

NEAR = 0.02  # of the tempo
GOOD = 0.9  # F


@dataclass(frozen=True)
class Finding:
    """One song: what is true, what was found."""

    seed: int
    made: SongReport
    tempo: tuple[float, float]
    f_measure: float
    key: tuple[str, str]

    @property
    def right(self) -> tuple[bool, bool, bool]:
        true, found = self.tempo
        return abs(found / true - 1) <= NEAR, self.f_measure >= GOOD, same_key(*self.key)


def same_key(one: str, other: str) -> bool:
    """Whether two keys ("Ab minor") are the same; G# and Ab are one tonic."""
    (tonic, scale), (tonic2, scale2) = one.split(), other.split()
    semitones = mir_eval.key.KEY_TO_SEMITONE
    return scale == scale2 and semitones[tonic.lower()] == semitones[tonic2.lower()]


def findings(folder: Path, settings: DemoSettings, jobs: int) -> list[Finding]:
    made = {Path(song.path).name: song for song in write_demo_data(folder, settings, jobs=jobs)}
    songs = {song.id: song for song in find_songs(folder)}
    results = []
    for result in prepare_songs(list(songs.values()), PrepareSettings(), jobs):
        if result.error is not None:
            raise result.error
        truth, features = read_song(songs[result.id]).annotations, result.features
        assert features is not None
        assert truth is not None
        assert truth.key is not None
        assert truth.bpm is not None
        beats = [np.array(times) for times in (truth.beats, features.rhythm.beats)]
        results.append(
            Finding(
                seed=settings.seed,
                made=made[result.id],
                tempo=(truth.bpm, features.rhythm.bpm or 0.0),
                f_measure=float(mir_eval.beat.f_measure(*beats)),
                key=(
                    " ".join(truth.key),
                    f"{features.key.tonic} {features.key.scale}" if features.key else "none none",
                ),
            )
        )
    return sorted(results, key=lambda finding: finding.made.index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--songs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sounds", choices=[sounds for sounds in SOUNDS if sounds != "auto"], default="synth")
    parser.add_argument("--jobs", type=int, default=available_cores())
    arguments = parser.parse_args()
    print(describe("numpy", "scipy", "essentia", "mir_eval"))
    print(f"{arguments.songs} songs of {arguments.seconds:g} s a seed, sounds: {arguments.sounds}\n")
    print("| seed | tempo | beats | key | all three |\n| --- | --- | --- | --- | --- |")
    everything: list[Finding] = []
    for seed in arguments.seeds:
        settings = DemoSettings(arguments.songs, arguments.seconds, seed, arguments.sounds)
        with tempfile.TemporaryDirectory() as folder:
            results = findings(Path(folder) / "songs", settings, arguments.jobs)
        print(row(f"{seed}", results), flush=True)
        everything += results
    print(row(f"**all, of {len(everything)}**", everything))
    print("\n| missed: seed, song | style | bpm, found | F | key, found |\n| --- | --- | --- | --- | --- |")
    for finding in everything:
        if not all(finding.right):
            true, found = finding.tempo
            print(
                f"| {finding.seed}, {finding.made.index} | {finding.made.style}, {finding.made.time_signature} | "
                f"{true:.1f}, {found:.1f} | {finding.f_measure:.2f} | {finding.key[0]}, {finding.key[1]} |"
            )


def row(name: str, results: list[Finding]) -> str:
    counts = [sum(finding.right[part] for finding in results) for part in range(3)]
    return f"| {name} | {' | '.join(map(str, counts))} | {sum(all(finding.right) for finding in results)} |"


if __name__ == "__main__":
    main()
