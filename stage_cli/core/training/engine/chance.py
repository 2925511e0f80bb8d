"""Chance inside the module (dropout): a function of (seed, step, micro-batch), whatever ran before; and exact bits."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

_CHANCE_STREAM = 0xD20F


@contextmanager
def kept_generators(device: torch.device) -> Generator[None]:
    """Give torch's own generators, which modules draw from, their state back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def deterministic_algorithms(wanted: bool) -> Generator[None]:
    """Let torch use only algorithms that give the same bits each time, also on CUDA; afterwards as before."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def seed_generators(device: torch.device, seed: int, step: int, micro_batch: int) -> None:
    """Seed torch's own generators for one forward pass, the same on whichever process it is computed."""
    words = np.random.SeedSequence((seed, step, micro_batch), spawn_key=(_CHANCE_STREAM,)).generate_state(2, np.uint32)
    number = int(words[0]) << 31 ^ int(words[1])
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(number)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
