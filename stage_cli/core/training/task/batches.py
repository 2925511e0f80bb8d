"""Batches of codec tokens: as the cache gives them, and as the language model learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stage_cli.core.data.collate import AudioBatch, collate, left_pad_codes
from stage_cli.core.data.item import Item


@dataclass(frozen=True, eq=False)
class TokenItem:
    """An item whose tokens were made before.

    Attributes:
        context: `[K, Tc]` int64.
        target: `[K, Tt]` int64.
        description: "" where nothing is known.
        stem: of the target.
        song: id.
        start: seconds of the song at which context and target begin.
        index: in the data set.
        labels: `[Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    target: Tensor
    description: str
    stem: str
    song: str
    start: float
    index: int
    labels: Tensor | None = None


@dataclass(frozen=True)
class CodeBatch:
    """Items as codes of the codec, nothing dropped.

    Attributes:
        context: `[B, K, Tc]` int64; what lies behind a context's own frames means nothing.
        context_frames: the length of each.
        target: `[B, K, Tt]` int64.
        descriptions: one an item.
        items: without audio, tokens and labels: song, stem, index, ….
        labels: `[B, Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    context_frames: tuple[int, ...]
    target: Tensor
    descriptions: tuple[str, ...]
    items: tuple[Item | TokenItem, ...]
    labels: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CodeBatch:
        """Move the codes."""
        return replace(
            self,
            context=self.context.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> CodeBatch:
        """Pin the codes; `DataLoader(pin_memory=True)` calls it."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, context=self.context.pin_memory(), target=self.target.pin_memory(), labels=labels)


@dataclass(frozen=True)
class TokenBatch:
    """What the module is called with.

    Attributes:
        context: `[B, K, Tc]` int64, left-padded with the pad token; Tc is the longest of `context_frames`.
        context_frames: own frames of each context, 0 where it is dropped. On the CPU: shapes are made of them.
        target: `[B, K, Tt]` int64.
        text: `[B, L, text dimension]` of the text encoder, or None: no item has a description.
        text_mask: `[B, L]` bool, False everywhere where a description is dropped; None with `text`.
        hidden: `[B, Tt]` bool, True where a frame of the target is learned but not seen; None is nowhere.
        labels: `[B, Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    context_frames: tuple[int, ...]
    target: Tensor
    text: Tensor | None = None
    text_mask: Tensor | None = None
    hidden: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context_frames)

    def contexts(self) -> list[Tensor]:
        """Return each item's own context, `[K, its frames]`."""
        end = self.context.shape[2]
        return [row[:, end - own :] for row, own in zip(self.context, self.context_frames, strict=True)]

    def seen_target(self, pad: int) -> Tensor:
        """Return the target as the model sees it, `[B, K, Tt]`: the language model's pad where it is hidden."""
        return self.target if self.hidden is None else self.target.masked_fill(self.hidden[:, None], pad)

    def with_contexts(self, contexts: Sequence[Tensor], pad: int) -> TokenBatch:
        """Return the batch with other contexts, `[K, any frames]` each; `pad` is the language model's pad token."""
        frames = tuple(context.shape[1] for context in contexts)
        return replace(self, context=left_pad_codes(contexts, pad), context_frames=frames)


def collate_items(items: Sequence[Item] | Sequence[TokenItem]) -> AudioBatch | CodeBatch:
    """Make a batch of items with audio, or of items with tokens; the `collate_fn` of a DataLoader."""
    tokens = [item for item in items if isinstance(item, TokenItem)]
    return collate_tokens(tokens) if tokens else collate([item for item in items if isinstance(item, Item)])


def collate_tokens(items: Sequence[TokenItem]) -> CodeBatch:
    """Make a batch of items whose tokens were made before."""
    frames = tuple(item.context.shape[1] for item in items)
    context = items[0].context.new_zeros(len(items), items[0].context.shape[0], max(frames))
    for row, item, own in zip(context, items, frames, strict=True):
        row[:, :own] = item.context
    labels = [item.labels for item in items if item.labels is not None]
    return CodeBatch(
        context=context,
        context_frames=frames,
        target=torch.stack([item.target for item in items]),
        descriptions=tuple(item.description for item in items),
        items=tuple(
            replace(item, context=item.context[:, :0], target=item.target[:, :0], labels=None) for item in items
        ),
        labels=torch.stack(labels) if len(labels) == len(items) else None,
    )
