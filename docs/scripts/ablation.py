"""Compare the layouts and losses that a small model can be trained with: same songs, same tokens, same steps.

    uv run python docs/scripts/ablation.py shards-101 … --codec runs/bundled-codec/model --directory runs/ablation

Each run is `stage train --config bundled-drums` with other options; the last one is the recipe as it stands. What is
compared is the loss of the validation, and how much it grows with another song's context ("context gap": what a model
that does not listen cannot have). Runs that are there already are not repeated. See docs/dev/bundled-models.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PUBLISHED = {
    "model.lm.positions": "absolute",
    "model.lm.context_attention": "causal",
    "model.lm.aligned_context": False,
    "model.lm.context_convolutions": 0,
    "train.history_dropout": 0.0,
    "train.beat_weight": 0.0,
    "model.embeddings": "random",
}
CODEC = {"model.embeddings": "codec"}
RESTART = {"model.lm.positions": "restart"}
FULL = {"model.lm.context_attention": "full"}
ALIGNED = {"model.lm.aligned_context": True}
CONVOLUTIONS = {"model.lm.context_convolutions": 6}
HIDDEN = {"train.history_dropout": 0.5}
BEATS = {"train.beat_weight": 2.0}
VARIANTS = {
    "published layout, `embeddings` random": {},
    "published layout": CODEC,
    "`positions`": CODEC | RESTART,
    "`context_attention`": CODEC | FULL,
    "`aligned_context`": CODEC | ALIGNED,
    "`aligned_context`, `context_attention`": CODEC | ALIGNED | FULL,
    "and `positions`": CODEC | ALIGNED | FULL | RESTART,
    "`aligned_context`, `context_attention`, `history_dropout`": CODEC | ALIGNED | FULL | HIDDEN,
    "and `beat_weight`": CODEC | ALIGNED | FULL | HIDDEN | BEATS,
    "and `context_convolutions`: the recipe": CODEC | ALIGNED | FULL | HIDDEN | BEATS | CONVOLUTIONS,
}
SHOWN = ("loss", "context_gap", "context_gap/metronome", "context_gap/mix")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--codec", default="runs/bundled-codec/model")
    parser.add_argument("--directory", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--last", type=int, default=len(VARIANTS), help="so many variants, from the end of the list")
    arguments = parser.parse_args()
    rows = []
    # From the last one: its tokens are labelled, which serve all.
    for number, (name, options) in reversed(list(enumerate(VARIANTS.items()))[-arguments.last :]):
        run = arguments.directory / f"{number}"
        if not (run / "model").exists():
            settings = {
                "run.directory": str(run),
                "model.codec": arguments.codec,
                "data.root": arguments.shards,
                "data.cache_directory": str(arguments.directory / "tokens"),
                "data.cache_epochs": 1,
                "train.steps": arguments.steps,
                "validate.every": arguments.steps,
                "validate.demos": 0,
                **PUBLISHED,
                **options,
            }
            chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
            command = [sys.executable, "-m", "stage_cli", "train", "--config", "bundled-drums", "--resume", *chosen]
            subprocess.run(command, check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = [line["metrics"] for line in lines if line["kind"] == "validation"][-1]
        rows.append([name, *(f"{last[f'validation/{key}']:.3f}" for key in SHOWN)])
    print(f"\n| {arguments.steps} steps | loss | context gap | metronomes | mixes |\n| --- | --- | --- | --- | --- |")
    for row in reversed(rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
