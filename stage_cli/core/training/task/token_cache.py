"""Tokens made once, before the first step, for data sets without augmentation (`data.tokens = "cache"`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch.utils.data import Dataset

from stage_cli.core.codec.codec import Codec
from stage_cli.core.data.collate import collate
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.training.engine.loader import Loader
from stage_cli.core.training.engine.order import DataOrder, MicroBatch
from stage_cli.core.training.task.batches import CodeBatch, TokenItem
from stage_cli.core.training.task.encoding import encode_batch
from stage_cli.core.training.task.token_files import PART_ITEMS, cache_key, part_path, read_item, write_part


class CachedTokens(Dataset[TokenItem]):
    """A map-style data set of items whose tokens lie in files; epochs beyond the cached ones repeat them in turn.

    Args:
        folder: of the parts, which `make_tokens` writes.
        items: of an epoch.
        epochs: that are cached.
        labels: whether they are labelled.
        shared: whether other runs' tokens lie beside the folder; if not, what lies there is outdated.
    """

    def __init__(self, folder: Path, items: int, epochs: int, *, labels: bool = False, shared: bool = False) -> None:
        self.folder = folder
        self.labels = labels
        self.shared = shared
        self.epochs = epochs
        self._items = items
        # Shared memory: workers that live on from epoch to epoch see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Give the items of another epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> TokenItem:
        """Read one item.

        Raises:
            StageError: its file is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        part, place = divmod(index, PART_ITEMS)
        return read_item(part_path(self.folder, self.epoch % self.epochs, part), place)


def cached_tokens(
    run: Path, dataset: StemDataset, codec: Codec, epochs: int, *, labels: bool = False, shared: Path | None = None
) -> CachedTokens:
    """Return the data set that `make_tokens` fills for a run; nothing is made yet.

    Args:
        run: the run's folder.
        dataset: gives the audio.
        codec: makes the tokens.
        epochs: to be cached.
        labels: whether they are to be labelled.
        shared: a folder that runs have in common; None is one of the run's own. Labelled tokens that lie there, all
            of them, also serve a run without labels.
    """
    if shared is not None:
        labelled = CachedTokens(
            shared / cache_key(dataset, codec, labels=True), len(dataset), epochs, labels=True, shared=True
        )
        if labels or not _missing_parts(labelled):
            return labelled
    folder = (shared or run / "tokens") / cache_key(dataset, codec, labels=labels)
    return CachedTokens(folder, len(dataset), epochs, labels=labels, shared=shared is not None)


def make_tokens(
    cached: CachedTokens,
    dataset: StemDataset,
    codec: Codec,
    *,
    device: torch.device,
    batch_size: int,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the parts that are missing. Each process makes its share; wait for all of them before the first item.

    Parts that are there stay, so a run that was stopped goes on where it was. Tokens of another config, seed or codec
    are deleted, by process 0, unless runs share the folder.

    Args:
        cached: to be filled.
        dataset: gives the audio; its epoch is set.
        codec: in evaluation mode, on its device.
        device: where audio and codes are put.
        batch_size: items encoded at a time.
        workers: processes that read audio.
        process: number of this process.
        processes: of all.
        on_progress: called with the items done and those to do by this process.

    Raises:
        AudioError: a song cannot be read.
        StageError: a part cannot be written, or a song gives no item.
    """
    if process == 0 and not cached.shared:
        _remove_others(cached.folder)
    parts = _missing_parts(cached, process, processes)
    total, done = sum(len(part.indices) for part in parts), 0
    order = _PartOrder(parts, len(dataset), batch_size)
    made: list[CodeBatch] = []
    with Loader(dataset, collate, order, workers=workers) as loader:
        batches = loader.start(1, len(parts))
        for part in parts:
            while sum(len(batch.items) for batch in made) < len(part.indices):
                _, batch = next(batches)
                made.append(encode_batch(codec, batch.to(device), labels=cached.labels).to("cpu"))
                done += len(made[-1].items)
                if on_progress is not None:
                    on_progress(done, total)
            write_part(part_path(cached.folder, part.epoch, part.number), made, codec.config.codebook_size)
            made.clear()
    dataset.set_epoch(0)


@dataclass(frozen=True)
class _CachePart:
    """What lies in one file."""

    epoch: int
    number: int
    indices: range


class _PartOrder(DataOrder):
    """The order in which the cache is made: step s of the loader is the s-th of some parts, from its first item on."""

    def __init__(self, parts: list[_CachePart], items: int, batch_size: int) -> None:
        super().__init__(items, batch_size, batch_size, 0)
        self._parts = parts

    def micro_batches(self, step: int, process: int = 0, processes: int = 1) -> list[MicroBatch]:
        """Return the batches of a part; none goes on into the next part."""
        part = self._parts[step - 1]
        starts = range(part.indices.start, part.indices.stop, self.micro_batch_size)
        batches = [
            MicroBatch(number, part.epoch, tuple((part.epoch, index) for index in range(start, end)))
            for number, (start, end) in enumerate(pairwise([*starts, part.indices.stop]))
        ]
        return batches[process::processes]


def _missing_parts(cached: CachedTokens, process: int = 0, processes: int = 1) -> list[_CachePart]:
    """List the parts that a process has to make."""
    parts = [
        _CachePart(epoch, number, range(start, min(start + PART_ITEMS, len(cached))))
        for epoch in range(cached.epochs)
        for number, start in enumerate(range(0, len(cached), PART_ITEMS))
    ]
    # First the shares, then what is missing: no process looks at what another one is writing.
    return [
        part for part in parts[process::processes] if not part_path(cached.folder, part.epoch, part.number).exists()
    ]


def _remove_others(folder: Path) -> None:
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
