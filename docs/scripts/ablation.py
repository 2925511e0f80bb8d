"""Compare the layouts and losses that a small model can be trained with: same songs, same tokens, same steps.

    uv run python docs/scripts/ablation.py shards-101 … --codec runs/bundled-codec/model --directory runs/ablation

Each run is `stage train --config bundled-drums` with other options; the last one is the recipe as it stands. What is
compared is the loss of the validation, and how much it grows with another song's context ("context gap": what a model
that does not listen cannot have). Runs that are there already are not repeated. See docs/bundled-models.md.
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
    "train.history_dropout": 0.0,
    "train.beat_weight": 0.0,
    "model.embeddings": "random",
}
CODEC = {"model.embeddings": "codec"}
RESTART = {"model.lm.positions": "restart"}
FULL = {"model.lm.context_attention": "full"}
ALIGNED = {"model.lm.aligned_context": True}
ALL = RESTART | FULL | ALIGNED
HIDDEN = {"train.history_dropout": 0.5}
BEATS = {"train.beat_weight": 2.0}
VARIANTS = {
    "published layout, `embeddings` random": {},
    "published layout": CODEC,
    "`positions`": CODEC | RESTART,
    "`context_attention`": CODEC | FULL,
    "`aligned_context`": CODEC | ALIGNED,
    "all three": CODEC | ALL,
    "all three, `history_dropout`": CODEC | ALL | HIDDEN,
    "all three, `history_dropout`, `beat_weight`": CODEC | ALL | HIDDEN | BEATS,
}
SHOWN = ("loss", "context_gap", "context_gap/metronome", "context_gap/mix")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--codec", default="runs/bundled-codec/model")
    parser.add_argument("--directory", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    rows = []
    # From the last one: its tokens are labelled, which serve all.
    for number, (name, options) in reversed(list(enumerate(VARIANTS.items()))):
        run = arguments.directory / f"{number}"
        if not (run / "model").exists():
            settings = {
                "run.directory": str(run),
                "model.codec": arguments.codec,
                "data.root": arguments.shards,
                "data.cache_directory": str(arguments.directory / "tokens"),
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
