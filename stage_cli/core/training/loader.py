"""Which items a step learns from: a function of (seed, step) alone, whoever computes it. Imports no torch.

Chance inside the module (dropout): a function of (seed, step, micro-batch), whatever ran before; and exact bits.

Micro-batches, made ahead of time by processes of their own that end when the training process does.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stage_cli.core.machine import STOP_SIGNALS, end_with_parent
from stage_cli.errors import StageError

# Apart from the streams that items are drawn from, which begin with the same seed.
_ORDER_STREAM = 3038


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


_CHANCE_STREAM = 53_775


@contextmanager
def kept_generators(device: torch.device) -> Generator[None]:
    """Give torch's own generators, which modules draw from, their state back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def deterministic_algorithms(wanted: bool) -> Generator[None]:
    """Let torch use only algorithms that give the same bits each time, also on CUDA; afterwards as before."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def seed_generators(device: torch.device, seed: int, step: int, micro_batch: int) -> None:
    """Seed torch's own generators for one forward pass, the same on whichever process it is computed."""
    words = np.random.SeedSequence((seed, step, micro_batch), spawn_key=(_CHANCE_STREAM,)).generate_state(2, np.uint32)
    number = int(words[0]) << 31 ^ int(words[1])
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(number)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


_AHEAD = 4  # micro-batches a worker


class Loader:
    """The micro-batches of one process, in order. Use it as a context manager: leaving ends the workers.

    Workers live through all epochs. They are spawned, not forked: a copy of a process with threads may hang.

    Args:
        dataset: a `TaskDataset`.
        collate: makes a `Batch` of items.
        order: of the data.
        workers: processes; 0 makes batches in this one, when they are asked for.
        process: which of the training's processes this is.
        processes: how many there are.
        pin_memory: for a CUDA device.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[Sequence[Any]], Any],
        order: DataOrder,
        *,
        workers: int = 0,
        process: int = 0,
        processes: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._made = _Batches(dataset, collate)
        self._order = order
        self._workers = workers
        self._share = (process, processes)
        self._pin_memory = pin_memory
        self._children: set[BaseProcess] = set()
        self._iterator: Iterator[Any] | None = None

    def start(self, first: int, last: int) -> Iterator[tuple[MicroBatch, Any]]:
        """Return the micro-batches of the steps from `first` to `last`, both counted from 1 and included.

        Earlier ones are not read. Iterating raises what making a batch raised, in whichever process.
        """
        loader: DataLoader[Any] = DataLoader(
            self._made,
            batch_size=None,
            sampler=_Sequence(self._order, first, last, self._share),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self._pin_memory,
            prefetch_factor=_AHEAD if self._workers else None,
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=_begin_worker if self._workers else None,
            # Else it would draw the workers' seed from the global generator.
            generator=torch.Generator().manual_seed(0),
        )
        before = set(multiprocessing.active_children())
        self._iterator = iter(loader)
        self._children = set(multiprocessing.active_children()) - before
        return zip(_Sequence(self._order, first, last, self._share), map(_checked, self._iterator), strict=True)

    def close(self) -> None:
        """End the workers."""
        self._iterator = None  # the DataLoader asks them to end when nobody holds its iterator
        for child in self._children:
            child.join(timeout=1)
            child.kill()
            child.join()
        self._children.clear()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Sequence:
    """The micro-batches of some steps, as a sampler."""

    def __init__(self, order: DataOrder, first: int, last: int, share: tuple[int, int]) -> None:
        self._order, self._first, self._last, self._share = order, first, last, share

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self._first, self._last + 1):
            yield from self._order.micro_batches(step, *self._share)


class _Failure:
    """An error of ours on its way from a worker: the DataLoader would make a text of it."""

    def __init__(self, error: StageError) -> None:
        self.error = error


class _Batches(Dataset[Any]):
    """Micro-batches by what is in them."""

    def __init__(self, dataset: Any, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.dataset = dataset
        self._collate = collate

    def __getitem__(self, index: MicroBatch) -> Any:
        try:
            items = []
            for epoch, number in index.draws:
                self.dataset.set_epoch(epoch)
                items.append(self.dataset[number])
            return self._collate(items)
        except StageError as error:
            return _Failure(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _checked(batch: Any) -> Any:
    if isinstance(batch, _Failure):
        raise batch.error
    return batch


def _begin_worker(number: int) -> None:
    del number
    # Signals that are sent to the whole group, or to all of a batch system's job: the training process needs its
    # workers to finish the step, and ends them itself.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    # A data set may keep its epoch in shared memory. Workers are not all in the same one.
    info = get_worker_info()
    batches: Any = info.dataset if info is not None else None
    if batches is not None:
        batches.dataset = copy.deepcopy(batches.dataset)
