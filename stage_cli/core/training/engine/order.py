"""Which items a step learns from: a function of (seed, step) alone, whoever computes it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Apart from the streams that items are drawn from, which begin with the same seed.
_ORDER_STREAM = 0x0BDE


@dataclass(frozen=True)
class MicroBatch:
    """What one process computes at a time.

    Attributes:
        number: its place in the step's batch, from 0.
        epoch: what the chance of `Task.inputs` depends on; the same for the whole batch.
        draws: (epoch, index) of each item.
    """

    number: int
    epoch: int
    draws: tuple[tuple[int, int], ...]


class DataOrder:
    """The order in which items are learned.

    Epoch e is a permutation of all items, drawn from (seed, e). A step takes the next `batch_size` of them; what is
    left at the end of an epoch and fills no batch is dropped. If there are fewer items than a batch holds, each batch
    is made of as many whole epochs as it takes, the last of them cut; each of them draws its items anew.

    Processes share a batch by its micro-batches, in turn, so neither their number nor the loader's changes what a step
    learns from, and a step's items are known without those of any step before.

    Args:
        items: in the data set.
        batch_size: items a step.
        micro_batch_size: a divisor of `batch_size`.
        seed: 0 or more.
    """

    def __init__(self, items: int, batch_size: int, micro_batch_size: int, seed: int) -> None:
        if items < 1 or batch_size < 1 or batch_size % micro_batch_size:
            raise ValueError(f"{items} items in batches of {batch_size}, {micro_batch_size} at a time")
        self.items = items
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Steps between two permutations, at least 1."""
        return max(1, self.items // self.batch_size)

    @property
    def epochs_per_batch(self) -> int:
        """Epochs that a batch is made of: 1, unless there are fewer items than it holds."""
        return -(-self.batch_size // self.items)

    def epoch(self, step: int) -> int:
        """Return the (first) epoch that a step, counted from 1, draws from."""
        return (step - 1) // self.batches_per_epoch * self.epochs_per_batch

    def batch(self, step: int) -> tuple[tuple[int, int], ...]:
        """Return (epoch, index) of each item of a step, counted from 1."""
        first = self.epoch(step)
        start = (step - 1) % self.batches_per_epoch * self.batch_size
        draws = [
            (epoch, int(index))
            for epoch in range(first, first + self.epochs_per_batch)
            for index in self._permutation(epoch)[start : start + self.batch_size]
        ]
        return tuple(draws[: self.batch_size])

    def micro_batches(self, step: int, process: int = 0, processes: int = 1) -> list[MicroBatch]:
        """Return what one of some processes computes for a step, counted from 1."""
        draws, epoch, size = self.batch(step), self.epoch(step), self.micro_batch_size
        return [
            MicroBatch(number, epoch, draws[number * size : (number + 1) * size])
            for number in range(process, self.batch_size // size, processes)
        ]

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._last is None or self._last[0] != epoch:
            seeds = np.random.SeedSequence((self.seed, epoch), spawn_key=(_ORDER_STREAM,))
            self._last = epoch, np.random.default_rng(seeds).permutation(self.items)
        return self._last[1]
