"""MusicGen's decoder: tokens to logits, with or without a cache. One class for all sizes, chosen by the config.

K embedding tables summed, layers (`lm/layer.py`), K output heads in one matrix (https://arxiv.org/abs/2306.05284;
names of the weights in docs/dev/model.md).

As published, context and target are one causal sequence. With `LanguageModelConfig.reads_context_first` they are two:
the layers run over the context, then over the rest, which attends to it and can be given its hidden states.

Linears have no bias: zero text vectors would add exactly nothing, so rows without text skip the cross-attention.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.lm.cache import KVCache, common_memory
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layer import KeysValues, TransformerLayer, run_steps, sinusoids
from stage_cli.core.lm.layout import attention_mask
from stage_cli.core.lm.linear import ContextConvolutions, Int8Linear, linear
from stage_cli.core.lm.steps import StaticMemory, run_one_step, run_static_steps


@dataclass(frozen=True)
class ReadContext:
    """A context that the layers have run over.

    Attributes:
        states: `[B, C, 2 · D]` that `hear` reads: after the last layer, and before the first.
        keys_values: of each layer.
        attended: `[B, C]`, False where a step takes no part in attention; each row's own steps are the last.
    """

    states: Tensor
    keys_values: list[KeysValues]
    attended: Tensor


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
            self.aligned = linear(2 * K * D, D, quantized=quantized)
        self.context_convolutions = ContextConvolutions(D, config.context_convolutions, quantized=quantized)
        self.layers = nn.ModuleList(TransformerLayer(config, quantized=quantized) for _ in range(config.layers))
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

    @property
    def cached_values_dtype(self) -> torch.dtype:
        """The precision of values that are looked at step by step on a CPU: beside int8, half of the memory will do."""
        return torch.float16 if self.quantized else self.cache_dtype

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Sum the K embeddings of each step, and add its position.

        Args:
            tokens: `[B, K, S]`, delayed.
            positions: `[B, S]` or `[1, S]`.

        Returns:
            `[B, S, D]`.
        """
        x = self.embed_tokens(tokens)
        return x + sinusoids(positions, x.shape[2]).to(x.dtype)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Sum the K embeddings of each step: `[B, K, S]` → `[B, S, D]`."""
        K, V, D = self.embeddings.shape
        if self.config.separator and torch.is_grad_enabled():
            # STAGE's pad is frozen: it takes part, with no gradient. torch can leave out one row a table.
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
        context_states: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of all steps at once; `logits` makes logits of those that are wanted.

        Args:
            tokens: `[B, K, S]`, delayed.
            positions: `[B, S]`, or `[1, S]` where all rows have the same.
            text: `[B, L, D]` projected text, masked vectors zero; None skips the cross-attention.
            mask: see `Layer.forward`; None is causal.
            text_mask: see `Layer.forward`.
            context_states: `[B, S, D]` to be added to the embeddings, or None.

        Returns:
            `[B, S, D]`, before the last norm.
        """
        x = self.embed(tokens, positions) if context_states is None else self.embed(tokens, positions) + context_states
        for layer in self._layers():
            x, _ = layer(x, mask, text, text_mask)
        return x

    def read_context(
        self,
        tokens: Tensor,
        attended: Tensor,
        positions: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> ReadContext:
        """Run the context, before what follows it.

        Args:
            tokens: `[B, K, C]`, delayed.
            attended: `[B, C]`, False where a step takes no part in attention.
            positions: `[B, C]`.
            text: as in `hidden`.
            text_mask: as in `hidden`.
        """
        causal = self.config.context_attention == "causal"
        mask = None if bool(attended.all()) else attention_mask(attended, 0 if causal else attended.shape[1])
        x, past = self.embed(tokens, positions) + self.context_convolutions(self.embed_tokens(tokens), attended), []
        for layer in self._layers():
            x, keys_values = layer(x, mask, text, text_mask, causal=causal)
            past.append(keys_values)
        return ReadContext(self._states(x, tokens), past, attended)

    def hidden_after(
        self,
        context: ReadContext,
        tokens: Tensor,
        positions: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the separator and the target, after a context that was read; arguments as in `hidden`."""
        B, _, S = tokens.shape
        x = self.embed(tokens, positions)
        if self.config.aligned_context:
            x = x + self.encode_context(context.states, context.attended.sum(dim=1), S)
        own = torch.ones(S, S, dtype=torch.bool, device=tokens.device).tril()
        seen = context.attended[:, None, :].expand(-1, S, -1)
        mask = torch.cat([seen, own.expand(B, -1, -1)], dim=2)[:, None]
        for layer, past in zip(self._layers(), context.keys_values, strict=True):
            x, _ = layer(x, mask, text, text_mask, past=past)
        return x

    def _states(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """What `hear` reads of some steps, `[B, C, 2 · D]`: hidden states after the last layer, and embeddings."""
        # Hidden states grow from layer to layer, and no norm of the model is made for reading them here.
        embedded = self.embed_tokens(tokens)
        return torch.cat([F.layer_norm(hidden, hidden.shape[2:]).to(embedded.dtype), embedded], dim=2)

    def encode_context(self, states: Tensor, own: Tensor, places: int) -> Tensor:
        """What the steps from the separator's first on get of the context that sounds with them (`aligned_context`).

        Codebook k of frame t is predicted at place t + k, counted from the separator's first step, and stands in the
        delayed context at place t + k too: the K places from there on hold all codebooks of the frame.

        Args:
            states: `[B, C, 2 · D]` of the context's steps, each row's own ones last.
            own: `[B]`, how many those are; 0 where there is no context.
            places: S, how many steps are to be given theirs.

        Returns:
            `[B, S, D]` to be added to the embeddings; zero where the context has nothing.
        """
        C = states.shape[1]
        K = torch.arange(self.config.codebooks, device=states.device)
        steps = (C - own)[:, None, None] + torch.arange(places, device=states.device)[:, None] + K
        steps = steps.clamp(max=C).flatten(1)[..., None]  # step C is the silence behind the context
        found = F.pad(states, (0, 0, 0, 1)).gather(1, steps.expand(-1, -1, states.shape[2]))
        return self.aligned(found.unflatten(1, (places, len(K))).flatten(2))

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
        context_steps: int = 0,
    ) -> Tensor:
        """Logits of all steps at once; the output at step s predicts the tokens of step s + 1.

        The plain way, which training and generation are tested against: a model that reads its context first runs twice
        over all of it.

        Args:
            tokens: `[B, K, S]`, delayed.
            attended: `[B, S]`, False where a step takes no part in attention (`lm/prefix.py`).
            positions: `[B, S]`.
            text: `[B, L, D]` projected text, masked vectors zero; None skips the cross-attention.
            context_steps: the steps before the separator's first; only read by models that read the context first.

        Returns:
            `[B, K, S, codebook_size]` fp32; what stands at steps that are not attended to means nothing.
        """
        both_ways = context_steps if self.config.context_attention == "full" else 0
        mask = None if both_ways == 0 and bool(attended.all()) else attention_mask(attended, both_ways)
        context, rest = tokens[:, :, :context_steps], tokens.shape[2] - context_steps
        added = F.pad(
            self.context_convolutions(self.embed_tokens(context), attended[:, :context_steps]), (0, 0, 0, rest)
        )
        if self.config.aligned_context:
            states = self.hidden(tokens, positions, text, mask=mask, context_states=added)[:, :context_steps]
            context_states = self.encode_context(
                self._states(states, context), attended[:, :context_steps].sum(dim=1), rest
            )
            added = added + F.pad(context_states, (0, 0, context_steps, 0))
        return self.logits(self.hidden(tokens, positions, text, mask=mask, context_states=added))

    def attach_text(self, cache: KVCache, text: Tensor) -> None:
        """Compute the cross-attention's keys and values of projected text `[rows, L, D]` once, into the cache."""
        cache.text = [layer.text_keys_values(text) for layer in self._layers()]

    def advance(
        self, tokens: Tensor, caches: Sequence[KVCache] | StaticMemory, context_states: Tensor | None = None
    ) -> Tensor:
        """Feed the next s steps of every row, after what the caches hold: logits of the last, `[R, K, codes]` fp32.

        Args:
            tokens: `[R, K, s]`, delayed; the rows of the caches one cache after the other, R = sum of their rows.
            caches: they grow by s steps. No step in them is masked: masked steps are simply never fed.
            context_states: `[R, s, D]` of `encode_context`, or None.
        """
        if isinstance(caches, StaticMemory):
            return self.logits(
                run_static_steps(self._layers(), self.embed_tokens(tokens), caches, context_states)[:, -1:]
            )[:, :, 0]
        return self.logits(self._feed(tokens, caches, context_states)[:, -1:])[:, :, 0]

    def prefill(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Feed a context's steps into an empty cache; as `advance`, but returns what `hear` reads, `[R, s, 2 · D]`."""
        found = self.context_convolutions(self.embed_tokens(tokens))
        x = self._feed(tokens, [cache], found, causal=self.config.context_attention == "causal")
        return self._states(x, tokens)

    def _feed(
        self, tokens: Tensor, caches: Sequence[KVCache], context_states: Tensor | None, *, causal: bool = True
    ) -> Tensor:
        s = tokens.shape[2]
        positions = torch.cat([cache.positions(s).expand(cache.rows, s) for cache in caches])
        x = self.embed(tokens, positions)
        x = x if context_states is None else x + context_states
        memory = common_memory(caches) if s == 1 else None
        if memory is not None:
            x = run_one_step(self._layers(), x[:, 0], caches, memory)[:, None]
        else:
            x = run_steps(self._layers(), x, caches, causal=causal)
        for cache in caches:
            cache.advance(s)
        return x

    def _layers(self) -> Sequence[TransformerLayer]:
        return cast("Sequence[TransformerLayer]", self.layers)  # a ModuleList types its items as plain modules
