"""Measure what bfloat16 and int8 do to the language model's output, against fp32, under teacher forcing.

    uv run python tests/benchmarks/precision.py MODEL [--frames 200] [--device cpu]

Feeds the same random context and target to the model in each precision. Reported against fp32: the relative error of
the logits (rms of the difference over rms), the mean Kullback-Leibler divergence of the distributions at temperature 1,
and the share of tokens that are the same when both draw with the same uniform numbers (top-k 250).
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from environment import describe
from torch.nn import functional as F

from stage_cli.core.lm.prefix import delayed_sequence
from stage_cli.core.lm.sampling import sample
from stage_cli.core.model import StageModel


@torch.inference_mode()
def target_logits(name: str, precision: str, frames: int, device: str) -> torch.Tensor:
    model = StageModel.from_pretrained(name, device=device, precision=precision)
    lm = model.lm
    generator = torch.Generator().manual_seed(0)
    shape = (1, lm.config.codebooks, frames)
    context, target = (torch.randint(lm.config.codebook_size, shape, generator=generator) for _ in range(2))
    tokens, attended, positions = (
        part.to(model.runtime.device) for part in delayed_sequence(context, target, lm.config)
    )
    return lm(tokens, attended, positions)[:, :, frames + 1 :].cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    exact = target_logits(arguments.model, "float32", arguments.frames, arguments.device)
    uniforms = torch.rand(exact.shape[:-1], generator=torch.Generator().manual_seed(1))
    drawn = sample(exact, uniforms)
    print(describe())
    print(f"{arguments.model}, {arguments.frames} + {arguments.frames} frames\n")
    print("| precision | relative error of logits | KL divergence (nats) | same token drawn |")
    print("| --- | --- | --- | --- |")
    for precision in ("bfloat16", "int8") if arguments.device == "cpu" else ("bfloat16", "float16"):
        logits = target_logits(arguments.model, precision, arguments.frames, arguments.device)
        error = (logits - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
        divergence = (
            F.kl_div(logits.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
        )
        same = (sample(logits, uniforms) == drawn).float().mean()
        print(f"| {precision} | {error:.4f} | {divergence:.2e} | {same:.1%} |")


if __name__ == "__main__":
    main()
