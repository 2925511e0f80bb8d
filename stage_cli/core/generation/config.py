"""How to generate: the one place where each default stands. Imports no torch, so that the command line can read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage_cli.errors import UsageError


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are drawn and how windows advance over a long context; the defaults are STAGE's.

    Attributes:
        guidance: classifier-free guidance scale; 1 turns guidance off.
        temperature: of the softmax; 0 takes the most likely token (greedy).
        top_k: most likely tokens to draw from; 0 means all.
        top_p: share of the probability to draw from; 1 means all.
        seed: fixes the output. Variation i (counted from 0) draws with seed + i.
        variations: stems to write for one context, together in one batch.
        advance: share of the model's window by which windows move over a longer context.
    """

    guidance: float = 3.0
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 1.0
    seed: int = 0
    variations: int = 1
    advance: float = 0.5

    def __post_init__(self) -> None:
        _within("--guidance", self.guidance, 0, 100)
        _within("--temperature", self.temperature, 0, 10)
        _within("--top-k", self.top_k, 0, 1_000_000)
        _within("--top-p", self.top_p, 0, 1, above=True)
        _within("--seed", self.seed, 0, 2**62)
        _within("--variations", self.variations, 1, 64)
        _within("advance", self.advance, 0, 1, above=True)


def _within(option: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        allowed = f"more than {low} and at most {high}" if above else f"{low} to {high}"
        raise UsageError(f"{option} {value} is not possible", why=f"allowed: {allowed}")
