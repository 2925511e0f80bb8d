"""Keys and values in buffers that never move, with their length as a number on the device: what a CUDA graph can hold.

Attention always looks over the whole buffer, and a mask hides what is not there yet. So every step is the same
operations on the same memory, and no step waits for the host. On a CPU that would only cost time: there it serves as a
test of the very steps that a graph records.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.kv_cache import KVCache

ALIGNMENT = 64
"""Capacities are rounded up to a multiple: CUDA's attention kernels want masks whose rows are aligned."""


class StaticCache:
    """Self-attention keys and values, and the cross-attention's, for `rows` rows, all as far as each other.

    Args:
        config: the language model's.
        rows: of the batch.
        capacity: most steps.
        text_length: vectors of text a row; 0 is none.
        restart: as `KVCache.restart`.
        dtype: of keys and values.
        device: of everything.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        rows: int,
        capacity: int,
        *,
        text_length: int = 0,
        restart: int = 0,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        room = -(-capacity // ALIGNMENT) * ALIGNMENT
        shape = (config.layers, rows, config.heads, room, config.head_dimension)
        # Zeros: what the mask hides counts zero times what it is, which must be a number.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.restart = restart
        self.length = torch.zeros((), dtype=torch.int64, device=device)
        self._columns = torch.arange(room, device=device)
        text_shape = (rows, config.heads, text_length, config.head_dimension)
        self.text = [
            (torch.zeros(text_shape, dtype=dtype, device=device), torch.zeros(text_shape, dtype=dtype, device=device))
            for _ in range(config.layers if text_length else 0)
        ]

    @property
    def rows(self) -> int:
        """Rows of the batch that this cache holds."""
        return self.keys.shape[1]

    def load(self, cache: KVCache) -> None:
        """Take over what a cache holds, each of its rows as often as there is room for: variations of one prefill.

        Raises:
            ValueError: this cache's rows are no multiple of the other's, or it holds another length of text.
        """
        times, rest = divmod(self.rows, cache.rows)
        if rest or len(self.text) != len(cache.text):
            raise ValueError(f"{cache.rows} rows of another shape do not become {self.rows}")
        pairs = [(self.keys[:, :, :, : cache.length], cache.keys), (self.values[:, :, :, : cache.length], cache.values)]
        for mine, theirs in pairs:
            past = theirs[:, :, :, : cache.length]
            mine.unflatten(1, (cache.rows, times)).copy_(past[:, :, None].expand(-1, -1, times, -1, -1, -1))
        for own, other in zip(self.text, cache.text, strict=True):
            for mine, theirs in zip(own, other, strict=True):
                mine.copy_(theirs.repeat_interleave(times, dim=0))
        self.length.fill_(cache.length)

    def positions(self, steps: int) -> Tensor:
        """Positions `[steps]` of the next steps."""
        places = self._places(steps)
        return torch.where(places >= self.restart, places - self.restart, places) if self.restart else places

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal self-attention of the next s steps over all so far, `[rows, heads, s, D / heads]` each."""
        places = self._places(k.shape[2])
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, places, k.to(keys.dtype))
        values.index_copy_(2, places, v.to(values.dtype))
        seen = self._columns <= places[:, None]
        return F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=seen).to(q.dtype)

    def advance(self, steps: int) -> None:
        """Count the steps that every layer has appended."""
        self.length.add_(steps)

    def _places(self, steps: int) -> Tensor:
        return self.length + self._columns[:steps]


Cache = KVCache | StaticCache
