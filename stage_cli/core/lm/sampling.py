"""From logits to tokens. Randomness comes in as uniform numbers, so that a seed fixes every token on every device."""

from __future__ import annotations

import torch
from torch import Tensor


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
