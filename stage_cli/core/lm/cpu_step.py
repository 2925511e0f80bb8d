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

from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.layer import Layer, attend_texts


class StepAttention:
    """Self-attention of one cache's rows over all steps so far, one new step in each layer.

    Args:
        cache: has room for the step; `length` moves only with its `advance`, after the last layer.
    """

    def __init__(self, cache: KVCache) -> None:
        end = cache.end(1) - cache.shared_steps
        _, self._rows, self._heads, room, self._width = cache.keys.shape
        self._dtype = cache.keys.dtype
        self._new_keys = cache.keys[:, :, :, end - 1].unbind()
        self._new_values = cache.values[:, :, :, end - 1].unbind()
        self._keys = cache.keys.flatten(1, 2)[:, :, :end].unbind()
        # A table of all values, and for each row and head ("bag") the lines of it that it may look at.
        bags = torch.arange(self._rows * self._heads)
        lines = bags[:, None] * room + torch.arange(end)
        self._groups = 0
        if cache.shared is None:
            self._values = cache.values.flatten(1, 3).unbind()
        else:
            self._values = cache.shared.table.unbind()
            self._shared_keys = cache.shared.keys.flatten(1, 2).unbind()
            self._groups, past = cache.shared.keys.shape[1], cache.shared.steps
            common = torch.arange(self._groups * self._heads * past).view(self._groups, self._heads, past)
            common = common.repeat_interleave(self._rows // self._groups, dim=0).flatten(0, 1)
            lines = torch.cat([common, lines + self._groups * self._heads * past], dim=1)
        self._lines, self._firsts = lines.flatten(), bags * lines.shape[1]
        self._nothing = torch.empty((), dtype=self._dtype)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Queries, keys and values of the new step `[rows, 3 · D]` → what it saw, `[rows, D]`."""
        q, k, v = qkv.view(self._rows, 3, self._heads, self._width).unbind(1)
        self._new_keys[layer].copy_(k)
        self._new_values[layer].copy_(v)
        q = q.to(self._dtype)
        scores = self._scores(q, self._keys[layer])
        if self._groups:
            scores = torch.cat([self._shared_scores(layer, q), scores], dim=1)
        # A weighted sum of lines is what an embedding bag is. It reads the values once, at the memory's full rate; a
        # product of one row with a matrix takes twice as long here.
        weights = scores.softmax(dim=1).view(-1)
        seen = torch.embedding_bag(self._values[layer], self._lines, self._firsts, False, 0, False, weights)[0]
        return seen.view(self._rows, -1).to(qkv.dtype)

    def _scores(self, q: Tensor, keys: Tensor) -> Tensor:
        """Queries `[r, heads, D / heads]` and keys `[r · heads, S, D / heads]` → `[r · heads, S]`."""
        q = q.reshape(-1, 1, self._width).transpose(1, 2)
        return torch.baddbmm(self._nothing, keys, q, beta=0, alpha=self._width**-0.5).squeeze(2)

    def _shared_scores(self, layer: int, q: Tensor) -> Tensor:
        """Those over the steps that rows have in common, `[rows · heads, P]`.

        Variation by variation: the keys stay in the processor's caches, and each gets the bits that it gets alone.
        """
        if self._groups == self._rows:
            return self._scores(q, self._shared_keys[layer])
        variations = q.view(self._groups, -1, self._heads, self._width).unbind(1)
        scores = [self._scores(part, self._shared_keys[layer]) for part in variations]
        by_row = torch.stack([part.view(self._groups, self._heads, -1) for part in scores], dim=1)
        return by_row.flatten(0, 2)


def run_one_step(layers: Sequence[Layer], x: Tensor, caches: Sequence[KVCache]) -> Tensor:
    """As `run_steps` of lm/layer.py, for one step: `[R, D]` → `[R, D]`."""
    # Else torch looks for a `__torch_function__` in each parameter that an operation is given.
    with torch._C.DisableTorchFunctionSubclass():
        attentions = [StepAttention(cache) for cache in caches]
        rows = [cache.rows for cache in caches]
        for index, layer in enumerate(layers):
            qkv = layer.attention_qkv(layer.attention_norm(x)).split(rows)
            seen = [attention.attend(index, part) for attention, part in zip(attentions, qkv, strict=True)]
            x = x + layer.attention_out(torch.cat(seen))
            x = attend_texts(layer, index, x[:, None], caches)[:, 0]
            inner = layer.feed_forward_in(layer.feed_forward_norm(x))
            # Transposed, so that torch takes its own kernel: setting oneDNN's up takes longer than so few numbers.
            x = x + layer.feed_forward_out(F.gelu(inner.T).T)
    return x
