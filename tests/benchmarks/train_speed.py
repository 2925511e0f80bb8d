"""Time a training step: language model, codec, share of the device's matrix rate.

    uv run python tests/benchmarks/train_speed.py                       # CUDA: musicgen-small, 10 s + 10 s, bfloat16
    uv run python tests/benchmarks/train_speed.py --device cpu --small --steps 3    # a dry run of the script

Random weights and noise: nothing is read, so this is the device's own speed, without the loader. The step is the
engine's (`core/training/loop.py`): tokens of context and target, one forward and backward pass of each
micro-batch, the guard, clipping, AdamW. The floating point operations counted are those of the matrices and of the
causal attention, three times the forward pass's (checkpointing's second forward pass is not counted as work done). The
matrix rate is that of a bfloat16 product of 8192 × 8192 × 8192 (fp32 of 1024³ on a CPU), measured in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from environment import describe

from stage_cli.core.codec.config import CodecConfig, make_codec
from stage_cli.core.data.dataset import AudioBatch
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.training.distributed import Processes, joined
from stage_cli.core.training.loader import MicroBatch
from stage_cli.core.training.loop import Stepper
from stage_cli.core.training.optimizers import Optimizers
from stage_cli.core.training.settings import RunConfig, TrainConfig
from stage_cli.core.training.stem_module import StemModule, TokenBatch
from stage_cli.core.training.stem_task import parameter_groups
from stage_cli.core.training.tokens import encode_batch

SMALL_CODEC = CodecConfig(filters=4, dimension=16, lstm_layers=1, codebook_size=64)
SMALL_LM = LanguageModelConfig(codebook_size=64, dimension=64, layers=2, heads=2, feed_forward=256, text_dimension=None)


class NoiseTask:
    """What the engine trains, with noise for audio and every context whole."""

    units = ("TransformerLayer",)

    def __init__(self, lm: LanguageModelConfig, codec: CodecConfig, *, checkpointing: bool) -> None:
        model = LanguageModel(lm)
        model.set_checkpointing(checkpointing)
        self.module = StemModule(model, None, [1 / lm.codebooks] * lm.codebooks)
        self.codec = make_codec(codec).eval()
        self.dataset: list[Any] = []

    def place(self, device: torch.device) -> None:
        self.codec.to(device)

    def inputs(self, batch: AudioBatch, epoch: int) -> TokenBatch:
        codes = encode_batch(self.codec, batch)
        return TokenBatch(codes.context, codes.context_frames, codes.target, None, None)

    def audio_seconds(self, batch: AudioBatch) -> float:
        return batch.target.numel() / self.codec.config.sample_rate


def noise(rows: int, seconds: float, sample_rate: int) -> AudioBatch:
    generator = torch.Generator().manual_seed(0)
    samples = round(seconds * sample_rate)
    audio = torch.randn(2, rows, samples, generator=generator) * 0.1
    items: Any = tuple(SimpleNamespace(song="noise", index=index) for index in range(rows))
    return AudioBatch(audio[0], torch.full((rows,), samples), audio[1], ("",) * rows, items)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, times: int, action: Any) -> float:
    """Median seconds of an action, the device's work included."""
    found = []
    for _ in range(times + 2):
        wait(device)
        began = time.perf_counter()
        action()
        wait(device)
        found.append(time.perf_counter() - began)
    return median(found[2:])


def matrix_rate(device: torch.device) -> float:
    """Floating point operations a second of one large matrix product."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timed(device, 10, lambda: a @ b)


def operations(lm: LanguageModelConfig, rows: int, context: int, target: int) -> float:
    """Floating point operations of a forward and a backward pass: three times the forward pass's."""
    D, steps = lm.dimension, context + target + 1
    layer = 2 * (4 * D * D + 2 * D * lm.feed_forward) * steps + 2 * 2 * D * steps * steps / 2
    heads = 2 * D * lm.codebooks * lm.codebook_size * target
    return 3.0 * rows * (lm.layers * layer + heads)


def measure(processes: Processes, arguments: argparse.Namespace, rows: int) -> dict[str, float | int | str]:
    lm = SMALL_LM if arguments.small else replace(LanguageModelConfig(), text_dimension=None)
    codec = SMALL_CODEC if arguments.small else CodecConfig()
    task = NoiseTask(lm, codec, checkpointing=arguments.checkpointing)
    run = RunConfig(device=arguments.device, compile=arguments.compile)
    task.place(processes.device)
    module = processes.prepare(task.module, run, task.units)
    config = TrainConfig(batch_size=rows, micro_batch_size=rows)
    optimizers = Optimizers(config, dict(task.module.named_parameters()), parameter_groups(task.module))
    stepper = Stepper(task, module, optimizers, None, processes, config, 0, 1)
    batch = noise(rows, arguments.seconds, codec.sample_rate).to(processes.device)
    batches = itertools.repeat((MicroBatch(0, 0, ()), batch))
    counter = itertools.count(1)
    step = timed(processes.device, arguments.steps, lambda: stepper.step(next(counter), batches, None))
    codes = timed(processes.device, arguments.steps, lambda: task.inputs(batch, 0))
    frames = codec.frames(batch.target.shape[1])
    rate = matrix_rate(processes.device)
    memory = torch.cuda.max_memory_allocated() / 1e9 if processes.device.type == "cuda" else float("nan")
    return {
        "rows": rows,
        "step_seconds": step,
        "codec_share": codes / step,
        "audio_seconds_per_second": rows * arguments.seconds / step,
        "matrix_rate_tflops": rate / 1e12,
        "lm_utilisation": operations(lm, rows, frames, frames) / (step - codes) / rate,
        "memory_gb": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 8, 16, 32], help="sequences of a forward pass")
    parser.add_argument("--seconds", type=float, default=10.0, help="of context and of target, each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--small", action="store_true", help="a tiny model: does the script run?")
    arguments = parser.parse_args()
    print(describe("torch", "accelerate"))
    if arguments.device.startswith("cuda"):
        print(torch.cuda.get_device_name())
    precision = "bfloat16" if arguments.device.startswith("cuda") else "float32"
    for rows in arguments.rows:
        with joined(RunConfig(device=arguments.device, precision=precision, compile=arguments.compile)) as processes:
            print(json.dumps(measure(processes, arguments, rows)), flush=True)


if __name__ == "__main__":
    main()
