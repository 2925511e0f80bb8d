"""MusicGen's positions (https://arxiv.org/abs/2306.05284).

One layer of MusicGen's decoder, and its attention over what came before.

Pre-norm; self-attention, cross-attention to the text, feed-forward of GELU; no bias in any linear
(https://arxiv.org/abs/2306.05284; names of the weights in docs/dev/model.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from stage_cli.core.lm.cache import KVCache
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.linear import linear


def sinusoids(positions: Tensor, dimension: int) -> Tensor:
    """Sinusoidal positions `[cos | sin]`, in fp32 whatever the model's precision is.

    Args:
        positions: `[…]`, whole numbers.
        dimension: D, even.

    Returns:
        `[…, D]` fp32; half i has the frequency 10000 ** (−i / (D/2 − 1)).
    """
    half = dimension // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / max(half - 1, 1)
    phase = positions[..., None].float() * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


# On new devices torch would take cuDNN's attention, which is planned anew for each shape: the keys of a growing song
# always have a new one.
_CUDA_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of some steps in one layer, `[B, heads, S, D / heads]` each."""


@dataclass(frozen=True)
class TextRows:
    """Some rows of a batch, and what they attend to of their text.

    Attributes:
        rows: how many.
        text: as `KVCache.text`.
    """

    rows: int
    text: list[KeysValues]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, S, D]` → `[B, heads, S, D / heads]`."""
    B, S, D = x.shape
    return x.view(B, S, heads, D // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`[B, heads, S, D / heads]` → `[B, S, D]`."""
    return x.transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention, `[B, heads, s, D / heads]` each; `mask` is True, or 0, where a query looks."""
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    with sdpa_kernel(_CUDA_KERNELS):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class TransformerLayer(nn.Module):
    """One pre-norm layer: self-attention, cross-attention, feed-forward, each added to its input.

    Attributes:
        checkpointing: keep no activations for the gradient, and compute them again when it is asked for.
        has_dropout: a part that was put into it (LoRA) draws random numbers.
    """

    def __init__(self, config: LanguageModelConfig, *, quantized: bool = False) -> None:
        super().__init__()
        D = config.dimension
        self.heads = config.heads
        self.checkpointing = False
        self.has_dropout = False
        self.attention_norm = nn.LayerNorm(D)
        self.attention_qkv = linear(D, 3 * D, quantized=quantized)
        self.attention_out = linear(D, D, quantized=quantized)
        if config.text_dimension is not None:
            self.text_norm = nn.LayerNorm(D)
            self.text_q = linear(D, D, quantized=quantized)
            self.text_kv = linear(D, 2 * D, quantized=quantized)
            self.text_out = linear(D, D, quantized=quantized)
        self.feed_forward_norm = nn.LayerNorm(D)
        self.feed_forward_in = linear(D, config.feed_forward, quantized=quantized)
        self.feed_forward_out = linear(config.feed_forward, D, quantized=quantized)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        *,
        past: KeysValues | None = None,
        causal: bool = True,
    ) -> tuple[Tensor, KeysValues]:
        """Run the layer over whole sequences.

        Args:
            x: `[B, S, D]`.
            mask: `[B, 1, S, P + S]`, True where a step (row) attends to a step (column); None is what `causal` says.
            text: `[B, L, D]` projected text; None skips the cross-attention.
            text_mask: `[B, 1, 1, L]`, True where a vector of text takes part; None is everywhere.
            past: of P steps before the first; a mask goes with it.
            causal: without a mask, whether steps attend only to themselves and earlier ones.

        Returns:
            `[B, S, D]`, and the keys and values of its own S steps.
        """
        if self.checkpointing and torch.is_grad_enabled():
            # Where no part draws random numbers, there is no state to be kept for the second pass.
            keep = self.has_dropout
            run, given = self._run, (x, mask, text, text_mask, past, causal)
            return checkpoint(run, *given, use_reentrant=False, preserve_rng_state=keep)
        return self._run(x, mask, text, text_mask, past, causal)

    def _run(
        self,
        x: Tensor,
        mask: Tensor | None,
        text: Tensor | None,
        text_mask: Tensor | None,
        past: KeysValues | None,
        causal: bool,
    ) -> tuple[Tensor, KeysValues]:
        q, k, v = self.project(x)
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2))
        seen = attention(q, keys, values, mask, causal=causal and mask is None)
        x = x + self.attention_out(merge_heads(seen))
        if text is not None:
            x = self.attend_text(x, *self.text_keys_values(text), text_mask)
        return self.feed_forward(x), (k, v)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the self-attention: `[B, S, D]` → three of `[B, heads, S, D / heads]`."""
        q, k, v = self.attention_qkv(self.attention_norm(x)).chunk(3, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of projected text `[B, L, D]`: two of `[B, heads, L, D / heads]`. They never change."""
        k, v = self.text_kv(text).chunk(2, dim=-1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def attend_text(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add the cross-attention's output to x `[B, S, D]`; `mask` as `text_mask` in `forward`."""
        q = split_heads(self.text_q(self.text_norm(x)), self.heads)
        return x + self.text_out(merge_heads(attention(q, keys, values, mask)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward's output to x `[B, S, D]`."""
        return x + self.feed_forward_out(F.gelu(self.feed_forward_in(self.feed_forward_norm(x))))


def attend_cached(cache: KVCache, layer: int, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """Self-attention of the newest s steps over all steps so far; `[rows, heads, s, D / heads]` each.

    The first steps of all may attend to each other in both directions (`causal` False).
    """
    past, s = cache.length, q.shape[2]
    keys, values = cache.append(layer, k, v)
    if past == 0:
        return attention(q, k, v, causal=causal and s > 1)
    mask = None if s == 1 else torch.ones(s, past + s, dtype=torch.bool, device=q.device).tril(diagonal=past)
    return attention(q.to(keys.dtype), keys, values, mask).to(q.dtype)


def run_steps(layers: Sequence[TransformerLayer], x: Tensor, caches: Sequence[KVCache], *, causal: bool) -> Tensor:
    """Run the newest s steps through the layers; what the caches hold grows, their `length` does not.

    Args:
        layers: of the model.
        x: `[R, s, D]` embedded; the rows of the caches one cache after the other.
        caches: as in `LanguageModel.advance`.
        causal: as in `attend_cached`.

    Returns:
        `[R, s, D]`, before the last norm.
    """
    rows = [cache.rows for cache in caches]
    for index, layer in enumerate(layers):
        parts = zip(caches, *(part.split(rows) for part in layer.project(x)), strict=True)
        seen = torch.cat([attend_cached(cache, index, q, k, v, causal=causal) for cache, q, k, v in parts])
        x = x + layer.attention_out(merge_heads(seen))
        x = layer.feed_forward(attend_texts(layer, index, x, caches))
    return x


def attend_texts(layer: TransformerLayer, index: int, x: Tensor, texts: Sequence[KVCache | TextRows]) -> Tensor:
    """Add the cross-attention's output to x `[R, s, D]` where rows have a text; those without one skip it."""
    if not any(rows.text for rows in texts):
        return x
    parts = zip(texts, x.split([rows.rows for rows in texts]), strict=True)
    return torch.cat([layer.attend_text(part, *rows.text[index]) if rows.text else part for rows, part in parts])
