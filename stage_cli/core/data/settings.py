"""What a user may choose when songs are prepared. Imports no numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stage_cli.core.music import TRACKERS, default_tracker, key_finder
from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.data.layouts.source import SongFolder

_Song = TypeVar("_Song")

LOWEST_SHARD_RATE, HIGHEST_SHARD_RATE = 8_000, 192_000
"""Hz of the audio in shards."""

BEAT_SOURCES: tuple[str, ...] = (*TRACKERS, "annotations")


@dataclass(frozen=True)
class PrepareSettings:
    """How songs are prepared.

    Attributes:
        beats: where beats come from, one of `BEAT_SOURCES`; by default the first tracker that is installed.
        tags: folder of the models that tag genres and moods, or None.
        output: folder for what is written, one folder a song; None writes into the songs' folders.
        check: look only: open every file, write nothing.
        tags_fingerprint: of the models in `tags`.

    Raises:
        UsageError: a value is not allowed.
    """

    beats: str = field(default_factory=default_tracker)
    tags: Path | None = None
    output: Path | None = None
    check: bool = False
    tags_fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.beats not in BEAT_SOURCES:
            raise UsageError(f"`beats` cannot be {self.beats!r}", next_step=f"allowed: {', '.join(BEAT_SOURCES)}")
        if self.tags is not None and not self.tags.is_dir():
            raise UsageError(f"`tags`: there is no folder {self.tags}", next_step="name the folder of the models")
        if self.output is not None and self.output.exists() and not self.output.is_dir():
            raise UsageError(f"`output` {self.output} is not a folder", next_step="name a folder")

    @property
    def fingerprint(self) -> str:
        """What decides on the features, as one text without spaces."""
        keys = key_finder()
        # Unnamed, essentia is what it has always been: what was prepared stays prepared.
        by = "" if keys == "essentia" else f"keys={keys};"
        return f"beats={self.beats};{by}tags={self.tags_fingerprint or 'none'}"

    def folder_of(self, song: SongFolder) -> Path:
        """Return the folder for what is written of a song."""
        if self.output is None:
            return song.path
        # One song alone has no path of its own below the folder that was named.
        return self.output / (song.relative if song.relative.parts else song.id)


@dataclass(frozen=True)
class Shard:
    """The part of a set that one machine of several prepares.

    Attributes:
        index: of the machine, from 1.
        count: of machines.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8", the second of eight.

        Raises:
            UsageError: it is not of the form I/N with 1 ≤ I ≤ N.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"`shard` cannot be {text!r}", next_step="give I/N with I from 1 to N, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def take(self, songs: Sequence[_Song]) -> list[_Song]:
        """Return this machine's songs: each song lies in exactly one shard, and neighbours in different ones."""
        return list(songs[self.index - 1 :: self.count])


WHOLE_SET = Shard()
"""What a machine prepares that works alone."""


def check_shard_settings(output: Path, sample_rate: int | None) -> None:
    """Check how shards are to be written.

    Args:
        output: folder of the shards.
        sample_rate: Hz of their audio; None copies files.

    Raises:
        UsageError: a value is not allowed.
    """
    if re.fullmatch(r"\d+/\d+", str(output), re.ASCII) and not output.is_dir():
        raise UsageError(
            f"`shards` {output} names a folder for shards",
            next_step=f"`shard` {output} prepares a part of the set; `shards` ./{output} is a folder",
        )
    if sample_rate is not None and not LOWEST_SHARD_RATE <= sample_rate <= HIGHEST_SHARD_RATE:
        raise UsageError(
            f"`shards_rate` cannot be {sample_rate}",
            next_step=f"allowed: {LOWEST_SHARD_RATE} to {HIGHEST_SHARD_RATE} Hz, the codec's is 32000",
        )
