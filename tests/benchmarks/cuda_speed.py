"""Measure everything that is promised of a CUDA device, in one run: start-up, speed alone and in batches, a whole song.

    uv run python tests/benchmarks/cuda_speed.py
    uv run python tests/benchmarks/cuda_speed.py --dry-run        # a tiny model on the CPU: does the script work?

MusicGen-small's shape, random weights, bfloat16, guidance on (2 rows a sample), no text, 10 s of context. Times of our
steps hold all of a step; those of transformers' MusicGen the forward pass with its K/V cache alone. "graph = eager"
compares the greedy tokens of recorded graphs with those of the same operations one by one, on the same device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from environment import describe
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from stage_cli.core.accompany import AccompanySettings
from stage_cli.core.bench.measure import synchronize
from stage_cli.core.bench.run import random_config, write_random_model
from stage_cli.core.bench.settings import SIZES
from stage_cli.core.contexts import MetronomeContext
from stage_cli.core.generation import graphs
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.stem_files import StemRequest, write_stems


def window(lm: LanguageModel, variations: int, frames: int, context: int, config: GenerationConfig) -> torch.Tensor:
    """Write one window on the model's device: `[variations, K, frames]`."""
    device, K = lm.embeddings.device, lm.config.codebooks
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(lm.config.codebook_size, (1, K, context), generator=generator).to(device)
    uniforms = torch.rand(variations, K, frames, generator=generator).to(device)
    return decode_window(lm, codes, codes[:, :, :0].expand(variations, -1, -1), uniforms, config)


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Wall seconds of a function, until the device has done all of it."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def theirs(lm: LanguageModel, context: int, steps: int) -> float:
    """Seconds of one decode step of transformers' MusicGen of the same shape, 2 rows: the median."""
    from transformers import DynamicCache, MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(
        vocab_size=lm.config.codebook_size,
        hidden_size=lm.config.dimension,
        num_hidden_layers=lm.config.layers,
        num_attention_heads=lm.config.heads,
        ffn_dim=lm.config.feed_forward,
        num_codebooks=lm.config.codebooks,
        max_position_embeddings=2048,
    )
    config._attn_implementation = "sdpa"
    device = lm.embeddings.device
    model = MusicgenForCausalLM(config).to(device, lm.dtype).eval()
    tokens = torch.randint(lm.config.codebook_size, (2 * lm.config.codebooks, context + 1), device=device)
    cache, times = DynamicCache(config=config), []
    with torch.inference_mode():
        model(input_ids=tokens, past_key_values=cache, use_cache=True)
        for _ in range(steps):
            times.append(seconds(device, lambda: model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)))
    return median(times[len(times) // 4 :])


def attention_ms(lm: LanguageModel, rows: int, room: int, attend: Callable[..., torch.Tensor]) -> float:
    """Milliseconds of the attention of one step in all layers, recorded as a step is: the median of 20."""
    device, heads, width = lm.embeddings.device, lm.config.heads, lm.config.head_dimension
    keys_values = torch.randn(lm.config.layers, 2, rows, heads, room, width, device=device, dtype=lm.dtype)
    q = torch.randn(rows, heads, 1, width, device=device, dtype=lm.dtype)
    mask = torch.zeros(rows, 1, 1, room, device=device, dtype=lm.dtype)

    def step() -> None:
        for keys, values in keys_values.unbind(0):
            attend(q, keys, values, attn_mask=mask)

    with torch.inference_mode():
        run = step
        if device.type == "cuda":
            step()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            run = graph.replay
        return 1e3 * median(seconds(device, run) for _ in range(20))


def by_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
    """Attention as two products and a softmax: more operations than torch's own, but of more threads for one query."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + attn_mask).softmax(dim=-1) @ v


def by_cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
    """Attention by cuDNN, which torch may prefer on new devices, and a recording does not."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)


def by_efficient_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
    """Attention as it is recorded."""
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)


def song_seconds(model: StageModel, length: float, folder: Path) -> float:
    """Wall seconds of writing a stem over clicks of some length into a file, codec included."""
    request = StemRequest(
        MetronomeContext(120, duration=length), model.config.stem or "drums", (folder / "stem.wav",), overwrite=True
    )
    return seconds(model.runtime.device, lambda: write_stems(model, request, AccompanySettings()))


@contextmanager
def steps_one_by_one(lm: LanguageModel) -> Generator[None]:
    """Take the operations of a recorded step without a recording."""
    record, graphs.Recording._record = graphs.Recording._record, lambda recording, lm: []
    graphs.forget_recordings(lm)
    try:
        yield
    finally:
        graphs.Recording._record = record
        graphs.forget_recordings(lm)


def report(name: str, value: str) -> None:
    """Print a row of the table, at once: the rest may fail, or the time be over."""
    print(f"| {name} | {value} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = random_config(SIZES["musicgen-small"])
    device, precision, frames, song, many = "cuda", "bfloat16", 500, 240.0, 64
    if arguments.dry_run:
        config = replace(config, lm=replace(config.lm, dimension=64, layers=2, heads=2, feed_forward=128))
        device, precision, frames, song, many = "cpu", "float32", 50, 25.0, 4
        song.steps_for = lambda lm: graphs.StaticSteps
    # It plans each new length of keys anew: transformers' steps, which grow, would be measured by their plans.
    torch.backends.cuda.enable_cudnn_sdp(False)
    with TemporaryDirectory() as folder:
        write_random_model(Path(folder) / "model", config)
        model = StageModel.from_pretrained(str(Path(folder) / "model"), device=device, precision=precision)
        print(describe("torch", "transformers"))
        if device == "cuda":
            print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
        print("\n| | |\n| --- | --- |")
        measure(model, frames, song, many, arguments.rounds, Path(folder))


def measure(model: StageModel, frames: int, song: float, many: int, rounds: int, folder: Path) -> None:
    """Print all rows, the most wanted first."""
    lm, rate, sampled, place = model.lm, model.config.codec.frame_rate, GenerationConfig(), model.runtime.device
    on_cuda = place.type == "cuda"

    def times(variations: int, config: GenerationConfig = sampled) -> float:
        return median(seconds(place, lambda: window(lm, variations, frames, frames, config)) for _ in range(rounds))

    first = seconds(place, lambda: window(lm, 1, frames, frames, sampled))
    alone = times(1)
    report("start-up of the graphs, s (first window − later ones; asked 0.5)", f"{first - alone:.2f}")
    report("batch 1, × real time (asked 20, goal 40)", f"{frames / rate / alone:.1f}")
    report("batch 1, ms a step, prefill included", f"{alone / frames * 1e3:.2f}")
    step = theirs(lm, frames, 60 if on_cuda else 5)
    report("transformers, ms a step", f"{step * 1e3:.2f}")
    report("× transformers (asked 10)", f"{step / (alone / frames):.1f}")
    song_seconds(model, 40.0 if on_cuda else 2.0, folder)
    report(f"song of {song:g} s, s (4 min: asked 12)", f"{song_seconds(model, song, folder):.1f}")
    greedy = GenerationConfig(temperature=0.0)
    recorded = window(lm, 1, frames, frames, greedy)
    with steps_one_by_one(lm):
        eager = window(lm, 1, frames, frames, greedy)
        plain = times(1)
    report("graph = eager: share of equal greedy tokens", f"{(recorded == eager).float().mean().item():.4f}")
    report("× the same steps operation by operation", f"{plain / alone:.1f}")
    for size in (2, 2 * many):
        for attend in (by_efficient_kernel, by_products, *([by_cudnn] if on_cuda else [])):
            try:
                milliseconds = f"{attention_ms(lm, size, 1024, attend):.3f}"
            except RuntimeError as error:
                milliseconds = f"not possible: {str(error).splitlines()[0]}"
            report(f"attention of a step, {size} rows, {attend.__name__.replace('_', ' ')}, ms", milliseconds)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    times(many)  # the first window of this shape is recorded
    report(f"batch {many}, × real time in total (asked 600)", f"{many * frames / rate / times(many):.0f}")
    if on_cuda:
        report("peak memory, GB", f"{torch.cuda.max_memory_allocated() / 1e9:.1f}")


if __name__ == "__main__":
    main()
