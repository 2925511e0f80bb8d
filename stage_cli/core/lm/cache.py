"""The keys and values of the steps that some rows of a batch have already seen.

All rows of one cache have seen equally many steps. Rows with different pasts (conditional rows hold the context,
unconditional ones do not) live in different caches, and one forward pass takes a list of them: the linears read their
weights once for all rows, the attention runs cache by cache and never looks at padding.

Variations of one context share its steps: on a CPU they are kept, and read, once for all of them. There the caches of
one batch also lie in one memory, so that a step is attended to for all of them in one go.

What it does not know: tokens, positions of pads, sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig


@dataclass(frozen=True)
class SharedSteps:
    """The first steps of a cache, which groups of its rows have in common.

    Attributes:
        keys: `[layers, groups, heads, P, D / heads]`.
        values: like keys, maybe in another precision.
    """

    keys: Tensor
    values: Tensor

    @property
    def steps(self) -> int:
        """P."""
        return self.keys.shape[3]


@dataclass(frozen=True)
class StepMemory:
    """Where the caches of one batch keep their steps on a CPU: together, for one step to attend for all rows at once.

    Attributes:
        keys: `[layers, R, heads, room, D / heads]`, of the steps that are not shared; cache after cache, R rows in all.
        values: like keys, in the precision of the table.
        table: `[layers, lines, D / heads]`, the memory in which all values lie, shared or not.
        lines: int32 `[R · heads, P]`, where in the table the shared values of a row and head lie; P is the most that a
            cache has. Where there is none, the line is any that holds numbers: the first one of the row's own.
        own: int32 `[R · heads, 1]`, the lines of the first values that are not shared; the others follow.
        rows: of each cache.
        shared: of each cache; None is nothing.
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    lines: Tensor
    own: Tensor
    rows: tuple[int, ...]
    shared: tuple[SharedSteps | None, ...]


@dataclass
class KVCache:
    """Preallocated self-attention keys and values, and the cross-attention's, for `rows` rows.

    Attributes:
        keys: `[layers, rows, heads, room, D / heads]`.
        values: like keys.
        length: steps seen so far.
        restart: the step from which positions count from 0 again; 0 is nowhere.
        shared: the first steps where they are not in `keys` and `values`, or None.
        memory: what the cache is a part of, or None.
        text: for each layer the keys and values `[rows, heads, L, D / heads]` of the text, or empty: no text.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    text: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    restart: int = 0
    shared: SharedSteps | None = None
    memory: StepMemory | None = None

    @classmethod
    def allocate(
        cls, config: LanguageModelConfig, rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        """Make an empty cache for `rows` rows of up to `capacity` steps."""
        shape = (config.layers, rows, config.heads, capacity, config.head_dimension)
        return cls(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))

    @property
    def rows(self) -> int:
        """Rows of the batch that this cache holds."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Most steps that fit."""
        return self.shared_steps + self.keys.shape[3]

    @property
    def shared_steps(self) -> int:
        """How many of the first steps lie in `shared`."""
        return 0 if self.shared is None else self.shared.steps

    def end(self, steps: int) -> int:
        """Where the next steps end; a ValueError says that they do not fit."""
        end = self.length + steps
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} steps, {end} were asked for")
        return end

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest steps of one layer; `length` moves only with `advance`, after the last layer.

        Args:
            layer: index of the layer.
            keys: `[rows, heads, s, D / heads]`.
            values: like keys.

        Returns:
            Keys and values of all steps so far, `[rows, heads, length + s, D / heads]`, both in the keys' precision;
            views, if they can be.
        """
        first, end = (step - self.shared_steps for step in (self.length, self.end(keys.shape[2])))
        self.keys[layer, :, :, first:end] = keys
        self.values[layer, :, :, first:end] = values
        own = self.keys[layer, :, :, :end], self.values[layer, :, :, :end].to(self.keys.dtype)
        if self.shared is None:
            return own
        times = self.rows // self.shared.keys.shape[1]
        before = (part[layer].repeat_interleave(times, dim=0) for part in (self.shared.keys, self.shared.values))
        all_keys, all_values = (torch.cat([a.to(b.dtype), b], dim=2) for a, b in zip(before, own, strict=True))
        return all_keys, all_values

    def positions(self, steps: int) -> Tensor:
        """Positions `[steps]` of the next steps."""
        places = torch.arange(self.length, self.length + steps, device=self.keys.device)
        return torch.where(places >= self.restart, places - self.restart, places) if self.restart else places

    def advance(self, steps: int) -> None:
        """Count the steps that every layer has appended."""
        self.length += steps

    def repeat(self, times: int, capacity: int | None = None) -> KVCache:
        """Make variations of one cache; see `repeat_rows`."""
        return repeat_rows([self], times, [self.capacity if capacity is None else capacity])[0]


def repeat_rows(
    caches: Sequence[KVCache], times: int, capacities: Sequence[int], *, values: torch.dtype | None = None
) -> list[KVCache]:
    """Make `times` rows of each (row 0, row 0, …, row 1, …), with room for more steps: variations of their prefills.

    On a CPU the steps so far are shared, by a single variation too: alone it gets the bits that it gets among many.

    Args:
        caches: of one batch.
        times: variations.
        capacities: steps for which each is to have room, at least.
        values: on a CPU, the precision in which values are kept; None is that of the caches.
    """
    if caches[0].keys.device.type == "cpu":
        return _in_one_memory(caches, times, capacities, values or caches[0].values.dtype)
    return [_copied(cache, times, capacity) for cache, capacity in zip(caches, capacities, strict=True)]


def common_memory(caches: Sequence[KVCache]) -> StepMemory | None:
    """Return the memory whose parts the caches are, all of them, with equally many steps of their own; or None."""
    memory = caches[0].memory
    if memory is None or len(caches) != len(memory.rows) or any(cache.memory is not memory for cache in caches):
        return None
    own = caches[0].length - caches[0].shared_steps
    return memory if all(cache.length - cache.shared_steps == own for cache in caches) else None


def _in_one_memory(
    caches: Sequence[KVCache], times: int, capacities: Sequence[int], dtype: torch.dtype
) -> list[KVCache]:
    layers, _, heads, _, width = caches[0].keys.shape
    rows = [cache.rows * times for cache in caches]
    room = max(capacity - cache.length for cache, capacity in zip(caches, capacities, strict=True))
    past, most = sum(cache.rows * heads * cache.length for cache in caches), max(cache.length for cache in caches)
    keys = caches[0].keys.new_empty(layers, sum(rows), heads, room, width)
    table = keys.new_empty(layers, past + sum(rows) * heads * room, width, dtype=dtype)
    values = table[:, past:].unflatten(1, (sum(rows), heads, room))
    own = past + room * torch.arange(sum(rows) * heads, dtype=torch.int32, device=keys.device)[:, None]
    lines = own.repeat(1, most)
    by_row, shared, line = lines.view(sum(rows), heads, most).split(rows), [], 0
    for cache, mine in zip(caches, by_row, strict=True):
        groups, P = cache.rows, cache.length
        if P == 0:
            shared.append(None)
            continue
        end = line + groups * heads * P
        common = table[:, line:end].unflatten(1, (groups, heads, P))
        common.copy_(cache.values[:, :, :, :P])
        places = torch.arange(line, end, dtype=torch.int32).view(groups, heads, P)
        mine[:, :, :P] = places.repeat_interleave(times, dim=0)
        shared.append(SharedSteps(cache.keys[:, :, :, :P].clone(memory_format=torch.contiguous_format), common))
        line = end
    memory = StepMemory(keys, values, table, lines, own, tuple(rows), tuple(shared))
    parts = zip(caches, keys.split(rows, dim=1), values.split(rows, dim=1), shared, strict=True)
    return [
        KVCache(part, its_values, cache.length, _repeated(cache.text, times), cache.restart, steps, memory)
        for cache, part, its_values, steps in parts
    ]


def _copied(cache: KVCache, times: int, capacity: int) -> KVCache:
    layers, rows, heads, _, width = cache.keys.shape
    shape = layers, rows * times, heads, capacity, width
    keys, values = (part.new_empty(shape) for part in (cache.keys, cache.values))
    for part, source in ((keys, cache.keys), (values, cache.values)):
        part[:, :, :, : cache.length] = source[:, :, :, : cache.length].repeat_interleave(times, dim=1)
    return KVCache(keys, values, cache.length, _repeated(cache.text, times), cache.restart)


def _repeated(text: list[tuple[Tensor, Tensor]], times: int) -> list[tuple[Tensor, Tensor]]:
    return [(k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0)) for k, v in text]
