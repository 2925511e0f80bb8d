"""Measure how many ten-second items a second the training set makes, and what takes the time.

    uv run python tests/benchmarks/dataset_speed.py [--songs 4] [--seconds 60] [--items 60] [--workers 2]

Writes songs in MoisesDB's layout (six stems, 44.1 kHz, 16-bit stereo WAV) to a temporary folder, then draws items for a
32 kHz codec: without augmentation, as published (speed and pitch with probability 0.5 each), and with every item
augmented; in this process and by the workers of a DataLoader; from the songs and from shards. Then a profile by part,
and how long it takes to find 1000 songs of 500 beats each (their features alone; no audio is opened).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import soundfile
import torch
from environment import describe
from torch.utils.data import DataLoader

from stage_cli.core.audio import chunks as audio_chunks
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset, collate
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.shards import write_shards
from stage_cli.core.data.song import SongFeatures, StemFeatures, write_features
from stage_cli.core.music.rhythm import Rhythm

STEMS = ("bass", "drums", "guitar", "other_keys", "piano", "vocals")
SOURCE_RATE = 44100
CODEC_RATE = 32000


def write_songs(root: Path, songs: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    frames = round(seconds * SOURCE_RATE)
    beats = np.arange(0.2, seconds, 0.5)
    for number in range(songs):
        folder = root / str(UUID(int=number))
        stems = {}
        for stem in STEMS:
            (folder / stem).mkdir(parents=True)
            file = f"{stem}/{UUID(int=number)}.wav"
            audio = 0.1 * rng.standard_normal((frames, 2), dtype=np.float32)
            soundfile.write(folder / file, audio, SOURCE_RATE, subtype="PCM_16")
            stems[stem] = StemFeatures((file,), seconds, -20.0)
        rhythm = Rhythm(120.0, 1.0, tuple(beats), tuple(beats[::4]), 4, 1.0, "annotations")
        features = SongFeatures(
            folder.name, "", "", "moisesdb", SOURCE_RATE, frames, stems, rhythm, None, ("Rock",), ("happy",)
        )
        write_features(folder / "features.json", features)


def alone(dataset: StemDataset, items: int) -> float:
    _ = dataset[0]
    start = time.perf_counter()
    for number in range(items):
        _ = dataset[number % len(dataset)]
    return items / (time.perf_counter() - start)


def by_workers(dataset: StemDataset, items: int, workers: int) -> float:
    """Items a second from the second batch on: the start of the processes is paid once an epoch."""
    batch = 2
    loader = DataLoader(dataset, batch, num_workers=workers, collate_fn=collate, persistent_workers=True)
    for _ in loader:  # one epoch to start the workers
        pass
    done, start = 0, time.perf_counter()
    while done < items:
        for content in loader:
            done += len(content.items)
    return done / (time.perf_counter() - start)


class Profile:
    """Wall time inside some functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, module: object, name: str, label: str) -> None:
        function = getattr(module, name)

        def timed(*arguments: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start

        setattr(module, name, timed)


def index_seconds(root: Path, songs: int) -> float:
    """Return how long `find_songs` takes for songs that have features and no audio."""
    beats = tuple((np.arange(500) / 2).tolist())
    for number in range(songs):
        folder = root / str(UUID(int=number))
        folder.mkdir(parents=True)
        stems = {stem: StemFeatures((f"{stem}/{UUID(int=number)}.wav",), 200.0, -20.0) for stem in STEMS}
        rhythm = Rhythm(120.0, 1.0, beats, beats[::4], 4, 1.0, "annotations")
        frames = 250 * SOURCE_RATE
        features = SongFeatures(folder.name, "", "", "moisesdb", SOURCE_RATE, frames, stems, rhythm, None)
        write_features(folder / "features.json", features)
    start = time.perf_counter()
    found = find_songs([root])
    assert len(found) == songs
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe("torch", "numpy", "soundfile", "soxr", "python-stretch"))
    print(f"load average {os.getloadavg()[0]:.1f} before the start\n")
    with tempfile.TemporaryDirectory() as folder:
        songs, copies, small = (Path(folder) / name for name in ("songs", "copies", "small"))
        write_songs(songs, arguments.songs, arguments.seconds)
        write_shards([songs], copies)
        write_shards([songs], small, sample_rate=CODEC_RATE)
        sizes = {root: sum(file.stat().st_size for file in root.rglob("*.*")) / 1e6 for root in (songs, copies, small)}
        plain = DataConfig((str(songs),)).without_augmentation()
        configs = {
            "no augmentation": plain,
            "no augmentation, mix only": replace(plain, context="mix"),
            "as published": DataConfig((str(songs),)),
            "every item stretched, mix only": replace(
                plain, context="mix", speed_probability=1.0, pitch_probability=1.0
            ),
        }
        print(f"| items/s | 1 process | {arguments.workers} workers |")
        print("| --- | --- | --- |")
        for name, config in configs.items():
            dataset = StemDataset(config, CODEC_RATE, 0)
            workers = by_workers(dataset, arguments.items, arguments.workers)
            print(f"| {name} | {alone(dataset, arguments.items):.1f} | {workers:.1f} |")
        for name, root in (("shards, files as they are", copies), ("shards, mono FLAC at 32 kHz", small)):
            dataset = StemDataset(replace(plain, root=(str(root),), context="mix"), CODEC_RATE, 0)
            workers = by_workers(dataset, arguments.items, arguments.workers)
            label = f"mix only, {name} ({sizes[root]:.0f} of {sizes[songs]:.0f} MB)"
            print(f"| {label} | {alone(dataset, arguments.items):.1f} | {workers:.1f} |")
        profile = Profile()
        profile.wrap(audio_chunks, "read_mono", "open, decode, mix to mono")
        profile.wrap(dataset, "resample", "resample")
        profile.wrap(dataset, "stretch", "stretch")
        print("\n| ms an item (mix only, 1 process) | plain | stretched |\n| --- | --- | --- |")
        parts: dict[str, list[float]] = {}
        for name in ("no augmentation, mix only", "every item stretched, mix only"):
            profile.seconds = {"stretch": 0.0}
            rate = alone(StemDataset(configs[name], CODEC_RATE, 0), arguments.items)
            known = {label: 1000 * spent / (arguments.items + 1) for label, spent in profile.seconds.items()}
            for label, spent in {**known, "the rest": 1000 / rate - sum(known.values())}.items():
                parts.setdefault(label, []).append(spent)
        for label, spent in parts.items():
            print(f"| {label} | {' | '.join(f'{value:.1f}' for value in spent)} |")
        print(f"\nfinding 1000 songs: {index_seconds(Path(folder) / 'thousand', 1000):.2f} s")


if __name__ == "__main__":
    main()
