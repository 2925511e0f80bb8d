"""Make the package's assets of trained models: one codec, which all of them share, and a language model a stem.

    uv run python docs/scripts/pack_bundled_models.py runs/bundled-drums runs/bundled-bass

Each run's model goes to `stage_cli/assets/<its stem>`, the codec of the first to `stage_cli/assets/codec`; the others
must have been trained on the same one. Sampling defaults are written into the models' configs. See
docs/dev/bundled-models.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from stage_cli.core.weights.checkpoint import plan_directory
from stage_cli.core.weights.formats import Plan
from stage_cli.core.weights.hub import ASSETS, resolve
from stage_cli.core.weights.saving import Packing, pack_codec, pack_model


def main() -> None:
    """Read the command line and write the assets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="runs or model directories, each trained for one stem")
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--packing", choices=("int8", "float16"), default="int8", help="of the language models")
    parser.add_argument("--codec-packing", choices=get_args(Packing), default="int8-decoder")
    parser.add_argument("--codec-gain", type=float, default=0.0, help="dB by which the codec's audio is made louder")
    parser.add_argument("--sampling", nargs="*", default=(), metavar="NAME=VALUE", help="such as guidance=3 top_k=40")
    parser.add_argument(
        "--metronome-sampling", nargs="*", default=(), metavar="NAME=VALUE", help="for metronome tracks"
    )
    parser.add_argument("--note", default="", help="what whoever uses the models should know")
    options = parser.parse_args()
    plans = [plan_directory(resolve(name)) for name in options.models]
    first = plans[0]
    for name, plan in zip(options.models, plans, strict=True):
        if plan.config.stem is None or not same_codec(first, plan):
            raise SystemExit(f"{name} was not trained for one stem, or on another codec than {options.models[0]}")
    pack_codec(
        options.output / "codec", first.config, first.sources, packing=options.codec_packing, gain=options.codec_gain
    )
    sampling, metronome_sampling = values(options.sampling), values(options.metronome_sampling)
    for plan in plans:
        config = replace(
            plan.config,
            base=None,
            sampling=sampling or plan.config.sampling,
            metronome_sampling=metronome_sampling or plan.config.metronome_sampling,
            note=options.note or plan.config.note,
        )
        directory = options.output / str(config.stem)
        pack_model(directory, config, plan.sources, packing=options.packing, codec="../codec")
    for path in sorted(options.output.glob("*/*.safetensors")):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def values(pairs: Sequence[str]) -> dict[str, float]:
    """Read `NAME=VALUE` pairs; whole numbers stay whole."""
    given = dict(pair.split("=", 1) for pair in pairs)
    return {name: int(value) if value.isdigit() else float(value) for name, value in given.items()}


def same_codec(one: Plan, other: Plan) -> bool:
    """Tell whether two models were trained on one codec: the same sizes and the same tensors, bit for bit."""
    return one.config.codec == other.config.codec and all(
        torch.equal(tensor, codec_tensor(other, name)) for name, tensor in codec_tensors(one)
    )


def codec_tensors(plan: Plan) -> list[tuple[str, torch.Tensor]]:
    """List the codec's tensors."""
    return [(name, codec_tensor(plan, name)) for source in plan.sources for name in source.recipes if "codec." in name]


def codec_tensor(plan: Plan, name: str) -> torch.Tensor:
    """Read one tensor of the codec."""
    source = next(source for source in plan.sources if name in source.recipes)
    return source.build(name).clone()


if __name__ == "__main__":
    main()
