"""Rows of a batch that share a past, from the prefill of their context to the tokens of their target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.lm.delay_pattern import delay
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.prefix import Layout, join
from stage_cli.core.lm.transformer import LanguageModel


@dataclass
class Rows:
    """R rows: variations of some contexts.

    Attributes:
        tokens: `[R, K, S]` delayed; steps of the target hold pads until they are written.
        layout: where context and target lie in them.
        cache: what the language model has seen of their contexts, once for all variations of each.
        heard: `[R, places, D]` of `LanguageModel.hear`, for the steps from the separator's on, or None.
    """

    tokens: Tensor
    layout: Layout
    cache: KVCache
    heard: Tensor | None = None

    def between(self, first: int, end: int) -> Tensor:
        """Tokens of the steps [first, end), counted from the step of the target's first frame."""
        origin = self.layout.first_step_of(0)
        return self.tokens[:, :, origin + first : origin + end]


@dataclass(frozen=True)
class Draws:
    """What is drawn in a window, step by step of the target: frame t of codebook k stands at step t + k.

    Attributes:
        uniforms: `[R, K, steps]`, uniform numbers in [0, 1).
        writable: `[R, K, steps]`, True where a token belongs to a frame that is to be written.
    """

    uniforms: Tensor
    writable: Tensor

    @classmethod
    def of(cls, uniforms: Tensor, kept: int) -> Draws:
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
    heard = None
    if lm.config.aligned_context:
        places = target.shape[2] + lm.config.codebooks
        if states is None:
            heard = torch.zeros(B, places, lm.config.dimension, dtype=lm.dtype, device=context.device)
        else:
            heard = lm.hear(states, torch.full((B,), states.shape[1], device=context.device), places)
        heard = heard.repeat_interleave(variations, dim=0)
    return Rows(tokens, layout, cache, heard)


def heard_between(groups: Sequence[Rows], first: int, end: int) -> Tensor | None:
    """What all rows hear at the steps [first, end) of the target, `[rows, end − first, D]`, or None."""
    heard = [rows.heard[:, first + 1 : end + 1] for rows in groups if rows.heard is not None]
    return torch.cat(heard) if heard else None
