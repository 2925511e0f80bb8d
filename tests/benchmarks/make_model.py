"""Make a model directory of MusicGen's real shape with random weights: for benchmarks, which need no trained ones.

uv run python tests/benchmarks/make_model.py /tmp/random-small [--size small]

"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig

SIZES = {"small": (1024, 24, 16), "medium": (1536, 48, 24), "large": (2048, 48, 32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    width, layers, heads = SIZES[arguments.size]
    lm = LanguageModelConfig(dimension=width, layers=layers, heads=heads, feed_forward=4 * width)
    torch.manual_seed(arguments.seed)
    model = StageModel(StageConfig(lm=lm, stem="drums", licence="none: random numbers", base="random"))
    with torch.no_grad():
        model.codec.quantizer.codebooks.normal_()
    model.save_pretrained(arguments.directory)
    print(arguments.directory)


if __name__ == "__main__":
    main()
