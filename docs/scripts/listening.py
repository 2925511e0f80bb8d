"""Measure what a model in training hears of beats in its contexts, and what of that it learned by heart.

    uv run python docs/scripts/listening.py runs/bundled-drums

For runs with `train.beat_weight`: the read-out that it trains lies in the run's checkpoints. Beats are read off what
the layers make of the context alone, for items of three kinds: those that the run learned from, other draws of the same
songs (other places, mixes and effects), and songs that validate. Printed for mixes and metronomes: the binary
cross-entropy of beats and downbeats, and the F measure of the beats' peaks within one frame (40 ms in the bundled
codec). Where the first kind is much better than the second, more draws would help (`data.cache_epochs`); where it is
not good either, the model learns too slowly. See docs/dev/bundled-models.md.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.training.building import build_model
from stage_cli.core.training.stem_module import BEATS
from stage_cli.core.training.stem_task import StemTask
from stage_cli.core.training.toml import load_config

LEAST = 0.3  # of a peak's probability


def peaks(values: np.ndarray) -> np.ndarray:
    """Frames that are higher than `LEAST` and their neighbours."""
    inner = values[1:-1]
    return 1 + np.flatnonzero((inner > LEAST) & (inner >= values[:-2]) & (inner > values[2:]))


def f_measure(found: np.ndarray, true: np.ndarray) -> float:
    """F of frames, each within one of another."""
    hits = sum(bool(np.any(np.abs(true - frame) <= 1)) for frame in found)
    return 2 * hits / max(1, len(found) + len(true))


@torch.inference_mode()
def measure(task: StemTask, items: StemDataset, count: int, batch: int = 8) -> dict[str, list[tuple[float, float]]]:
    """Cross-entropy and F of some items, by kind of context."""
    module, rows = task.module, defaultdict(list)
    numbers = random.Random(0).sample(range(len(items)), min(count, len(items)))
    for first in range(0, len(numbers), batch):
        drawn = [items[number] for number in numbers[first : first + batch]]
        tokens = task.inputs(task.collate(drawn), 0, drop=False)
        labels = tokens.labels
        assert labels is not None
        _, context = module.after_context(tokens)
        read = module.listening.read(context.states[..., : module.lm.config.dimension]).float()
        for item, row, label, own in zip(drawn, read, labels, tokens.context_frames, strict=True):
            found, told = row[len(row) - own :, :BEATS], label[:own, :BEATS]
            if not told.isnan().any():
                entropy = float(F.binary_cross_entropy_with_logits(found, told))
                f = f_measure(peaks(found[:, 0].sigmoid().numpy()), peaks(told[:, 0].numpy()))
                rows[item.context_kind].append((entropy, f))
    return rows


def main() -> None:
    """Print a line for each kind of item and of context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=160, help="items of each kind")
    arguments = parser.parse_args()
    config = load_config(str(arguments.run / "config.toml"))
    task = StemTask(config, build_model(config))
    task.place(torch.device("cpu"))
    checkpoint = max((arguments.run / "checkpoints").iterdir())
    task.module.load_state_dict(load_file(checkpoint / "model.safetensors"))
    task.module.eval()
    rate, seed = task.model.config.codec.sample_rate, config.run.seed
    kinds = {
        "learned from": StemDataset(config.data, rate, seed, songs=task.training_songs),
        "other draws": StemDataset(config.data, rate, seed + 1, songs=task.training_songs),
        "other songs": StemDataset(config.data, rate, seed + 1, songs=task.validation_songs),
    }
    print(f"{checkpoint}\n\n| items | context | number | cross-entropy | F of beats |\n| --- | --- | --- | --- | --- |")
    for name, items in kinds.items():
        for context, rows in sorted(measure(task, items, arguments.count).items()):
            entropy, f = np.mean(rows, axis=0)
            print(f"| {name} | {context} | {len(rows)} | {entropy:.3f} | {f:.2f} |", flush=True)


if __name__ == "__main__":
    main()
