"""Measure how fast demo songs are made and songs are prepared on one core, and what memory a long song takes.

    uv run python tests/benchmarks/data_speed.py [--only demo prepare memory] [--songs 4] [--seconds 60]

- demo: `stage demo-data`, writing included, by the synthesizer and, where there is one, by a soundfont.
- prepare: `stage prepare-data`, essentia's beats included: 10 and 20 stereo tracks at 44.1 kHz, 16 and 24 bits.
- memory: peak of a whole `stage prepare-data --jobs 1` for one song of 10 minutes and 20 tracks of 24 bits. The song
  takes 3.2 GB in `--folder`, and its mixed drums 0.2 GB.

This process is bound to one core. "× of CPU time" counts only the time in which it really ran, and so drifts less
beside other programs. Imports (1 to 2 s a command) are not counted, but for the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import soundfile
from environment import describe

from stage_cli.core.band import soundfont
from stage_cli.core.band.composer import compose
from stage_cli.core.band.demo_data import write_demo_data
from stage_cli.core.band.mixing import RenderedPart, render
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.band.sounds import SynthBank
from stage_cli.core.data.layouts import find_songs
from stage_cli.core.data.prepare import prepare_song
from stage_cli.core.data.settings import PrepareSettings

RATE = 44100
PACKAGES = ("numpy", "scipy", "essentia", "soundfile", "soxr")


class Clock:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def speeds(self, seconds: float) -> str:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return f"{seconds / wall:.1f} | {seconds / cpu:.1f}"


def warm_up(folder: Path) -> None:
    """Import all that is imported on the way."""
    list(write_demo_data(folder, DemoSettings(1, 4.0, 0, "synth")))
    prepare_song(find_songs(folder)[0], PrepareSettings())


def measure_demo(folder: Path, songs: int, lengths: Sequence[float]) -> None:
    print("| demo-data | × real time | × of CPU time |\n| --- | --- | --- |")
    for sounds in ("synth", "soundfont"):
        if sounds == "soundfont" and not (soundfont.is_available() and soundfont.find_default()):
            print("| soundfont: not installed | | |")
            continue
        for seconds in lengths:
            output = folder / f"{sounds}-{seconds:g}"
            clock = Clock()
            list(write_demo_data(output, DemoSettings(songs, seconds, 0, sounds)))
            print(f"| {sounds}, {songs} songs of {seconds:g} s | {clock.speeds(songs * seconds)} |", flush=True)


def write_song(folder: Path, tracks: Sequence[RenderedPart], count: int, subtype: str, repeats: int = 1) -> None:
    """Write a song of `count` tracks in MoisesDB's layout: those of a demo song, moved in time where they recur."""
    stems: dict[str, list[dict[str, str]]] = {}
    for number in range(count):
        track = tracks[number % len(tracks)]
        audio = np.roll(track.audio, number // len(tracks) * RATE // 2, axis=1).T
        stems.setdefault(track.stem, []).append({"id": str(UUID(int=number)), "trackType": track.track_type})
        path = folder / track.stem / f"{UUID(int=number)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(path, "w", RATE, 2, subtype) as file:
            for _ in range(repeats):
                file.write(audio)
    content = {"song": "Bench", "artist": "Mark", "genre": "rock"}
    content["stems"] = [{"stemName": stem, "tracks": files} for stem, files in stems.items()]
    (folder / "data.json").write_text(json.dumps(content))


def demo_tracks(index: int, seconds: float) -> list[RenderedPart]:
    return render(compose(0, index, seconds, tempo_changes="never"), SynthBank(), (0, index))


def measure_prepare(folder: Path, songs: int, seconds: float) -> None:
    print("| prepare-data | × real time | × of CPU time |\n| --- | --- | --- |")
    for count, subtype in ((10, "PCM_16"), (10, "PCM_24"), (20, "PCM_16"), (20, "PCM_24")):
        output = folder / f"{count}-{subtype}"
        for index in range(songs):
            write_song(output / str(UUID(int=index)), demo_tracks(index, seconds), count, subtype)
        found = find_songs(output)
        clock = Clock()
        for song in found:
            result = prepare_song(song, PrepareSettings())
            if result.error is not None:
                raise result.error
        bits = subtype.removeprefix("PCM_")
        print(
            f"| {songs} songs of {seconds:g} s, {count} tracks of {bits} bits | {clock.speeds(songs * seconds)} |",
            flush=True,
        )


def measure_memory(folder: Path, seconds: float, tracks: int) -> None:
    piece = min(60.0, seconds)
    write_song(folder / str(UUID(int=0)), demo_tracks(1, piece), tracks, "PCM_24", repeats=round(seconds / piece))
    began = time.perf_counter()
    command = [sys.executable, "-m", "stage_cli", "prepare-data", str(folder), "--jobs", "1", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    wall = time.perf_counter() - began
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"prepare-data, one song of {seconds:g} s, {tracks} tracks of 24 bits: {peak:.2f} GB, {wall:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=("demo", "prepare", "memory"), default=["demo", "prepare", "memory"]
    )
    parser.add_argument("--songs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lengths", type=float, nargs="+", default=[30.0, 60.0], help="of demo songs, seconds")
    parser.add_argument("--long-seconds", type=float, default=600.0)
    parser.add_argument("--long-tracks", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="for temporary files; the system's if left out")
    arguments = parser.parse_args()
    print(describe(*PACKAGES))
    print(f"load average {os.getloadavg()[0]:.1f} before the start\n")
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        warm_up(folder / "warm")
        if "demo" in arguments.only:
            measure_demo(folder / "demo", arguments.songs, arguments.lengths)
            print()
        if "prepare" in arguments.only:
            measure_prepare(folder / "prepare", arguments.songs, arguments.seconds)
            print()
        if "memory" in arguments.only:
            measure_memory(folder / "memory", arguments.long_seconds, arguments.long_tracks)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
