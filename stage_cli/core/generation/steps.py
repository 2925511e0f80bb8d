"""The steps of one window: draw a token of each codebook, write it, feed it. Here on memory that grows as it must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.rows import Draws, Rows, heard_between
from stage_cli.core.lm.delay_pattern import undelay
from stage_cli.core.lm.kv_cache import repeat_rows
from stage_cli.core.lm.sampling import guide, sample
from stage_cli.core.lm.transformer import LanguageModel


class Steps(Protocol):
    """Takes the steps of one window, in their order."""

    def run(self, step: int) -> None:
        """Feed what was written, and write the tokens of a step of the target."""
        ...

    def frames(self, first: int, end: int) -> Tensor:
        """Return the target's frames [first, end), `[R, K, end − first]`; all their tokens must be there."""
        ...


class PlainSteps:
    """Steps operation by operation.

    Args:
        lm: the language model.
        groups: conditional rows, and under guidance the unconditional ones; their caches are taken over.
        draws: of the window.
        kept: known frames; they are fed together with the step before them (the separator, or the past).
        config: guidance and sampling.
    """

    def __init__(
        self, lm: LanguageModel, groups: Sequence[Rows], draws: Draws, kept: int, config: GenerationConfig
    ) -> None:
        del kept  # the first step feeds them
        self._lm, self._groups, self._draws, self._config = lm, groups, draws, config
        self._caches = repeat_rows(
            [rows.cache for rows in groups],
            groups[0].tokens.shape[0] // groups[0].cache.rows,
            [rows.layout.steps for rows in groups],
            values=lm.cached_values_dtype,
        )
        for rows, cache in zip(groups, self._caches, strict=True):
            rows.cache = cache  # the prefill's own memory is needed no more
        self._fed = -1

    def run(self, step: int) -> None:
        """See `Steps.run`."""
        logits = self._feed(self._fed, step)
        self._fed = step
        tokens = draw(logits, self._draws.uniforms[:, :, step], len(self._groups), self._config)
        writable = self._draws.writable[:, :, step]
        for rows in self._groups:
            here = rows.between(step, step + 1)[:, :, 0]
            here.copy_(torch.where(writable, tokens, here))

    def frames(self, first: int, end: int) -> Tensor:
        """See `Steps.frames`."""
        rows = self._groups[0]
        return undelay(rows.between(first - 1, end + rows.layout.codebooks - 1))

    def _feed(self, first: int, end: int) -> Tensor:
        """Feed the steps [first, end) of the target, all rows at once; returns the logits after them."""
        tokens = torch.cat([rows.between(first, end) for rows in self._groups])
        return self._lm.advance(tokens, self._caches, heard_between(self._groups, first, end))


def draw(logits: Tensor, uniforms: Tensor, groups: int, config: GenerationConfig) -> Tensor:
    """Draw the tokens `[R, K]` of one step.

    Args:
        logits: `[groups · R, K, V]` fp32: conditional rows, then unconditional ones if there are two groups.
        uniforms: `[R, K]` in [0, 1).
        groups: 1, or 2 under guidance.
        config: guidance and sampling.
    """
    if groups == 2:
        conditional, unconditional = logits.chunk(2)
        logits = guide(conditional, unconditional, config.guidance)
    return sample(logits, uniforms, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
