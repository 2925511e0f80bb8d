"""The training set: (context, target, description), each drawn from nothing but (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from stage_cli.core.data.augment import draw_augmentation
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.effects import record
from stage_cli.core.data.index import eligible_songs, find_songs, targets
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.data.item import Item, ItemDraw
from stage_cli.errors import UsageError

# Streams 0 to 2 of (seed, epoch, index) draw the item, stream 3 its dropouts in the training.
_EFFECTS_STREAM = (4,)


class StemDataset(Dataset[Item]):
    """A map-style data set of items from prepared songs, in folders or in shards.

    An epoch hears each target stem about once: a song gives one item for every `chunk_seconds` in which the stem can
    be heard, at least one. Where in the song, with which context and augmentation: that is drawn anew in each epoch,
    from (seed, epoch, index) alone, so it is the same in any worker, on any rank and after resuming.

    Args:
        config: what to draw.
        sample_rate: Hz of the items; the codec's.
        seed: 0 or more.
        songs: one side of a split; None takes every song below `config.root`.
        items_per_song: a fixed number for each song and target stem, for validation.

    Raises:
        UsageError: no song can be used.
        StageError: features or shards are damaged.
    """

    def __init__(
        self,
        config: DataConfig,
        sample_rate: int,
        seed: int,
        *,
        songs: Sequence[IndexedSong] | None = None,
        items_per_song: int | None = None,
    ) -> None:
        if seed < 0:
            raise UsageError(f"a seed cannot be {seed}", next_step="allowed: whole numbers from 0 on")
        self.config = config
        self.sample_rate = sample_rate
        self.seed = seed
        if songs is None:
            songs = find_songs(config.root)
            songs = eligible_songs(songs, config)
        self.songs = [song for song in songs if targets(song, config)]
        pairs = [(number, stem) for number, song in enumerate(self.songs) for stem in targets(song, config)]
        if not pairs:
            raise UsageError("no song can be used", why=f"none of {len(songs)} has {config.stem} and a context")
        counts = [
            items_per_song or max(1, int(self.songs[number].stems[stem].active / config.chunk_seconds))
            for number, stem in pairs
        ]
        self._pairs = pairs
        self._ends = np.cumsum(counts)
        # Shared memory: workers that live on from epoch to epoch see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on; call it before the epoch's first batch is asked for."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Item:
        """Make one item.

        Raises:
            AudioError: a file cannot be used; the error names the song.
            StageError: the song has no chunk with target and context.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        number, stem = self._pairs[int(np.searchsorted(self._ends, index, side="right"))]
        # Streams of their own: other positions do not change the augmentation, nor the other way round.
        streams = np.random.SeedSequence((self.seed, self.epoch, index)).spawn(3)
        position, choice, change = (np.random.default_rng(stream) for stream in streams)
        draw = ItemDraw(self.config, self.sample_rate, self.songs[number], stem, draw_augmentation(self.config, change))
        item = draw.item(position, choice, index)
        if not self.config.effects_probability or item.context_kind != "mix":
            return item
        sound = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch, index), spawn_key=_EFFECTS_STREAM))
        if sound.random() >= self.config.effects_probability:
            return item
        return replace(item, context=record(item.context, self.sample_rate, sound))
