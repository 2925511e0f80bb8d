"""Time the decode step of a small model alone and beside busy processes, by how many threads it gets.

    uv run python tests/benchmarks/beside_others.py [--busy 0 2] [--rounds 3]

The steps are `bundled-drums`' own, after a context of a whole window, as `stage generate` takes them. "All threads" and
"as many as pay" are what it would do if the model were large (generation/threads.py).
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from statistics import median

# As the command line does (cli/app.py), and before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from environment import describe

from stage_cli.core.generation import threads
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.model import StageModel

WARM_UP = 5
WAYS = {
    "all threads, float32": ("float32", 0),
    "as many as pay, int8": ("int8", 0),
    "one thread, float32": ("float32", threads.SMALL_STEP),
    "one thread, int8: as shipped": ("int8", threads.SMALL_STEP),
}


def steps(model: StageModel, limit: int) -> list[float]:
    """Decode a window; returns the seconds of each step."""
    threads.SMALL_STEP = limit
    lm, times = model.lm, []
    frames = round(model.config.window_seconds * model.codec.config.frame_rate)
    context = torch.randint(lm.config.codebook_size, (1, lm.config.codebooks, frames))
    config = GenerationConfig().for_model(model.config.sampling_for(metronome=False), [])
    uniforms = torch.rand(1, lm.config.codebooks, frames)
    decode_window(lm, context, context[:, :, :0], uniforms, config, on_step=lambda _: times.append(time.perf_counter()))
    return [b - a for a, b in itertools.pairwise(times)][WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="busy processes beside it")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    models = {
        precision: StageModel.from_pretrained("bundled-drums", device="cpu", precision=precision)
        for precision in ("float32", "int8")
    }
    print(describe())
    print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, ms a step\n")
    names = [f"{count} busy processes beside it" if count else "nothing else runs" for count in arguments.busy]
    rows: dict[str, list[float]] = {name: [] for name in WAYS}
    for count in arguments.busy:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            times: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(arguments.rounds):
                for name, (precision, limit) in WAYS.items():
                    times[name] += steps(models[precision], limit)
        finally:
            for other in others:
                other.kill()
                other.wait()
        for name, seconds in times.items():
            # A barrier's lost time slices are few and long: the mean shows them, the median does not.
            rows[name] += [1e3 * median(seconds), 1e3 * sum(seconds) / len(seconds)]
    print("| | " + " | ".join(f"{name}: median | mean" for name in names) + " |")
    print("| --- |" + " --- | --- |" * len(names))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()
