"""Try sampling settings on songs that a model is not tested on: what it writes is to fit its own song.

    uv run python docs/scripts/choose_sampling.py runs/bundled-drums tune --context mix \
        "guidance=2,top_k=40,temperature=0.6" "guidance=3,top_k=40,temperature=0.6"

What a setting does not name is the model's own. One clip of 10 s of each song; "mix" is all of its other stems.
Printed for each setting: Onset F against the song's own beats and against the next song's, for pitched stems chroma
similarity to the song's own stem and to the next song's, the median difference of level, and how many clips are silent.
`stage evaluate` measures all of this and more, with intervals; this is quick enough to try many settings. See
docs/dev/bundled-models.md.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import numpy as np
import torch

from stage_cli.core.audio.chunks import resample
from stage_cli.core.data.index import IndexedSong, find_songs
from stage_cli.core.evaluation.metrics import chroma_similarity, onset_f
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.model import StageModel
from stage_cli.core.music.beats import BeatGrid, metronome
from stage_cli.core.music.detection import chroma, find_onsets

SECONDS = 10.0
SILENT = 1e-3  # root mean square


@dataclass(frozen=True)
class Clip:
    """Context `[samples]`, beats in seconds, the true stem `[samples]`, and its chroma."""

    context: np.ndarray
    beats: np.ndarray
    true: np.ndarray
    chroma: np.ndarray


def clip_of(song: IndexedSong, stem: str, kind: str, rate: int) -> Clip:
    """Take a clip of a song, the same one each time."""
    start = random.Random(song.id).uniform(0, song.duration - SECONDS - 0.1)

    def within(times: np.ndarray) -> np.ndarray:
        return times[(times >= start) & (times < start + SECONDS)] - start

    beats = within(np.asarray(song.beats))
    if kind == "metronome":
        grid = BeatGrid(tuple(map(float, beats)), tuple(map(float, within(np.asarray(song.downbeats)))))
        context = metronome(grid, SECONDS, rate)
    else:
        others = np.sum([song.read(name, start, SECONDS) for name in song.stems if name != stem], axis=0)
        context = resample(others, song.sample_rate, rate)
    true = resample(song.read(stem, start, SECONDS), song.sample_rate, rate).astype(np.float32)
    return Clip(context.astype(np.float32), beats, true, chroma(true, rate))


@torch.inference_mode()
def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("songs", help="folder of prepared songs")
    parser.add_argument("settings", nargs="+", metavar="NAME=VALUE,…")
    parser.add_argument("--context", choices=("mix", "metronome"), default="mix")
    parser.add_argument("--variations", type=int, default=1)
    options = parser.parse_args()
    model = StageModel.from_pretrained(options.model, device="cpu", precision="float32")
    stem, rate = model.config.stem or "drums", model.config.codec.sample_rate
    defaults = model.config.sampling_for(metronome=options.context == "metronome")
    songs = [song for song in find_songs((options.songs,)) if stem in song.stems]
    clips = [clip_of(song, stem, options.context, rate) for song in songs]
    contexts = [model.codec.encode(torch.from_numpy(clip.context)[None, None]) for clip in clips]
    for setting in options.settings:
        chosen = dict(pair.split("=") for pair in setting.split(","))
        values = {name: int(value) if value.isdigit() else float(value) for name, value in chosen.items()}
        rows = []
        for number, (clip, context) in enumerate(zip(clips, contexts, strict=True)):
            seeded = GenerationConfig(seed=10 * number, variations=options.variations)
            config = seeded.for_model(defaults | values, ())
            codes = torch.cat(list(generate_song(model.lm, context, config, window=model.config.window_frames)), dim=2)
            other = clips[(number + 1) % len(clips)]
            for audio in model.codec.decode(codes)[:, 0].numpy():
                onsets, heard = find_onsets(audio, rate), chroma(audio, rate)
                rows.append((
                    onset_f(onsets, clip.beats, SECONDS),
                    onset_f(onsets, other.beats, SECONDS),
                    chroma_similarity(heard, clip.chroma),
                    chroma_similarity(heard, other.chroma),
                    20 * np.log10(max(audio.std(), 1e-9) / max(clip.true.std(), 1e-9)),
                    float(audio.std() < SILENT),
                ))  # fmt: skip
        own, others, near, far, _, silent = np.nanmean(np.array(rows, dtype=float), axis=0)
        level = np.median([row[4] for row in rows])
        print(
            f"{setting}: onset F {own:.2f}, another song's {others:.2f} (difference {own - others:.2f}); "
            f"chroma {near:.2f}, {far:.2f} ({near - far:.2f}); level {level:+.1f} dB; silent {silent:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
