"""One window: prefill, then one step per frame. Owns the caches and the loop; the language model owns the weights.

Each sample has a conditional row (context and text) and, under guidance, an unconditional one (neither). The
unconditional row of a STAGE model starts at the separator, in a cache of its own: its context is neither computed nor
attended to. All variations of one context share its prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.lm.delay_pattern import delay, undelay
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.prefix import Layout, join
from stage_cli.core.lm.sampling import guide, sample
from stage_cli.core.lm.transformer import LanguageModel


@dataclass
class Rows:
    """Rows of a batch that share a past: their delayed tokens and their cache.

    Attributes:
        tokens: `[R, K, S]` delayed; steps of the target hold pads until they are written.
        layout: where context and target lie in them.
        cache: what the language model has seen of them.
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


def prefill(lm: LanguageModel, context: Tensor, target: Tensor, variations: int, text: Tensor | None) -> Rows:
    """Run the context once for each sample; its variations share what the cache holds then.

    Args:
        lm: the language model.
        context: `[B, K, Tc]`; Tc = 0 for none.
        target: `[B · variations, K, Tt]`, the known frames and pads behind them.
        variations: rows that share one context.
        text: `[B, L, D]` projected text, or None.
    """
    layout = Layout(context.shape[2], target.shape[2], lm.config.separator, lm.config.codebooks)
    shared = delay(context, lm.config.pad)[:, :, layout.first_step : layout.shared_steps]
    B, _, past = shared.shape
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
    return Rows(tokens, layout, cache.repeat(variations, layout.steps), heard)


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
    """Write the rest of one window's target at once; the arguments are those of `decode_pieces`.

    Returns:
        `[B · variations, K, Tt]`, the known frames first.
    """
    whole = uniforms.shape[2]
    pieces = decode_pieces(lm, context, known, uniforms, config, piece=whole, text=text, on_step=on_step)
    return torch.cat([known, *pieces], dim=2)


@torch.inference_mode()
def decode_pieces(
    lm: LanguageModel,
    context: Tensor,
    known: Tensor,
    uniforms: Tensor,
    config: GenerationConfig,
    *,
    piece: int,
    text: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Generator[Tensor]:
    """Write the rest of one window's target, and hand it out while it grows.

    Args:
        lm: the language model.
        context: `[B, K, Tc]` codes under the window; Tc = 0 for none.
        known: `[B · variations, K, Tk]` target codes that exist already; they are never changed.
        uniforms: `[B · variations, K, Tt]`, uniform numbers in [0, 1), one for each token of the target.
        config: guidance and sampling.
        piece: frames to hand out at once, as soon as they are whole: no later step changes them.
        text: `[B, L, D]` projected text, or None.
        on_step: called after each step with the number of whole frames; may raise to stop.

    Yields:
        The newest frames, `[B · variations, K, piece]`, the last time what is left; all of them follow the known ones.
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
    sent = kept
    with StepThreads(lm) as threads:
        for step in range(kept, steps):
            tokens = sample(
                _guided(logits, config.guidance, len(groups)),
                draws[:, :, step],
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            _write(groups, step, tokens, writable[:, :, step])
            whole = max(kept, step + 2 - lm.config.codebooks)
            if on_step is not None:
                on_step(whole)
            if piece <= whole - sent and whole < frames:
                with threads.paused():
                    yield _frames(groups[0], sent, whole)
                sent = whole
            if step + 1 < steps:
                logits = _advance(lm, groups, step, step + 1)
            threads.step_done()
    if sent < frames:
        last = _frames(groups[0], sent, frames)
        groups.clear()  # the caches are needed no more, and whoever decodes the frames needs memory
        yield last


def _write(groups: list[Rows], step: int, tokens: Tensor, writable: Tensor) -> None:
    """Put tokens `[R, K]` into a step of the target, where they belong to frames that are to be written."""
    for rows in groups:
        here = rows.between(step, step + 1)[:, :, 0]
        here.copy_(torch.where(writable, tokens, here))


def _frames(rows: Rows, first: int, end: int) -> Tensor:
    """The target's frames [first, end), `[R, K, end − first]`; all their tokens must be there."""
    return undelay(rows.between(first - 1, end + rows.layout.codebooks - 1))


def _advance(lm: LanguageModel, groups: list[Rows], first: int, end: int) -> Tensor:
    """Feed the steps [first, end) of the target, all rows at once; returns the logits after them."""
    heard = [rows.heard[:, first + 1 : end + 1] for rows in groups if rows.heard is not None]
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
