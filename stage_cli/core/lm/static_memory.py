"""Steps on memory that never moves, with its length as a number on the device: what a CUDA graph can hold.

Attention always looks over a whole buffer, or a fixed part of it, and a mask hides what is not there yet. So every step
is the same operations on the same memory, and no step waits for the host. A small operation costs a GPU as much as a
product of one layer here: whatever layers have in common is made once a step, and all rows write their steps at the
same place, however long their pasts are. On a CPU all that would only cost time: there it serves as a test of the very
steps that a graph records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.layer import TransformerLayer, TextRows, attend_texts, attention, merge_heads
from stage_cli.core.lm.sinusoids import sinusoids

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


def run_static_steps(layers: Sequence[TransformerLayer], x: Tensor, memory: StaticMemory, heard: Tensor | None) -> Tensor:
    """Run the next s steps of all rows through the layers; the memory grows by them.

    Args:
        layers: of the model.
        x: `[R, s, D]`, embedded but for their positions.
        memory: of the rows.
        heard: as in `LanguageModel.advance`.

    Returns:
        `[R, s, D]`, before the last norm.
    """
    s = x.shape[1]
    x = x + memory.begin(s).to(x.dtype)
    x = x if heard is None else x + heard
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
