"""Measure what bfloat16 and int8 do to the language model's output, against fp32, under teacher forcing.

    uv run python tests/benchmarks/precision.py bundled-drums --songs tune [--count 24] [--device cpu]
    uv run python tests/benchmarks/precision.py MODEL [--frames 200]

With prepared songs: contexts are the mixes of all other stems, targets the true stems, both through the model's codec.
Without: one random context and target. Each precision gets the same ones. Reported against fp32: the relative error of
the logits (rms of the difference over rms), the mean Kullback-Leibler divergence of the distributions at temperature 1,
the share of tokens that are the same when both draw with the same uniform numbers (with the model's own sampling), and
the share of those that are the likeliest in both.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from environment import describe
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.audio.chunks import resample
from stage_cli.core.data.index import IndexedSong, find_songs
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.window import sample
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel

Pair = tuple[Tensor, Tensor]


def random_pair(model: StageModel, frames: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, model.config.lm.codebooks, frames)
    context, target = (torch.randint(model.config.lm.codebook_size, shape, generator=generator) for _ in range(2))
    return [(context, target)]


@torch.inference_mode()
def pairs_of_songs(model: StageModel, songs: list[IndexedSong]) -> list[Pair]:
    """Encode one window from the middle of each song."""
    stem, seconds, rate = model.config.stem or "drums", model.config.window_seconds, model.config.codec.sample_rate
    pairs = []
    for song in songs:
        start = (song.duration - seconds) / 2
        context = sum(song.read(name, start, seconds) for name in song.stems if name != stem)
        both = np.stack([np.asarray(context), song.read(stem, start, seconds)])
        audio = torch.from_numpy(np.stack([resample(row, song.sample_rate, rate) for row in both]))[:, None].float()
        codes = model.codec.encode(audio[..., : int(seconds * rate)])
        pairs.append((codes[:1], codes[1:]))
    return pairs


@torch.inference_mode()
def target_logits(model: StageModel, pairs: list[Pair]) -> Tensor:
    """Logits of the targets' tokens, `[songs, K, T, codebook_size]`."""
    found = []
    for context, target in pairs:
        tokens = delayed_sequence(context, target, model.config.lm)
        steps = context.shape[2] + 1
        on_device = (part.to(model.runtime.device) for part in tokens)
        logits = model.lm(*on_device, context_steps=steps).cpu()
        # Codebook k of frame t is predicted k steps after codebook 0 of it.
        frames = range(model.config.lm.codebooks)
        found.append(torch.stack([logits[0, k, steps + k : steps + k + target.shape[2]] for k in frames]))
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--songs", help="folder of prepared songs")
    parser.add_argument("--count", type=int, default=24, help="of the songs")
    parser.add_argument("--frames", type=int, default=200, help="of random context and target, without --songs")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = StageModel.from_pretrained(arguments.model, device=arguments.device, precision="float32")
    if arguments.songs:
        stem = model.config.stem or "drums"
        songs = [song for song in find_songs((arguments.songs,)) if stem in song.stems][: arguments.count]
        pairs = pairs_of_songs(model, songs)
        given = f"{len(pairs)} songs"
    else:
        pairs = random_pair(model, arguments.frames)
        given = f"{arguments.frames} + {arguments.frames} random frames"
    exact = target_logits(model, pairs)
    uniforms = torch.rand(exact.shape[:-1], generator=torch.Generator().manual_seed(1))
    drawing = GenerationConfig().for_model(model.config.sampling_for(metronome=False), ())
    how = {"temperature": drawing.temperature, "top_k": drawing.top_k, "top_p": drawing.top_p}
    drawn, likeliest = sample(exact, uniforms, **how), exact.argmax(-1)
    print(describe())
    print(f"{arguments.model}, {given}, {how}\n")
    print("| precision | relative error of logits | KL divergence (nats) | same token drawn | same token likeliest |")
    print("| --- | --- | --- | --- | --- |")
    for precision in ("bfloat16", "int8") if arguments.device == "cpu" else ("bfloat16", "float16"):
        other = StageModel.from_pretrained(arguments.model, device=arguments.device, precision=precision)
        logits = target_logits(other, pairs)
        error = (logits - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
        divergence = (
            F.kl_div(logits.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
        )
        same = (sample(logits, uniforms, **how) == drawn).float().mean()
        top = (logits.argmax(-1) == likeliest).float().mean()
        print(f"| {precision} | {error:.4f} | {divergence:.2e} | {same:.1%} | {top:.1%} |")


if __name__ == "__main__":
    main()
