"""One window: prefill, then one step per frame. Owns the caches and the loop; the language model owns the weights.

Each sample has a conditional row (context and text) and, under guidance, an unconditional one (neither). The
unconditional row of a STAGE model starts at the separator, in a cache of its own: its context is neither computed nor
attended to. All variations of one context share its prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import StaticSteps
from stage_cli.core.generation.rows import Draws, prefill
from stage_cli.core.generation.steps import PlainSteps, Steps
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.lm.transformer import LanguageModel


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
    groups = [prefill(lm, context, target, text)]
    # Without a separator the context is the past itself, and only the text tells the two rows apart.
    if config.guidance != 1 and (text is not None or (lm.config.separator and context.shape[2])):
        past = context[:, :, :0] if lm.config.separator else context
        groups.append(prefill(lm, past, target, None))
    draws = Draws.of(uniforms, kept)
    steps: Steps | None = steps_for(lm)(lm, groups, draws, kept, config)
    rows = len(groups) * uniforms.shape[0]
    del groups  # what the steps need of them they have taken over
    sent = kept
    with StepThreads(lm, rows) as threads:
        for step in range(kept, draws.steps):
            steps.run(step)
            whole = max(kept, step + 2 - lm.config.codebooks)
            if on_step is not None:
                on_step(whole)
            if piece <= whole - sent and whole < frames:
                with threads.paused():
                    yield steps.frames(sent, whole)
                sent = whole
            threads.step_done()
    if sent < frames:
        last = steps.frames(sent, frames)
        steps = None  # its caches are needed no more, and whoever decodes the frames needs memory
        yield last


def steps_for(lm: LanguageModel) -> type[PlainSteps | StaticSteps]:
    """Return how a model's steps are taken on its device."""
    return StaticSteps if lm.embeddings.device.type == "cuda" else PlainSteps
