"""How well a model does on songs that it never learns from: losses, and demos to be heard and seen.

Which items are validated, and whose context takes the place of an item's own.

One validation: the losses of all items, and demos of some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.data.dataset import Item, StemDataset
from stage_cli.core.data.index import IndexedSong
from stage_cli.core.training.demos import Demos
from stage_cli.core.training.losses import Autocast, KindBatch, Reduce, moved, shuffle_contexts, validation_losses
from stage_cli.core.training.record import demo_folder
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.stem_task import StemTask
from stage_cli.errors import StageError


class ValidationItems:
    """The same items in each validation: of epoch 0, without augmentation, from the seed `validate.seed`.

    They go round the songs: the first item of each song (each target stem, with data.stem = "any") comes before the
    second of any. Where `validate.most_items` leaves only a part of a round, its songs are spread evenly.

    Args:
        config: the run's.
        songs: the validation side of the split.
        sample_rate: Hz of the codec.

    Raises:
        UsageError: no song can be used.
    """

    def __init__(self, config: TrainingConfig, songs: Sequence[IndexedSong], sample_rate: int) -> None:
        data, each = config.data.without_augmentation(), config.validate.items_per_song
        seed = config.validate.seed
        self._items = StemDataset(data, sample_rate, seed, songs=songs, items_per_song=each)
        # Another probability changes no other draw: the same chunk and the same mix, but all of the context.
        uncut = replace(data, uncut_probability=1.0)
        self._uncut = StemDataset(uncut, sample_rate, seed, songs=songs, items_per_song=each)
        self.indices = spread(len(self._items) // each, each, config.validate.most_items)

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, position: int) -> Item:
        """Make an item, its context cut as in the training; positions count from 0 in the order above.

        Raises:
            StageError: a file cannot be used; the error names the song.
        """
        return self._items[self.indices[position]]

    def uncut_item(self, position: int) -> Item:
        """Make the same item with a context as long as the target.

        Where the cut context would be silent it lies in another place, as in `StemDataset`.

        Raises:
            StageError: a file cannot be used; the error names the song.
        """
        return self._uncut[self.indices[position]]


def spread(groups: int, each: int, most: int) -> list[int]:
    """Choose from `groups` times `each` items that stand group by group; at most `most` of them, in rounds."""
    indices = []
    for place in range(each):
        left = min(groups, most - len(indices))
        indices += [(number * groups // left) * each + place for number in range(left)]
    return indices


def partners(songs: Sequence[str], kinds: Sequence[str]) -> list[int | None]:
    """Find for each item the next one, round the end, of another song and with the same kind of context.

    Returns:
        Positions; None where there is no other song with such a context.
    """
    count = len(songs)
    found: list[int | None] = []
    for here in range(count):
        others = ((here + ahead) % count for ahead in range(1, count))
        fitting = (there for there in others if songs[there] != songs[here] and kinds[there] == kinds[here])
        found.append(next(fitting, None))
    return found


# What can go wrong with a demo without being a mistake of this program.
_MISFORTUNES = (StageError, OSError, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found.

    Attributes:
        metrics: "validation/loss" (lower is better), "validation/loss/codebook_1" and so on; where there is another
            song to take a context from, "validation/loss_shuffled_context" and "validation/context_gap" (how much worse
            the loss is then; 0: the context is not heard), with both kinds of context also
            "validation/context_gap/mix" and "validation/context_gap/metronome".
        demos: files written, on the main process.
        notes: what the user should know: demos that could not be made.
    """

    metrics: dict[str, float]
    demos: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


class Validator:
    """Validate a model on the validation songs, again and again on the same items.

    The first call reads the items and makes their tokens, which are kept on the CPU; later calls need neither files nor
    codec for the losses. Nothing is dropped or augmented, nothing is drawn from torch's own generators.

    Each process computes a part of the batches; their sums are added up, so that the result is that of one process, up
    to rounding. Tokens are made on every process, for a context may stand in for one of any other batch.

    Demos are written by the main process while others wait; with run.sharding = "fsdp" there are none, as no process
    holds the whole model.

    Args:
        config: the run's.
        task: what is trained; placed on its device.
        songs: the validation side of the split; None takes the task's.
        process: number of this process, from 0, the main one.
        processes: how many.
        reduce: adds up a float64 vector, given on the CPU, over all processes.
        autocast: makes the context of a forward pass, as in the training.

    Raises:
        UsageError: no song can be used.
    """

    def __init__(
        self,
        config: TrainingConfig,
        task: StemTask,
        songs: Sequence[IndexedSong] | None = None,
        *,
        process: int = 0,
        processes: int = 1,
        reduce: Reduce = lambda sums: sums,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.config = config
        self.task = task
        self.process = process
        self.processes = processes
        self.reduce: Callable[[Tensor], Tensor] = reduce
        self.autocast = autocast
        songs = task.validation_songs if songs is None else songs
        self.items = ValidationItems(config, songs, task.model.config.codec.sample_rate)
        self._batches: list[KindBatch] = []
        self._demo_positions: list[int] = []
        self._demos = Demos(task, config.validate, self._demo_items)

    def __call__(self, step: int, check: Callable[[], None] = lambda: None) -> ValidationResult:
        """Validate the weights of a step; all processes call it.

        Args:
            step: of the weights.
            check: called often; what it raises ends the validation.

        Raises:
            StageError: a song cannot be read.
        """
        if not self._batches:
            self._prepare(check)
        metrics = validation_losses(
            self.task.module,
            self._batches,
            device=self.task.model.runtime.device,
            process=self.process,
            processes=self.processes,
            reduce=self.reduce,
            autocast=self.autocast,
            check=check,
        )
        demos, notes = self._write_demos(step, metrics["validation/loss"], check)
        return ValidationResult(metrics, demos, notes)

    def _write_demos(
        self, step: int, loss: float, check: Callable[[], None]
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Write demos; what goes wrong with them becomes a note, for the training is worth more."""
        if self.process != 0 or not self._demo_positions or self.config.run.sharding == "fsdp":
            return (), ()
        if not math.isfinite(loss):
            return (), (f"no demos at step {step}: the validation loss is {loss}",)
        try:
            return self._demos.write(demo_folder(self.config.directory, step), step, check), ()
        except _MISFORTUNES as error:
            return (), (f"no demos at step {step}: {error}",)

    def _demo_items(self) -> list[Item]:
        return [self.items.uncut_item(position) for position in self._demo_positions]

    def _prepare(self, check: Callable[[], None]) -> None:
        """Read all items and make their tokens, in batches with one kind of context each."""
        songs: list[str] = []
        kinds: list[str] = []
        waiting: dict[str, list[tuple[int, Item]]] = {}
        batches: list[KindBatch] = []
        for position in range(len(self.items)):
            check()
            item = self.items.item(position)
            songs.append(item.song)
            kinds.append(item.context_kind)
            same = waiting.setdefault(item.context_kind, [])
            same.append((position, item))
            if len(same) == self.config.train.micro_batch_size:
                batches.append(self._batch(waiting.pop(item.context_kind)))
        batches += [self._batch(waiting[kind]) for kind in sorted(waiting)]
        first_of_song = {song: position for position, song in reversed(list(enumerate(songs)))}
        self._demo_positions = sorted(first_of_song.values())[: self.config.validate.demos]
        self._batches = shuffle_contexts(batches, partners(songs, kinds), self.task.model.config.lm.pad)

    def _batch(self, numbered: Sequence[tuple[int, Item]]) -> KindBatch:
        """Make the tokens of some items."""
        items = [item for _, item in numbered]
        batch = self.task.collate(items).to(self.task.model.runtime.device)
        tokens = moved(self.task.inputs(batch, 0, drop=False), "cpu")
        return KindBatch(items[0].context_kind, tuple(position for position, _ in numbered), tokens)
