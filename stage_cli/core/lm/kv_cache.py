"""The keys and values of the steps that some rows of a batch have already seen.

All rows of one cache have seen equally many steps. Rows with different pasts (conditional rows hold the context,
unconditional ones do not) live in different caches, and one forward pass takes a list of them: the linears read their
weights once for all rows, the attention runs cache by cache and never looks at padding.

Variations of one context share its steps: on a CPU they are kept, and read, once for all of them.

What it does not know: tokens, positions of pads, sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig


@dataclass(frozen=True)
class SharedSteps:
    """The first steps of a cache, which groups of its rows have in common.

    Attributes:
        keys: `[layers, groups, heads, P, D / heads]`.
        values: like keys.
        table: `[layers, lines, D / heads]`, the memory in which these values lie, and the cache's own behind them.
    """

    keys: Tensor
    values: Tensor
    table: Tensor

    @property
    def steps(self) -> int:
        """P."""
        return self.keys.shape[3]


@dataclass
class KVCache:
    """Preallocated self-attention keys and values, and the cross-attention's, for `rows` rows.

    Attributes:
        keys: `[layers, rows, heads, room, D / heads]`.
        values: like keys.
        length: steps seen so far.
        restart: the step from which positions count from 0 again; 0 is nowhere.
        shared: the first steps where they are not in `keys` and `values`, or None.
        text: for each layer the keys and values `[rows, heads, L, D / heads]` of the text, or empty: no text.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    text: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    restart: int = 0
    shared: SharedSteps | None = None

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
            Keys and values of all steps so far, `[rows, heads, length + s, D / heads]`; views, unless steps are shared.
        """
        first, end = (step - self.shared_steps for step in (self.length, self.end(keys.shape[2])))
        self.keys[layer, :, :, first:end] = keys
        self.values[layer, :, :, first:end] = values
        own = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        if self.shared is None:
            return own
        times = self.rows // self.shared.keys.shape[1]
        before = (part[layer].repeat_interleave(times, dim=0) for part in (self.shared.keys, self.shared.values))
        all_keys, all_values = (torch.cat(parts, dim=2) for parts in zip(before, own, strict=True))
        return all_keys, all_values

    def positions(self, steps: int) -> Tensor:
        """Positions `[steps]` of the next steps."""
        places = torch.arange(self.length, self.length + steps, device=self.keys.device)
        return torch.where(places >= self.restart, places - self.restart, places) if self.restart else places

    def advance(self, steps: int) -> None:
        """Count the steps that every layer has appended."""
        self.length += steps

    def repeat(self, times: int, capacity: int | None = None) -> KVCache:
        """Make `times` rows of each (row 0, row 0, …, row 1, …), with room for more steps: variations of one prefill.

        On a CPU the steps so far are shared, by a single variation too: alone it gets the bits that it gets among many.
        """
        capacity = self.capacity if capacity is None else capacity
        text = [(k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0)) for k, v in self.text]
        if self.length and self.keys.device.type == "cpu":
            keys, values, shared = self._share(times, capacity)
        else:
            layers, rows, heads, _, width = self.keys.shape
            keys, values = (
                part.new_empty(layers, rows * times, heads, capacity, width) for part in (self.keys, self.values)
            )  # fmt: skip
            for part, source in ((keys, self.keys), (values, self.values)):
                part[:, :, :, : self.length] = source[:, :, :, : self.length].repeat_interleave(times, dim=1)
            shared = None
        return KVCache(keys, values, self.length, text, self.restart, shared)

    def _share(self, times: int, capacity: int) -> tuple[Tensor, Tensor, SharedSteps]:
        """Room for what each of `times` variations adds, and the steps so far."""
        assert self.shared is None, "variations of variations"
        layers, rows, heads, _, width = self.keys.shape
        past, room = rows * heads * self.length, rows * times * heads * (capacity - self.length)
        tables = [part.new_empty(layers, past + room, width) for part in (self.keys, self.values)]
        common = [table[:, :past].unflatten(1, (rows, heads, self.length)) for table in tables]
        for part, source in zip(common, (self.keys, self.values), strict=True):
            part.copy_(source[:, :, :, : self.length])
        own = (rows * times, heads, capacity - self.length)
        keys, values = (table[:, past:].unflatten(1, own) for table in tables)
        return keys, values, SharedSteps(*common, tables[1])
