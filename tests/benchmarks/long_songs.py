"""Measure whether a model stays with a long song: Beat F1 in the first and in the last 20 s of what it writes.

    stage demo-data long --songs 12 --seconds 120 --seed 7001 --sounds mixed --tempo-changes always
    stage prepare-data long --beats annotations
    uv run python tests/benchmarks/long_songs.py long --model bundled-drums

The context is the mix of all other stems, or (`--context metronome`) clicks on the song's beats. The stem is written
as `stage generate` does it, whole, and once more for the last 20 s alone: what of the difference is these 20 seconds'
own, and not the song's length. Beats are tracked in each 20 s alone and compared with the song's; beside them the true
stem's. Intervals: 95 %, bootstrap over the songs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from environment import describe

from stage_cli.core.accompany import AccompanySettings
from stage_cli.core.contexts import FileContext
from stage_cli.core.data.index import IndexedSong, find_songs
from stage_cli.core.evaluation.intervals import Interval, mean_interval, paired_difference
from stage_cli.core.evaluation.metrics import beat_f1
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.model import StageModel
from stage_cli.core.music.beats import BeatGrid, metronome
from stage_cli.core.music.detection import track_beats
from stage_cli.core.stem_files import StemRequest, write_stems

PART = 20.0  # seconds


def context_of(song: IndexedSong, stem: str, kind: str, rate: int) -> np.ndarray:
    if kind == "metronome":
        grid = BeatGrid(tuple(map(float, song.beats)), tuple(map(float, song.downbeats)))
        return metronome(grid, song.duration, rate)
    return sum(song.read(name, 0.0, song.duration) for name in song.stems if name != stem)


def written(
    model: StageModel, stem: str, context: np.ndarray, rate: int, config: GenerationConfig, folder: Path
) -> np.ndarray:
    """Write the stem for a context, as `stage generate` does it, at the context's sample rate."""
    mix, output = folder / "mix.wav", folder / "stem.wav"
    soundfile.write(mix, context / max(1.0, float(np.abs(context).max())), rate, subtype="FLOAT")
    write_stems(model, StemRequest(FileContext(mix), stem, (output,), overwrite=True), AccompanySettings(config))
    return soundfile.read(output, dtype="float32")[0]


def f1_between(audio: np.ndarray, rate: int, beats: np.ndarray, start: float) -> float:
    part = audio[round(start * rate) : round((start + PART) * rate)]
    inside = beats[(beats >= start) & (beats < start + PART)] - start
    return beat_f1(inside, np.array(track_beats(part, rate).beats))


def show(cell: Interval) -> str:
    return f"{cell.value:.2f} ({cell.low:.2f} to {cell.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", help="folder of prepared songs of 40 s or more")
    parser.add_argument("--model", default="bundled-drums")
    parser.add_argument("--context", choices=("mix", "metronome"), default="mix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--advance", type=float, help="share of the window that is new (default: the model's own)")
    parser.add_argument("--lookahead", type=float, help="share of the window that is only heard (likewise)")
    parser.add_argument("--guidance", type=float, help="(likewise)")
    arguments = parser.parse_args()
    model = StageModel.from_pretrained(arguments.model)
    stem = model.config.stem or "drums"
    sampling = model.config.sampling_for(metronome=arguments.context == "metronome")
    given = {name: getattr(arguments, name) for name in ("advance", "lookahead", "guidance")}
    given = {name: value for name, value in given.items() if value is not None}
    config = GenerationConfig(seed=arguments.seed).for_model(sampling | given, [])
    songs = [song for song in find_songs((arguments.songs,)) if stem in song.stems and song.duration >= 2 * PART]
    rows: dict[str, list[tuple[float, float]]] = {"true": [], "made": []}
    alone: list[float] = []
    print(describe("torch", "essentia", "mir_eval"))
    with tempfile.TemporaryDirectory() as folder:
        for song in songs:
            rate, beats, last = song.sample_rate, np.asarray(song.beats), song.duration - PART
            context = context_of(song, stem, arguments.context, rate)
            made = written(model, stem, context, rate, config, Path(folder))
            ending = written(model, stem, context[round(last * rate) :], rate, config, Path(folder))
            alone.append(f1_between(ending, rate, beats[beats >= last] - last, 0.0))
            true = song.read(stem, 0.0, song.duration)
            for name, audio in (("true", true), ("made", made)):
                rows[name].append((f1_between(audio, rate, beats, 0.0), f1_between(audio, rate, beats, last)))
            print(f"{song.id}: true {rows['true'][-1]}, made {rows['made'][-1]}, alone {alone[-1]}", flush=True)
    ids = [song.id for song in songs]
    name = Path(arguments.model).name
    print(f"\n{len(songs)} songs, context: {arguments.context}, model: {name}, {config.sampling}\n")
    print("| | first 20 s | last 20 s | last − first |\n| --- | --- | --- | --- |")
    for name, title in (("true", "true stem"), ("made", "written stem")):
        first, second = np.array(rows[name]).T
        draws = np.random.default_rng(0)
        cells = [mean_interval(values, ids, draws) for values in (first, second)]
        cells.append(paired_difference(second, first, ids, draws))
        print(f"| {title} | {' | '.join(map(show, cells))} |")
    draws, ends = np.random.default_rng(0), np.array([end for _, end in rows["made"]])
    lost = paired_difference(ends, np.array(alone), ids, draws)
    print(f"\nThe last 20 s written alone: {show(mean_interval(alone, ids, draws))}; in the whole song {show(lost)}")


if __name__ == "__main__":
    main()
