"""Measure how long a listener waits: from the end of the prefill to the first sound of `stage generate --stream -`.

    uv run python tests/benchmarks/first_sound.py --model bundled-drums
    uv run python tests/benchmarks/make_model.py /tmp/random-small && \
        uv run python tests/benchmarks/first_sound.py --model /tmp/random-small

The context is a metronome's. "Prefill" is all from the codes of the context to the first token. "Behind" is the longest
time by which sound came later than a player that started with the first sound would have needed it: 0 if none waited.
The first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time

from environment import describe

from stage_cli.core.accompany import AccompanySettings
from stage_cli.core.contexts import MetronomeContext
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.model import StageModel
from stage_cli.core.stem_files import StemRequest, Stream, write_stems

HEADER_BYTES = 44


class Listener(io.BytesIO):
    """Notes when sound arrives, and how much was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[float, int]] = []

    def write(self, data: bytes) -> int:  # ty: ignore[invalid-method-override]
        self.heard.append((time.perf_counter(), self.tell()))
        return super().write(data)


def measure(model: StageModel, seconds: float, seed: int) -> tuple[float, float, float, float]:
    """Seconds of the prefill, to the first sound after it, behind a player, and times real time."""
    listener, steps = Listener(), []

    def on_progress(phase: str, _done: float, _total: float) -> None:
        if phase == "generate" and len(steps) < 2:  # before the prefill, and after the first token
            steps.append(time.perf_counter())

    request = StemRequest(MetronomeContext(120, duration=seconds), model.config.stem or "drums", ())
    config = GenerationConfig(seed=seed).for_model(model.config.sampling, [])
    result = write_stems(model, request, AccompanySettings(config), on_progress, stream=Stream(listener))
    sounds = listener.heard[1:]
    first = sounds[0][0]
    bytes_a_second = 2 * result.stems[0].sample_rate
    behind = max(at - first - (before - HEADER_BYTES) / bytes_a_second for at, before in sounds)
    return steps[1] - steps[0], first - steps[1], max(0.0, behind), seconds / result.compute_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled-drums")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    model = StageModel.from_pretrained(arguments.model, device=arguments.device, precision=arguments.precision)
    measure(model, 2.0, 0)
    rows = [measure(model, arguments.seconds, seed) for seed in range(arguments.rounds)]
    print(describe("torch"))
    print(f"{arguments.model} on {model.runtime.device} in {model.runtime.precision}, {arguments.seconds:g} s\n")
    print("| | prefill, s | first sound after it, s | behind a player, s | × real time |")
    print("| --- | --- | --- | --- | --- |")
    for name, choose in (("median", statistics.median), ("worst", max)):
        figures = [choose(column) for column in zip(*rows, strict=True)]
        if choose is max:
            figures[-1] = min(row[-1] for row in rows)
        print(f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
