"""Steps on memory that never moves, with its length as a number on the device: what a CUDA graph can hold.

Attention always looks over a whole buffer, or a fixed part of it, and a mask hides what is not there yet. So every step
is the same operations on the same memory, and no step waits for the host. A small operation costs a GPU as much as a
product of one layer here: whatever layers have in common is made once a step, and all rows write their steps at the
same place, however long their pasts are. On a CPU all that would only cost time: there it serves as a test of the very
steps that a graph records.

One step of every row on a CPU, in as few operations as possible.

Each product reads more weights than the processor's caches hold, so torch's own code has to be fetched anew after it:
a small operation takes several times as long there as in a loop of its own. What does not depend on the layer is made
once for all layers, and what could be two operations is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.lm.cache import KVCache, SharedSteps, StepMemory
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layer import TextRows, TransformerLayer, attend_texts, attention, merge_heads, sinusoids

ALIGNMENT = 64
"""Buffers are a multiple of so many steps long: CUDA's attention kernels want masks whose rows are aligned."""

ROWS_TOGETHER = 4
"""Up to so many rows attend in one operation: what they read of buffers that are hidden from them takes less time than
another operation and putting both results together."""


@dataclass(frozen=True)
class Past:
    """What rows that share a past have seen before the first step that is theirs.

    Attributes:
        rows: how many they are.
        steps: of the past.
        restart: as `KVCache.restart`; positions count from 0 there, which is nowhere behind the past.
        text_length: vectors of text a row; 0 is none.
    """

    rows: int
    steps: int
    restart: int
    text_length: int

    @classmethod
    def of(cls, cache: KVCache, rows: int) -> Past:
        """Return what a cache holds, for so many rows."""
        return cls(rows, cache.length, cache.restart, cache.text[0][0].shape[2] if cache.text else 0)


@dataclass(frozen=True)
class _Part:
    """Rows that attend in one operation, from a place of the buffers on.

    Attributes:
        rows: of the batch.
        first: a place before the first that one of them looks at.
        hidden: `[rows or 1, 1, 1, room − first]`, −∞ at places before a row's past, else 0.
    """

    rows: slice
    first: int
    hidden: Tensor


class StaticMemory:
    """Keys and values of all rows of a batch, as far as each other, and those of the cross-attention.

    The pasts of all rows end at the same place; shorter ones begin later.

    Args:
        config: the language model's.
        pasts: of the rows, in the order of the batch.
        steps: most steps after them.
        dtype: of keys and values.
        device: of everything.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        pasts: Sequence[Past],
        steps: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._pasts = tuple(pasts)
        self._start = max(past.steps for past in pasts)
        room = _aligned(self._start + steps)
        rows = sum(past.rows for past in pasts)
        shape = (config.layers, 2, rows, config.heads, room, config.head_dimension)
        # Zeros: what the mask hides counts zero times what it is, which must be a number.
        self._keys_values = torch.zeros(shape, dtype=dtype, device=device)
        self.texts = [_room_for_text(config, past, dtype, device) for past in pasts]
        self._place = torch.tensor([self._start], device=device)
        self._places = torch.arange(room, device=device)
        begins = [self._start - past.steps for past in pasts]
        self._before = torch.tensor(
            [begin + past.restart for begin, past in zip(begins, pasts, strict=True) for _ in range(past.rows)],
            device=device,
        )[:, None]
        self._sinusoids = sinusoids(self._places, config.dimension)
        self._parts = list(self._split(begins, dtype))
        self._here, self._masks = self._place, [part.hidden for part in self._parts]
        self._end = room

    def load(self, caches: Sequence[KVCache]) -> None:
        """Take over what caches hold, each of their rows as often as there is room for: variations of one prefill.

        Raises:
            ValueError: they hold other pasts than those that the memory was made for.
        """
        first = 0
        for past, cache, text in zip(self._pasts, caches, self.texts, strict=True):
            times, rest = divmod(past.rows, cache.rows)
            if rest or past != Past.of(cache, past.rows):
                raise ValueError(f"{cache.rows} rows of {cache.length} steps are not the past of {past}")
            rows, begin = slice(first, first + past.rows), self._start - past.steps
            for number, theirs in enumerate((cache.keys, cache.values)):
                mine = self._keys_values[:, number, rows, :, begin : self._start]
                seen = theirs[:, :, :, : cache.length]
                mine.unflatten(1, (cache.rows, times)).copy_(seen[:, :, None].expand(-1, -1, times, -1, -1, -1))
            for own, other in zip(text.text, cache.text, strict=True):
                for mine, theirs in zip(own, other, strict=True):
                    mine.copy_(theirs.repeat_interleave(times, dim=0))
            first += past.rows
        # What is hidden counts zero times, which is no number where a former window went wrong.
        self._keys_values[:, :, :, :, self._start :].zero_()
        self.rewind()

    def rewind(self) -> None:
        """Forget all steps after the past."""
        self._place.fill_(self._start)

    def look_until(self, steps: int) -> None:
        """Let attention see the first so many steps after the past, from the next ones on; there are no others yet."""
        self._end = _aligned(self._start + steps)

    def begin(self, steps: int) -> Tensor:
        """Make what the layers have in common in the next s steps; returns their positions' sinusoids `[R, s, D]`."""
        self._here = self._place + self._places[:steps]
        later = self._places[: self._end] > self._here[:, None]
        self._masks = [
            part.hidden[..., : self._end - part.first].masked_fill(later[:, part.first :], -torch.inf)
            for part in self._parts
        ]
        return F.embedding(self._here - self._before, self._sinusoids)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Causal self-attention of the steps that began over all so far: `[R, s, 3 · D]` → `[R, s, D]`."""
        buffers = self._keys_values[layer]
        _, R, heads, _, width = buffers.shape
        parts = qkv.view(R, -1, 3, heads, width).permute(2, 0, 3, 1, 4)
        buffers.index_copy_(3, self._here, parts[1:].to(buffers.dtype))
        q = parts[0].to(buffers.dtype)
        seen = [
            attention(q[part.rows], *buffers[:, part.rows, :, part.first : self._end].unbind(), mask)
            for part, mask in zip(self._parts, self._masks, strict=True)
        ]
        return merge_heads(seen[0] if len(seen) == 1 else torch.cat(seen)).to(qkv.dtype)

    def advance(self, steps: int) -> None:
        """Count the steps that every layer has seen."""
        self._place.add_(steps)

    def _split(self, begins: Sequence[int], dtype: torch.dtype) -> Iterator[_Part]:
        """Split the batch into the rows that attend together."""
        counts = [past.rows for past in self._pasts]
        whole = [(sum(counts), torch.tensor(begins).repeat_interleave(torch.tensor(counts)))]
        alone = [(count, torch.tensor([begin])) for count, begin in zip(counts, begins, strict=True)]
        row = 0
        for count, hidden_before in whole if sum(counts) <= ROWS_TOGETHER else alone:
            first = int(hidden_before.min()) // ALIGNMENT * ALIGNMENT
            hidden = self._places[first:] < hidden_before.to(self._places.device)[:, None, None, None]
            floats = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            yield _Part(slice(row, row + count), first, floats.masked_fill_(hidden, -torch.inf))
            row += count


def run_static_steps(
    layers: Sequence[TransformerLayer], x: Tensor, memory: StaticMemory, context_states: Tensor | None
) -> Tensor:
    """Run the next s steps of all rows through the layers; the memory grows by them.

    Args:
        layers: of the model.
        x: `[R, s, D]`, embedded but for their positions.
        memory: of the rows.
        context_states: as in `LanguageModel.advance`.

    Returns:
        `[R, s, D]`, before the last norm.
    """
    s = x.shape[1]
    x = x + memory.begin(s).to(x.dtype)
    x = x if context_states is None else x + context_states
    for index, layer in enumerate(layers):
        _add(x, layer.attention_out, memory.attend(index, layer.attention_qkv(layer.attention_norm(x))))
        x = attend_texts(layer, index, x, memory.texts)
        _add(x, layer.feed_forward_out, F.gelu(layer.feed_forward_in(layer.feed_forward_norm(x))))
    memory.advance(s)
    return x


def _add(x: Tensor, linear: nn.Module, y: Tensor) -> None:
    """Add what a linear layer makes of y to x, in place, where it can by the product itself: an operation less."""
    if type(linear) is nn.Linear and linear.bias is None:
        x.view(-1, linear.out_features).addmm_(y.flatten(0, 1), linear.weight.t())
    else:
        x.add_(linear(y))


def _aligned(steps: int) -> int:
    return -(-steps // ALIGNMENT) * ALIGNMENT


def _room_for_text(config: LanguageModelConfig, past: Past, dtype: torch.dtype, device: torch.device) -> TextRows:
    shape = (past.rows, config.heads, past.text_length, config.head_dimension)
    text = [
        (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
        for _ in range(config.layers if past.text_length else 0)
    ]
    return TextRows(past.rows, text)


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


def run_one_step(
    layers: Sequence[TransformerLayer], x: Tensor, caches: Sequence[KVCache], memory: StepMemory
) -> Tensor:
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
