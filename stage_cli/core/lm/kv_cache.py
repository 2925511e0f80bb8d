"""The keys and values of the steps that some rows of a batch have already seen.

All rows of one cache have seen equally many steps. Rows with different pasts (conditional rows hold the context,
unconditional ones do not) live in different caches, and one forward pass takes a list of them: the linears read their
weights once for all rows, the attention runs cache by cache and never looks at padding.

What it does not know: tokens, positions of pads, sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig


@dataclass
class KVCache:
    """Preallocated self-attention keys and values, and the cross-attention's, for `rows` rows.

    Attributes:
        keys: `[layers, rows, heads, capacity, D / heads]`.
        values: like keys.
        length: steps seen so far.
        restart: the step from which positions count from 0 again; 0 is nowhere.
        text: for each layer the keys and values `[rows, heads, L, D / heads]` of the text, or empty: no text.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    text: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    restart: int = 0

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
        return self.keys.shape[3]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest steps of one layer; `length` moves only with `advance`, after the last layer.

        Args:
            layer: index of the layer.
            keys: `[rows, heads, s, D / heads]`.
            values: like keys.

        Returns:
            Keys and values of all steps so far, `[rows, heads, length + s, D / heads]`, as views.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} steps, {end} were asked for")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def positions(self, steps: int) -> Tensor:
        """Positions `[steps]` of the next steps."""
        places = torch.arange(self.length, self.length + steps, device=self.keys.device)
        return torch.where(places >= self.restart, places - self.restart, places) if self.restart else places

    def advance(self, steps: int) -> None:
        """Count the steps that every layer has appended."""
        self.length += steps

    def repeat(self, times: int) -> KVCache:
        """Copy each row `times` times (row 0, row 0, …, row 1, …): variations that share one prefill."""
        if times == 1:
            return self
        return KVCache(
            self.keys.repeat_interleave(times, dim=1),
            self.values.repeat_interleave(times, dim=1),
            self.length,
            [(k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0)) for k, v in self.text],
            self.restart,
        )
