"""Time one decode step of MusicGen-small's shape on the CPU: ours beside the transformers library's, in one run.

    uv run python tests/benchmarks/decode_step.py [--rounds 3] [--steps 30]

Random weights, a context of 10 s (500 frames), guidance on (2 rows), no text, everything warm. Ours is the whole step
(embedding, both rows, guidance, sampling with top-k 250); theirs is the forward pass with its K/V cache alone. The
implementations take turns, so that the machine's drift meets all of them; ratios are what counts. Variations of one
context are decoded in one batch: the last line is four of them at once (8 rows).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from collections.abc import Callable
from statistics import median

# As the command line does (cli/app.py), and before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from environment import describe

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.lm.transformer import LanguageModel

CONTEXT = 500  # frames: 10 s at 50 Hz
WARM_UP = 5


def ours(precision: str) -> Callable[..., list[float]]:
    """Make a function that decodes n steps after the context, of some variations, and returns the seconds of each."""
    torch.manual_seed(0)
    config = LanguageModelConfig()
    lm = LanguageModel(config, quantized=precision == "int8").eval()
    reference = LanguageModel(config).state_dict()
    for name, module in lm.named_modules():
        if isinstance(module, Int8Linear):
            module.keep(reference[f"{name}.weight"])
    del reference
    lm.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    context = torch.randint(config.codebook_size, (1, config.codebooks, CONTEXT))

    def run(steps: int, variations: int = 1) -> list[float]:
        times: list[float] = []
        uniforms = torch.rand(variations, config.codebooks, steps + WARM_UP)
        decode_window(
            lm,
            context,
            context[:, :, :0].expand(variations, -1, -1),
            uniforms,
            GenerationConfig(),
            on_step=lambda _: times.append(time.perf_counter()),
        )
        return [b - a for a, b in itertools.pairwise(times)][WARM_UP:]

    return run


def theirs(dtype: torch.dtype) -> Callable[[int], list[float]]:
    """Make the same for transformers' MusicgenForCausalLM."""
    from transformers import DynamicCache, MusicgenDecoderConfig, MusicgenForCausalLM

    torch.manual_seed(0)
    config = MusicgenDecoderConfig(
        vocab_size=2048,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        num_codebooks=4,
        max_position_embeddings=2048,
    )
    config._attn_implementation = "sdpa"
    model = MusicgenForCausalLM(config).to(dtype).eval()
    tokens = torch.randint(2048, (2 * 4, CONTEXT + 1))

    @torch.inference_mode()
    def run(steps: int) -> list[float]:
        cache = DynamicCache(config=config)
        model(input_ids=tokens, past_key_values=cache, use_cache=True)
        times = []
        for _ in range(steps + WARM_UP):
            began = time.perf_counter()
            model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)
            times.append(time.perf_counter() - began)
        return times[WARM_UP:]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    int8 = ours("int8")
    runs: dict[str, Callable[[int], list[float]]] = {
        "transformers float32": theirs(torch.float32),
        "transformers bfloat16": theirs(torch.bfloat16),
        "stage float32": ours("float32"),
        "stage bfloat16": ours("bfloat16"),
        "stage int8": int8,
        "stage int8, 4 variations": functools.partial(int8, variations=4),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name] += run(arguments.steps)
    print(describe())
    print(
        f"{arguments.rounds} rounds of {arguments.steps} steps, {arguments.threads} threads, context {CONTEXT} frames\n"
    )
    print("| implementation | ms a step (median) | min | × transformers float32 | × transformers bfloat16 |")
    print("| --- | --- | --- | --- | --- |")
    base, half = (median(times[f"transformers {kind}"]) for kind in ("float32", "bfloat16"))
    for name, values in times.items():
        middle = median(values)
        print(f"| {name} | {middle * 1e3:.1f} | {min(values) * 1e3:.1f} | {base / middle:.1f} | {half / middle:.1f} |")


if __name__ == "__main__":
    main()
