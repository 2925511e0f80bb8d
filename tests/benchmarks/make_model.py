"""Make a model directory of MusicGen's real shape with random weights: for benchmarks, which need no trained ones.

uv run python tests/benchmarks/make_model.py /tmp/random-small [--size small]

"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stage_cli.core.bench.run import random_config, write_random_model
from stage_cli.core.bench.settings import SIZES

PREFIX = "musicgen-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=[name.removeprefix(PREFIX) for name in SIZES], default="small")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = random_config(SIZES[PREFIX + arguments.size])
    # In float32, which the other precisions are compared with.
    write_random_model(arguments.directory, config, seed=arguments.seed, dtype=torch.float32)
    print(arguments.directory)


if __name__ == "__main__":
    main()
