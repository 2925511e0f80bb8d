"""Rows of a batch that share a past, from the prefill of their context to the tokens of their target.

From logits to tokens. Randomness comes in as uniform numbers, so that a seed fixes every token on every device.

The steps of one window: draw a token of each codebook, write it, feed it. Here on memory that grows as it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.cache import KVCache, repeat_rows
from stage_cli.core.lm.layout import Layout, delay, join, undelay
from stage_cli.core.lm.transformer import LanguageModel


@dataclass
class Rows:
    """R rows: variations of some contexts.

    Attributes:
        tokens: `[R, K, S]` delayed; steps of the target hold pads until they are written.
        layout: where context and target lie in them.
        cache: what the language model has seen of their contexts, once for all variations of each.
        context_states: `[R, places, D]` of `LanguageModel.encode_context`, from the separator on, or None.
    """

    tokens: Tensor
    layout: Layout
    cache: KVCache
    context_states: Tensor | None = None

    def between(self, first: int, end: int) -> Tensor:
        """Tokens of the steps [first, end), counted from the step of the target's first frame."""
        origin = self.layout.first_step_of(0)
        return self.tokens[:, :, origin + first : origin + end]


@dataclass(frozen=True)
class UniformNumbers:
    """What is drawn in a window, step by step of the target: frame t of codebook k stands at step t + k.

    Attributes:
        uniforms: `[R, K, steps]`, uniform numbers in [0, 1).
        writable: `[R, K, steps]`, True where a token belongs to a frame that is to be written.
    """

    uniforms: Tensor
    writable: Tensor

    @classmethod
    def of(cls, uniforms: Tensor, kept: int) -> UniformNumbers:
        """Lay out the numbers `[R, K, Tt]` of a window whose first `kept` frames are known."""
        frames = torch.arange(uniforms.shape[2], device=uniforms.device).expand_as(uniforms)
        return cls(delay(uniforms, 0.0)[:, :, 1:], delay(frames, -1)[:, :, 1:] >= kept)

    @property
    def steps(self) -> int:
        """Steps of the target: Tt + K − 1."""
        return self.uniforms.shape[2]


def prefill(lm: LanguageModel, context: Tensor, target: Tensor, text: Tensor | None) -> Rows:
    """Run each context once.

    Args:
        lm: the language model.
        context: `[B, K, Tc]`; Tc = 0 for none.
        target: `[B · variations, K, Tt]`, the known frames and pads behind them.
        text: `[B, L, D]` projected text, or None.
    """
    layout = Layout(context.shape[2], target.shape[2], lm.config.separator, lm.config.codebooks)
    shared = delay(context, lm.config.pad)[:, :, layout.first_step : layout.shared_steps]
    B, _, past = shared.shape
    variations = target.shape[0] // B
    cache = KVCache.allocate(lm.config, B, past, dtype=lm.cache_dtype, device=context.device)
    if text is not None:
        lm.attach_text(cache, text)
    if lm.config.restarts:
        cache.restart = layout.shared_steps - layout.first_step  # where the separator will stand in the cache
    states = lm.prefill(shared, cache) if past else None
    tokens = delay(join(context.repeat_interleave(variations, dim=0), target, lm.config), lm.config.pad)
    context_states = None
    if lm.config.aligned_context:
        places = target.shape[2] + lm.config.codebooks
        if states is None:
            context_states = torch.zeros(B, places, lm.config.dimension, dtype=lm.dtype, device=context.device)
        else:
            context_states = lm.encode_context(states, torch.full((B,), states.shape[1], device=context.device), places)
        context_states = context_states.repeat_interleave(variations, dim=0)
    return Rows(tokens, layout, cache, context_states)


def context_states_between(groups: Sequence[Rows], first: int, end: int) -> Tensor | None:
    """What all rows hear at the steps [first, end) of the target, `[rows, end − first, D]`, or None."""
    context_states = [rows.context_states[:, first + 1 : end + 1] for rows in groups if rows.context_states is not None]
    return torch.cat(context_states) if context_states else None


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: unconditional + guidance · (conditional − unconditional), any equal shapes."""
    return torch.lerp(unconditional, conditional, guidance)


def sample(
    logits: Tensor, uniforms: Tensor, *, temperature: float = 1.0, top_k: int = 250, top_p: float = 1.0
) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution.

    The k most likely tokens are kept, then the fewest of those whose probabilities (after softmax over the k) reach
    top-p; the most likely one is always kept. The distribution is accumulated in the order of the tokens' ids, not of
    their probabilities: rounding (bfloat16, int8, another machine) that swaps two ranks then changes hardly a token.

    Args:
        logits: `[…, V]` fp32.
        uniforms: `[…]`, uniform in [0, 1).
        temperature: 0 takes the most likely token.
        top_k: tokens kept; 0 keeps all.
        top_p: share of probability kept; 1 keeps all.

    Returns:
        `[…]` int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    kept = vocabulary if top_k == 0 else min(top_k, vocabulary)
    values, tokens = logits.topk(kept, dim=-1)  # sorted, largest first
    probabilities = (values / temperature).softmax(dim=-1)
    if top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.where((before < top_p) | (before <= 0), 0.0)
    tokens, order = tokens.sort(dim=-1)
    cumulative = probabilities.gather(-1, order).cumsum(dim=-1)
    index = (cumulative <= uniforms[..., None] * cumulative[..., -1:]).sum(dim=-1)
    # Rounding can carry u · total past the last kept token: take the last one that has a probability then.
    last = (cumulative < cumulative[..., -1:]).sum(dim=-1)
    return tokens.gather(-1, torch.minimum(index, last)[..., None])[..., 0]


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
        numbers: of the window.
        kept: known frames; they are fed together with the step before them (the separator, or the past).
        config: guidance and sampling.
    """

    def __init__(
        self, lm: LanguageModel, groups: Sequence[Rows], numbers: UniformNumbers, kept: int, config: GenerationConfig
    ) -> None:
        del kept  # the first step feeds them
        self._lm, self._groups, self._numbers, self._config = lm, groups, numbers, config
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
        tokens = sample_tokens(logits, self._numbers.uniforms[:, :, step], len(self._groups), self._config)
        writable = self._numbers.writable[:, :, step]
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
        return self._lm.advance(tokens, self._caches, context_states_between(self._groups, first, end))


def sample_tokens(logits: Tensor, uniforms: Tensor, groups: int, config: GenerationConfig) -> Tensor:
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
