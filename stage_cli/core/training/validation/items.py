"""Which items are validated, and whose context takes the place of an item's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.data.item import Item
from stage_cli.core.training.config.training import TrainingConfig


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
