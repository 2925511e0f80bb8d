"""One window: prefill, then one step per frame. Owns the caches and the loop; the language model owns the weights.

Each sample has a conditional row (context and text) and, under guidance, an unconditional one (neither). The
unconditional row of a STAGE model starts at the separator, in a cache of its own: its context is neither computed nor
attended to. All variations of one context share its prefill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.lm.delay_pattern import delay, undelay
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.prefix import Layout, companions, join
from stage_cli.core.lm.sampling import guide, sample
from stage_cli.core.lm.transformer import LanguageModel


@dataclass
class Rows:
    """Rows of a batch that share a past: their delayed tokens and their cache.

    Attributes:
        tokens: `[R, K, S]` delayed; steps of the target hold pads until they are written.
        layout: where context and target lie in them.
        cache: what the language model has seen of them.
        companions: `[R, K, K, places]` of the target's steps, counted from the separator's (`lm/prefix.py`), or None.
    """

    tokens: Tensor
    layout: Layout
    cache: KVCache
    companions: Tensor | None = None

    def between(self, first: int, end: int) -> Tensor:
        """Tokens of the steps [first, end), counted from the step of the target's first frame."""
        origin = self.layout.first_step_of(0)
        return self.tokens[:, :, origin + first : origin + end]


def prefill(lm: LanguageModel, context: Tensor, target: Tensor, variations: int, text: Tensor | None) -> Rows:
    """Run the context once for each sample, then copy the cache for its variations.

    Args:
        lm: the language model.
        context: `[B, K, Tc]`; Tc = 0 for none.
        target: `[B · variations, K, Tt]`, the known frames and pads behind them.
        variations: rows that share one context.
        text: `[B, L, D]` projected text, or None.
    """
    layout = Layout(context.shape[2], target.shape[2], lm.config.separator, lm.config.codebooks)
    cache = KVCache.allocate(lm.config, context.shape[0], layout.steps, dtype=lm.cache_dtype, device=context.device)
    if text is not None:
        lm.attach_text(cache, text)
    if lm.config.restarts:
        cache.restart = layout.shared_steps - layout.first_step  # where the separator will stand in the cache
    shared = delay(context, lm.config.pad)[:, :, layout.first_step : layout.shared_steps]
    if shared.shape[2]:
        lm.advance(shared, [cache])
    tokens = delay(join(context.repeat_interleave(variations, dim=0), target, lm.config), lm.config.pad)
    heard = None
    if lm.config.aligned_context:
        places = torch.arange(target.shape[2] + lm.config.codebooks, device=context.device)
        heard = companions(context, places.expand(context.shape[0], -1), lm.config)
        heard = heard.repeat_interleave(variations, dim=0)
    return Rows(tokens, layout, cache.repeat(variations), heard)


@torch.inference_mode()
def decode_window(
    lm: LanguageModel,
    context: Tensor,
    known: Tensor,
    uniforms: Tensor,
    config: GenerationConfig,
    *,
    text: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Write the rest of one window's target.

    Args:
        lm: the language model.
        context: `[B, K, Tc]` codes under the window; Tc = 0 for none.
        known: `[B · variations, K, Tk]` target codes that exist already; they are never changed.
        uniforms: `[B · variations, K, Tt]`, uniform numbers in [0, 1), one for each token of the target.
        config: guidance and sampling.
        text: `[B, L, D]` projected text, or None.
        on_step: called after each step with the number of whole frames; may raise to stop.

    Returns:
        `[B · variations, K, Tt]`, the known frames first.
    """
    kept, frames = known.shape[2], uniforms.shape[2]
    target = torch.cat([known, known.new_full((*known.shape[:2], frames - kept), lm.config.pad)], dim=2)
    variations = known.shape[0] // context.shape[0]
    groups = [prefill(lm, context, target, variations, text)]
    # Without a separator the context is the past itself, and only the text tells the two rows apart.
    if config.guidance != 1 and (text is not None or (lm.config.separator and context.shape[2])):
        past = context[:, :, :0] if lm.config.separator else context
        groups.append(prefill(lm, past, target, variations, None))
    # Steps of the target part: frame t of codebook k stands at step t + k.
    draws = delay(uniforms, 0.0)[:, :, 1:]
    writable = delay(torch.arange(frames, device=known.device).expand_as(target), -1)[:, :, 1:] >= kept
    steps = frames + lm.config.codebooks - 1
    # The step before the target's first one (the separator, or the past) is fed together with the known frames.
    logits = _advance(lm, groups, -1, kept)
    with StepThreads(lm) as threads:
        for step in range(kept, steps):
            tokens = sample(
                _guided(logits, config.guidance, len(groups)),
                draws[:, :, step],
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            for rows in groups:
                here = rows.between(step, step + 1)[:, :, 0]
                here.copy_(torch.where(writable[:, :, step], tokens, here))
            if on_step is not None:
                on_step(max(kept, step + 2 - lm.config.codebooks))
            if step + 1 < steps:
                logits = _advance(lm, groups, step, step + 1)
            threads.step_done()
    first = groups[0]
    return undelay(first.tokens)[:, :, first.layout.target_column :]


def _advance(lm: LanguageModel, groups: list[Rows], first: int, end: int) -> Tensor:
    """Feed the steps [first, end) of the target, all rows at once; returns the logits after them."""
    heard = [rows.companions[..., first + 1 : end + 1] for rows in groups if rows.companions is not None]
    return lm.advance(
        torch.cat([rows.between(first, end) for rows in groups]),
        [rows.cache for rows in groups],
        torch.cat(heard) if heard else None,
    )


def _guided(logits: Tensor, guidance: float, groups: int) -> Tensor:
    """Logits of the conditional rows, guided when unconditional ones follow them."""
    if groups == 1:
        return logits
    conditional, unconditional = logits.chunk(2)
    return guide(conditional, unconditional, guidance)
