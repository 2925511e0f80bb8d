"""Batches of items whose contexts have unequal lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stage_cli.core.data.item import Item


@dataclass(frozen=True)
class AudioBatch:
    """Items as tensors, for a codec that runs on the device.

    Attributes:
        context: `[B, samples]` float32, contexts followed by silence up to the longest.
        context_samples: `[B]` int64, the length of each; frame by frame, `ceil(context_samples / samples a frame)`
            codes are its own, the rest is silence to be thrown away.
        target: `[B, samples]` float32.
        descriptions: one an item.
        items: without their audio: song, stem, start, beats, …
    """

    context: Tensor
    context_samples: Tensor
    target: Tensor
    descriptions: tuple[str, ...]
    items: tuple[Item, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> AudioBatch:
        """Move context and target; the lengths stay on the CPU, where shapes are made of them."""
        return replace(
            self,
            context=self.context.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> AudioBatch:
        """Pin context and target; `DataLoader(pin_memory=True)` calls it."""
        return replace(self, context=self.context.pin_memory(), target=self.target.pin_memory())


def collate(items: Sequence[Item]) -> AudioBatch:
    """Make a batch; the `collate_fn` of a DataLoader."""
    lengths = [len(item.context) for item in items]
    context = torch.zeros(len(items), max(lengths))
    for row, item in zip(context, items, strict=True):
        row[: len(item.context)] = torch.from_numpy(item.context)
    return AudioBatch(
        context=context,
        context_samples=torch.tensor(lengths),
        target=torch.stack([torch.from_numpy(item.target) for item in items]),
        descriptions=tuple(item.description for item in items),
        items=tuple(replace(item, context=item.context[:0], target=item.target[:0]) for item in items),
    )


def left_pad_codes(codes: Sequence[Tensor], pad: int) -> Tensor:
    """Join contexts of unequal lengths so that all of them end where the separator will be.

    For a codec's `[B, K, T]` of a padded batch: `left_pad_codes([row[:, :n] for row, n in zip(codes, frames)], pad)`.

    Args:
        codes: `[K, Tc]` each, of any Tc, 0 included (a context that is dropped).
        pad: the pad token, `LanguageModelConfig.pad`.

    Returns:
        `[B, K, longest Tc]`; `lm.prefix.attended_steps` masks the pads.
    """
    longest = max(row.shape[-1] for row in codes)
    return torch.stack([torch.nn.functional.pad(row, (longest - row.shape[-1], 0), value=pad) for row in codes])
