"""Losses on the validation items, with their own contexts and with those of other songs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stage_cli.core.training.stem_module import TokenBatch

Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class KindBatch:
    """Validation items with one kind of context, as tokens on the CPU.

    Attributes:
        kind: "mix" or "metronome".
        positions: of its items among all validation items.
        tokens: nothing dropped.
        shuffled: the same with other songs' contexts; None where no other song has such a context.
    """

    kind: str
    positions: tuple[int, ...]
    tokens: TokenBatch
    shuffled: TokenBatch | None = None


def shuffle_contexts(batches: Sequence[KindBatch], partners: Sequence[int | None], pad: int) -> list[KindBatch]:
    """Give each batch its shuffled twin.

    A longer context is cut to the length of the item's own, so that it tells nothing by its length and begins where the
    target begins.

    Args:
        batches: of all items.
        partners: the position whose context each position gets, or None.
        pad: the language model's pad token.
    """
    contexts = {
        position: context
        for batch in batches
        for position, context in zip(batch.positions, batch.tokens.contexts(), strict=True)
    }
    twins = []
    for batch in batches:
        others = [partners[position] for position in batch.positions]
        found = [contexts[other] for other in others if other is not None]
        if len(found) < len(others):
            twins.append(batch)
            continue
        cut = [context[:, :own] for context, own in zip(found, batch.tokens.context_frames, strict=True)]
        twins.append(replace(batch, shuffled=batch.tokens.with_contexts(cut, pad)))
    return twins


@torch.no_grad()
def validation_losses(
    module: nn.Module,
    batches: Sequence[KindBatch],
    *,
    device: torch.device,
    process: int,
    processes: int,
    reduce: Reduce,
    autocast: Autocast,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Compute the mean losses over all items, each process a part of the batches.

    All processes call the module equally often, as weights that are spread over them (FSDP) need: where the batches do
    not suffice for the last round, some compute the first one again, and leave it out.

    Args:
        module: `StemModule`, or what the engine made of it; it is put into evaluation mode meanwhile.
        batches: the same on every process.
        device: where the module is.
        process: number of this one, from 0.
        processes: how many.
        reduce: adds up a float64 vector on the CPU over all processes.
        autocast: makes the context of a forward pass.
        check: called before each batch; what it raises ends the validation.

    Returns:
        The metrics by name; without those of shuffled contexts where no item has one.
    """
    kinds = sorted({batch.kind for batch in batches})
    codebooks = batches[0].tokens.target.shape[1]
    has_shuffled = any(batch.shuffled is not None for batch in batches)
    # For each kind: items, their loss, that of each codebook; items with a shuffled context, its loss, their own loss.
    sums = torch.zeros(len(kinds), 2 + codebooks + 3, dtype=torch.float64)
    with evaluating(module):
        for number in range(process, -(-len(batches) // processes) * processes, processes):
            check()
            counts = number < len(batches)
            batch = batches[number if counts else 0]
            own = _losses(module, batch.tokens, device, autocast)
            other = _losses(module, batch.shuffled or batch.tokens, device, autocast) if has_shuffled else own
            if not counts:
                continue
            items = len(batch.positions)
            row = sums[kinds.index(batch.kind)]
            row[0] += items
            row[1 : 2 + codebooks] += items * own
            if batch.shuffled is not None:
                row[-3:] += items * torch.stack([torch.ones_like(own[0]), other[0], own[0]])
    return _metrics(kinds, reduce(sums.flatten()).view_as(sums))


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Put a module into evaluation mode, and each of its parts back into the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _losses(module: nn.Module, tokens: TokenBatch, device: torch.device, autocast: Autocast) -> Tensor:
    """The loss and that of each codebook, `[1 + K]` float64 on the CPU."""
    with autocast():
        outputs = module(moved(tokens, device))
    parts = [outputs["loss"].reshape(1).float(), outputs["codebook_losses"].float()]
    return torch.cat(parts).cpu().double()


def _metrics(kinds: Sequence[str], sums: Tensor) -> dict[str, float]:
    """Turn the sums of each kind, `[kinds, 2 + K + 3]`, into means."""
    total = sums.sum(dim=0)
    means = (total[1:-3] / total[0]).tolist()
    metrics = {"validation/loss": means[0]}
    metrics |= {f"validation/loss/codebook_{k}": mean for k, mean in enumerate(means[1:], 1)}
    count, shuffled, own = total[-3:].tolist()
    if not count:
        return metrics
    metrics["validation/loss_shuffled_context"] = shuffled / count
    metrics["validation/context_gap"] = (shuffled - own) / count
    if len(kinds) > 1:
        for kind, row in zip(kinds, sums, strict=True):
            count, shuffled, own = row[-3:].tolist()
            if count:
                metrics[f"validation/context_gap/{kind}"] = (shuffled - own) / count
    return metrics


def moved(tokens: TokenBatch, device: torch.device | str) -> TokenBatch:
    """Return a batch of tokens on another device."""
    return replace(
        tokens,
        context=tokens.context.to(device),
        target=tokens.target.to(device),
        text=None if tokens.text is None else tokens.text.to(device),
        text_mask=None if tokens.text_mask is None else tokens.text_mask.to(device),
    )
