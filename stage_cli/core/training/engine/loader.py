"""Micro-batches, made ahead of time by processes of their own that end when the training process does."""

from __future__ import annotations

import copy
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stage_cli.core.data.processes import end_with_parent
from stage_cli.core.training.engine.order import DataOrder, MicroBatch
from stage_cli.errors import StageError

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
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with_parent()
    # A data set may keep its epoch in shared memory. Workers are not all in the same one.
    info = get_worker_info()
    batches: Any = info.dataset if info is not None else None
    if batches is not None:
        batches.dataset = copy.deepcopy(batches.dataset)
