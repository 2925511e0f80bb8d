"""How to generate: the one place where each default stands. Imports no torch, so that the command line can read it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from stage_cli.errors import UsageError, WeightsError

SAMPLING: tuple[str, ...] = ("guidance", "temperature", "top_k", "top_p", "advance", "lookahead")
"""What a model may have its own defaults of."""


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
        advance: share of the model's window by which windows move over a longer context; what is left of a window is
            the model's memory of what it played.
        lookahead: share of the window, at its end, that is heard and left to the next window to write.
    """

    guidance: float = 3.0
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 1.0
    seed: int = 0
    variations: int = 1
    advance: float = 0.5
    lookahead: float = 0.0

    def __post_init__(self) -> None:
        _within("guidance", self.guidance, 0, 100)
        _within("temperature", self.temperature, 0, 10)
        _within("top_k", self.top_k, 0, 1_000_000)
        _within("top_p", self.top_p, 0, 1, above=True)
        _within("seed", self.seed, 0, 2**62)
        _within("variations", self.variations, 1, 64)
        _within("advance", self.advance, 0, 1, above=True)
        _within("lookahead", self.lookahead, 0, 1, below=True)
        if self.advance + self.lookahead > 1 + 1e-9:
            raise UsageError(
                f"`advance` {self.advance:g} and `lookahead` {self.lookahead:g} are more than the window",
                why="what is new in a window and what is only heard must fit into it: together at most 1",
                next_step=f"`advance` {self.advance:g} `lookahead` {1 - self.advance:g}, or less",
            )

    @classmethod
    def from_options(cls, given: Mapping[str, float], *, seed: int = 0, variations: int = 1) -> GenerationConfig:
        """Make one of what a user chose by name; a default makes room for it (see `for_model`).

        Raises:
            UsageError: a value is not possible, or two do not go together.
        """
        default: dict[str, Any] = {**cls().sampling, **given}
        return cls(seed=seed, variations=variations, **_with_room(default, given))

    @property
    def sampling(self) -> dict[str, float]:
        """How tokens are drawn, but for the seed: what a model may have its own defaults of."""
        return {name: value for name, value in asdict(self).items() if name in SAMPLING}

    def for_model(self, sampling: Mapping[str, float], given: Collection[str]) -> GenerationConfig:
        """Return the same with a model's own defaults, but for what the user chose.

        Where the user chose one of advance and lookahead, and both were more than the window, the other makes room.

        Args:
            sampling: the model's (`StageConfig.sampling`).
            given: names of the fields to keep.

        Raises:
            WeightsError: the model names a setting that there is not.
            UsageError: the model's value is not possible.
        """
        if unknown := sorted(sampling.keys() - set(SAMPLING)):
            raise WeightsError(
                f"Unknown key sampling.{unknown[0]} in the model's config",
                why=f"known are: {', '.join(SAMPLING)}",
                next_step="update stage-cli",
            )
        merged = self.sampling | {name: value for name, value in sampling.items() if name not in given}
        return replace(self, **_with_room(merged, given))


def _with_room(sampling: Mapping[str, float], given: Collection[str]) -> dict[str, Any]:
    """Make the one of advance and lookahead that was not chosen fit beside the one that was."""
    fitting = dict(sampling)
    advance, lookahead = fitting["advance"], fitting["lookahead"]
    possible = 0 < advance <= 1 and 0 <= lookahead < 1  # what is not is told as it was typed
    if possible and advance + lookahead > 1 and ("advance" in given) != ("lookahead" in given):
        other, value = ("lookahead", 1 - advance) if "advance" in given else ("advance", 1 - lookahead)
        fitting[other] = value
    return fitting


def _within(field: str, value: float, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
    if not math.isfinite(value) or not low <= value <= high or (above and value == low) or (below and value == high):
        allowed = f"more than {low} and at most {high}" if above else f"{low} to {high}"
        allowed += f", but less than {high}" if below else ""
        raise UsageError(f"`{field}` {value} is not possible", why=f"allowed: {allowed}")
