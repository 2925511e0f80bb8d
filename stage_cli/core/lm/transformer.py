"""MusicGen's decoder: tokens to logits, with or without a cache. One class for all sizes, chosen by the config.

Pre-norm; self-attention, cross-attention to the text, feed-forward of GELU; no bias in any linear; K embedding tables
summed, K output heads in one matrix (https://arxiv.org/abs/2306.05284; names of the weights in docs/model.md).

Linears have no bias, so zero text vectors would add exactly nothing: rows without text skip the cross-attention.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.linear import Int8Linear, linear
from stage_cli.core.lm.sinusoids import sinusoids


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, S, D]` → `[B, heads, S, D / heads]`."""
    B, S, D = x.shape
    return x.view(B, S, heads, D // heads).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    """`[B, heads, S, D / heads]` → `[B, S, D]`."""
    return x.transpose(1, 2).flatten(2)


class Layer(nn.Module):
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
        self, x: Tensor, mask: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Run the layer over whole sequences.

        Args:
            x: `[B, S, D]`.
            mask: `[B, 1, S, S]`, True where a step (row) attends to a step (column); None is causal.
            text: `[B, L, D]` projected text; None skips the cross-attention.
            text_mask: `[B, 1, 1, L]`, True where a vector of text takes part; None is everywhere.

        Returns:
            `[B, S, D]`.
        """
        if self.checkpointing and torch.is_grad_enabled():
            # Where no part draws random numbers, there is no state to be kept for the second pass.
            keep = self.has_dropout
            return checkpoint(self._run, x, mask, text, text_mask, use_reentrant=False, preserve_rng_state=keep)
        return self._run(x, mask, text, text_mask)

    def _run(self, x: Tensor, mask: Tensor | None, text: Tensor | None, text_mask: Tensor | None) -> Tensor:
        q, k, v = self.project(x)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.attention_out(_merge_heads(seen))
        if text is not None:
            x = self.attend_text(x, *self.text_keys_values(text), text_mask)
        return self.feed_forward(x)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the self-attention: `[B, S, D]` → three of `[B, heads, S, D / heads]`."""
        q, k, v = self.attention_qkv(self.attention_norm(x)).chunk(3, dim=-1)
        return _split_heads(q, self.heads), _split_heads(k, self.heads), _split_heads(v, self.heads)

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of projected text `[B, L, D]`: two of `[B, heads, L, D / heads]`. They never change."""
        k, v = self.text_kv(text).chunk(2, dim=-1)
        return _split_heads(k, self.heads), _split_heads(v, self.heads)

    def attend_text(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add the cross-attention's output to x `[B, S, D]`; `mask` as `text_mask` in `forward`."""
        q = _split_heads(self.text_q(self.text_norm(x)), self.heads)
        return x + self.text_out(_merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward's output to x `[B, S, D]`."""
        return x + self.feed_forward_out(F.gelu(self.feed_forward_in(self.feed_forward_norm(x))))


class LanguageModel(nn.Module):
    """Tokens to logits.

    Args:
        config: sizes and layout.
        quantized: keep the linears' weights as int8 (`lm/linear.py`); such a model cannot be trained.
    """

    def __init__(self, config: LanguageModelConfig, *, quantized: bool = False) -> None:
        super().__init__()
        self.config = config
        D, K = config.dimension, config.codebooks
        self.embeddings = nn.Parameter(torch.empty(K, config.vocabulary, D))
        if not self.embeddings.is_meta:  # there, random numbers would make torch import its compiler: seconds
            nn.init.kaiming_normal_(self.embeddings)
        if config.aligned_context:
            self.aligned = linear(K * D, D, quantized=quantized)
        self.layers = nn.ModuleList(Layer(config, quantized=quantized) for _ in range(config.layers))
        self.norm = nn.LayerNorm(D)
        self.output_heads = linear(D, K * config.codebook_size, quantized=quantized)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the activations."""
        return self.embeddings.dtype

    @property
    def quantized(self) -> bool:
        """Whether the linears' weights are int8."""
        return isinstance(self.output_heads, Int8Linear)

    def set_checkpointing(self, on: bool) -> None:
        """Keep no activations inside the layers for the gradient (they are computed twice then), or keep them."""
        for layer in self._layers():
            layer.checkpointing = on

    @property
    def cache_dtype(self) -> torch.dtype:
        """The precision of the K/V cache: fp32 on a CPU, where attention of one step over bfloat16 takes longer."""
        return torch.float32 if self.embeddings.device.type == "cpu" else self.dtype

    def embed(self, tokens: Tensor, positions: Tensor, companions: Tensor | None = None) -> Tensor:
        """Sum the K embeddings of each step, add its position and what its companions say.

        STAGE's pad is frozen: its embeddings take part, and get a gradient of exactly zero.

        Args:
            tokens: `[B, K, S]`, delayed.
            positions: `[B, S]` or `[1, S]`.
            companions: `[B, K, K, S]` tokens of the context (`lm/prefix.py`), or None.

        Returns:
            `[B, S, D]`.
        """
        summed = self._summed(tokens)
        x = summed + sinusoids(positions, summed.shape[2]).to(summed.dtype)
        if companions is None:
            return x
        B, places = companions.shape[:2]
        found = self._summed(companions.flatten(0, 1)).unflatten(0, (B, places))
        return x + self.aligned(found.transpose(1, 2).flatten(2))

    def _summed(self, tokens: Tensor) -> Tensor:
        """Sum the K embeddings of each step: `[B, K, S]` → `[B, S, D]`."""
        K, V, D = self.embeddings.shape
        if self.config.separator and torch.is_grad_enabled():
            # Table by table, for torch can leave one row a table without gradient.
            tables = enumerate(self.embeddings.unbind())
            found = (F.embedding(tokens[:, k], table, padding_idx=self.config.pad) for k, table in tables)
            return functools.reduce(torch.add, found)
        rows = tokens + (torch.arange(K, device=tokens.device) * V)[:, None]
        return F.embedding(rows, self.embeddings.view(K * V, D)).sum(dim=1)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        text: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        companions: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of all steps at once; `logits` makes logits of those that are wanted.

        Args:
            tokens: `[B, K, S]`, delayed.
            positions: `[B, S]`, or `[1, S]` where all rows have the same.
            text: `[B, L, D]` projected text, masked vectors zero; None skips the cross-attention.
            mask: see `Layer.forward`; None is causal.
            text_mask: see `Layer.forward`.
            companions: see `embed`.

        Returns:
            `[B, S, D]`, before the last norm.
        """
        x = self.embed(tokens, positions, companions)
        for layer in self.layers:
            x = layer(x, mask, text, text_mask)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states `[B, S, D]` → logits `[B, K, S, codebook_size]` in fp32."""
        B, S, _ = x.shape
        flat = self.output_heads(self.norm(x)).float()
        return flat.view(B, S, self.config.codebooks, self.config.codebook_size).transpose(1, 2)

    def forward(
        self,
        tokens: Tensor,
        attended: Tensor,
        positions: Tensor,
        text: Tensor | None = None,
        companions: Tensor | None = None,
    ) -> Tensor:
        """Logits of all steps at once; the output at step s predicts the tokens of step s + 1.

        Args:
            tokens: `[B, K, S]`, delayed.
            attended: `[B, S]`, False where a step takes no part in attention (`lm/prefix.py`).
            positions: `[B, S]`.
            text: `[B, L, D]` projected text, masked vectors zero; None skips the cross-attention.
            companions: see `embed`.

        Returns:
            `[B, K, S, codebook_size]` fp32; what stands at steps that are not attended to means nothing.
        """
        mask = None
        if not bool(attended.all()):
            S = tokens.shape[2]
            causal = torch.ones(S, S, dtype=torch.bool, device=tokens.device).tril()
            # A masked step sees itself, for a softmax over nothing is not a number; nobody sees a masked step.
            itself = torch.eye(S, dtype=torch.bool, device=tokens.device)
            mask = ((causal & attended[:, None, :]) | itself)[:, None]
        return self.logits(self.hidden(tokens, positions, text, mask=mask, companions=companions))

    def attach_text(self, cache: KVCache, text: Tensor) -> None:
        """Compute the cross-attention's keys and values of projected text `[rows, L, D]` once, into the cache."""
        cache.text = [layer.text_keys_values(text) for layer in self._layers()]

    def advance(self, tokens: Tensor, caches: Sequence[KVCache], companions: Tensor | None = None) -> Tensor:
        """Feed the next s steps of every row, after what the caches hold.

        Args:
            tokens: `[R, K, s]`, delayed; the rows of the caches one cache after the other, R = sum of their rows.
            caches: they grow by s steps. No step in them is masked: masked steps are simply never fed.
            companions: of these steps, see `embed`.

        Returns:
            Logits of the last of the s steps, `[R, K, codebook_size]` fp32.
        """
        s = tokens.shape[2]
        rows = [cache.rows for cache in caches]
        positions = torch.cat([cache.positions(s).expand(cache.rows, s) for cache in caches])
        x = self.embed(tokens, positions, companions)
        for index, layer in enumerate(self._layers()):
            parts = zip(caches, *(part.split(rows) for part in layer.project(x)), strict=True)
            seen = torch.cat([_attend_cached(cache, index, q, k, v) for cache, q, k, v in parts])
            x = x + layer.attention_out(_merge_heads(seen))
            if any(cache.text for cache in caches):
                x = torch.cat([
                    layer.attend_text(part, *cache.text[index]) if cache.text else part
                    for cache, part in zip(caches, x.split(rows), strict=True)
                ])  # fmt: skip
            x = layer.feed_forward(x)
        for cache in caches:
            cache.advance(s)
        return self.logits(x[:, -1:])[:, :, 0]

    def _layers(self) -> Sequence[Layer]:
        return cast("Sequence[Layer]", self.layers)  # a ModuleList types its items as plain modules


def _attend_cached(cache: KVCache, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Self-attention of the newest s steps over all steps so far; `[rows, heads, s, D / heads]` each."""
    past, s = cache.length, q.shape[2]
    keys, values = cache.append(layer, k, v)
    if past == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=s > 1)
    if s == 1 and q.device.type == "cpu":
        # As quick as torch's fused kernel, which gives other bits on another number of threads (generation/threads.py).
        scores = (q.to(keys.dtype) * q.shape[-1] ** -0.5) @ keys.transpose(2, 3)
        return (scores.softmax(dim=-1) @ values).to(q.dtype)
    mask = None if s == 1 else torch.ones(s, past + s, dtype=torch.bool, device=q.device).tril(diagonal=past)
    return F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=mask).to(q.dtype)
