"""One step of every row on a CPU, in as few operations as possible.

Each product reads more weights than the processor's caches hold, so torch's own code has to be fetched anew after it:
a small operation takes several times as long there as in a loop of its own. What does not depend on the layer is made
once for all layers, and what could be two operations is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.lm.kv_cache import KVCache, SharedSteps, StepMemory
from stage_cli.core.lm.layer import TransformerLayer, attend_texts


class StepAttention:
    """Self-attention of all rows of a batch over their steps so far, one new step in each layer.

    Args:
        memory: of the caches; it has room for the step.
        end: steps that are not shared, the new one included.
    """

    def __init__(self, memory: StepMemory, end: int) -> None:
        _, self._rows, self._heads, _, self._width = memory.keys.shape
        self._dtype = memory.keys.dtype
        self._new_keys = memory.keys[:, :, :, end - 1].unbind()
        self._new_values = memory.values[:, :, :, end - 1].unbind()
        self._keys = memory.keys.flatten(1, 2)[:, :, :end].unbind()
        # A table of all values, and for each row and head ("bag") the lines of it that it may look at.
        self._values = memory.table.unbind()
        lines = memory.own + torch.arange(end, dtype=torch.int32)
        self._common = memory.lines.shape[1]
        self._shared = _SharedScores(memory) if self._common else None
        lines = torch.cat([memory.lines, lines], dim=1)
        self._lines = lines.view(-1)
        self._firsts = torch.arange(0, lines.numel(), lines.shape[1], dtype=torch.int32)
        self._nothing = torch.empty((), dtype=self._dtype)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Queries, keys and values of the new step `[R, 3 · D]` → what it saw, `[R, D]`."""
        q, k, v = qkv.view(self._rows, 3, self._heads, self._width).unbind(1)
        self._new_keys[layer].copy_(k)
        self._new_values[layer].copy_(v)
        # The same numbers as `[…, D / heads, 1]` at once, but for strides by which torch finds its fast product.
        q = q.to(self._dtype).reshape(-1, 1, self._width).transpose(1, 2)
        scores = torch.baddbmm(self._nothing, self._keys[layer], q, beta=0, alpha=self._width**-0.5).squeeze(2)
        if self._shared is not None:
            scores = torch.cat([self._shared.of(layer, q), scores], dim=1)
        # A weighted sum of lines is what an embedding bag is. It reads the values once, at the memory's full rate; a
        # product of one row with a matrix takes twice as long here.
        table = self._values[layer]
        weights = scores.softmax(dim=1).view(-1).to(table.dtype)
        seen = torch.embedding_bag(table, self._lines, self._firsts, False, 0, False, weights)[0]
        return seen.view(self._rows, -1).to(qkv.dtype)


class _SharedScores:
    """How much the rows of a batch look at the steps that some of them have in common.

    Variation by variation: the keys stay in the processor's caches, and each gets the bits that it gets alone.
    """

    def __init__(self, memory: StepMemory) -> None:
        heads, width = memory.keys.shape[2], memory.keys.shape[4]
        self._scale, self._nothing = width**-0.5, torch.empty((), dtype=memory.keys.dtype)
        # Where a cache has nothing, its rows look at nothing.
        bags, steps = memory.lines.shape
        self._scores = torch.full((bags, steps, 1), -torch.inf, dtype=memory.keys.dtype)
        self._keys: list[Sequence[Tensor]] = []
        self._places: list[tuple[int, int, Tensor]] = []
        first = 0
        for count, shared in zip(memory.rows, memory.shared, strict=True):
            if shared is not None:
                self._add(shared, first * heads, count // shared.keys.shape[1])
            first += count

    def of(self, layer: int, q: Tensor) -> Tensor:
        """Queries `[R · heads, D / heads, 1]` → `[R · heads, P]`, a view of what the next call fills anew."""
        for keys, (first, bags, scores) in zip(self._keys, self._places, strict=True):
            own = q.narrow(0, first, bags)
            torch.baddbmm(self._nothing, keys[layer], own, beta=0, alpha=self._scale, out=scores)
        return self._scores.squeeze(2)

    def _add(self, shared: SharedSteps, first: int, variations: int) -> None:
        """Plan the products of one cache, whose rows begin at a bag: as many rows at once as have keys of their own."""
        groups, heads, P = shared.keys.shape[1:4]
        together = groups if variations == 1 else 1
        for group in range(0, groups, together):
            keys = shared.keys[:, group : group + together].flatten(1, 2).unbind()
            for _ in range(variations):
                bags = together * heads
                self._keys.append(keys)
                self._places.append((first, bags, self._scores[first : first + bags, :P]))
                first += bags


def run_one_step(layers: Sequence[TransformerLayer], x: Tensor, caches: Sequence[KVCache], memory: StepMemory) -> Tensor:
    """As `run_steps` of lm/layer.py, for one step on a CPU: `[R, D]` → `[R, D]`.

    Args:
        layers: of the model.
        x: `[R, D]` embedded.
        caches: all parts of the memory.
        memory: see `common_memory`.
    """
    end = caches[0].end(1) - caches[0].shared_steps
    # Else torch looks for a `__torch_function__` in each parameter that an operation is given.
    with torch._C.DisableTorchFunctionSubclass():
        attention = StepAttention(memory, end)
        text = any(cache.text for cache in caches)
        for index, layer in enumerate(layers):
            x = x + layer.attention_out(attention.attend(index, layer.attention_qkv(layer.attention_norm(x))))
            if text:
                x = attend_texts(layer, index, x[:, None], caches)[:, 0]
            inner = layer.feed_forward_in(layer.feed_forward_norm(x))
            # Transposed, so that torch takes its own kernel: setting oneDNN's up takes longer than so few numbers.
            x = x + layer.feed_forward_out(F.gelu(inner.T).T)
    return x
