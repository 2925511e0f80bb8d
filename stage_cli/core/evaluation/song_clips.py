"""Clips of prepared songs: as published, the last 24 songs by name that have the stem, random places in each.

The metronome set, as published: every tempo from 100 to 179, two takes each, each beginning at a random moment.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.data.index import IndexedSong, context_kinds, eligible_songs, find_songs
from stage_cli.core.data.splits import split_songs
from stage_cli.core.evaluation.clips import Clip, ClipPlan, ClipSource, numbered
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.music.beats import constant_grid, metronome

RATE = 44_100
"""Hz of the clips, whatever the rates of songs and models: all models get the same ones, each at its own rate."""


class SongClips(ClipSource):
    """Random chunks of validation songs, drawn as the training draws them, without augmentation and without a cut.

    Each place depends on the seed, the song's number and the chunk's alone: not on the model, and not on a rate. A
    place where the stem or the context is silent is drawn again.

    Args:
        config: of the evaluation.

    Raises:
        UsageError: no song can be used.
        StageError: features or shards are damaged.
    """

    has_targets = True

    def __init__(self, config: EvaluationConfig) -> None:
        seed = config.generation.seed
        data = _data_config(config)
        songs = _chosen(config, data)
        most = config.most_songs
        if most is not None and len(songs) < most and config.split == "last" and config.validation_file is None:
            self.notes = (
                f"There are {len(songs)} songs, not {most}: all of them are used. A model that was trained on "
                "them knows them.",
            )
        self._sets: dict[str, StemDataset] = {}
        self._places: list[tuple[str, int]] = []
        plans: list[ClipPlan] = []
        for kind in config.contexts:
            of_kind = dataclasses.replace(data, context=kind)
            usable = [song for song in songs if context_kinds(song, config.stem, of_kind)]
            if not usable:
                self.notes += (f"No song has a {kind} context.",)
                continue
            dataset = StemDataset(of_kind, RATE, seed, songs=usable, items_per_song=config.chunks)
            self._sets[kind] = dataset
            for index in range(len(dataset)):
                song = dataset.songs[index // config.chunks]
                title = " – ".join(part for part in (song.artist, song.title) if part) or song.id
                recipe = f"{kind} {index} of {len(dataset)}: {song.id}"
                plans.append(ClipPlan("", song.id, title, kind, recipe))
                self._places.append((kind, index))
        self.plans = numbered(plans, seed)
        self._songs = {song.id: song for song in songs}

    def clip(self, index: int, digest: str) -> Clip:
        """Draw a clip.

        Raises:
            StageError: a file of the song cannot be read, or the stem is silent everywhere.
        """
        kind, number = self._places[index]
        item = self._sets[kind][number]
        return Clip(
            plan=self.plans[index],
            digest=digest,
            start=item.start,
            context_stems=item.context_stems,
            beats=item.beats,
            downbeats=item.downbeats,
            bpm=None,
            key=self._songs[item.song].key,
            description=item.description,
            context=item.context,
            target=item.target,
            sample_rate=RATE,
        )


def _data_config(config: EvaluationConfig) -> DataConfig:
    seconds = config.clip_seconds
    split = "file" if config.validation_file is not None else {"all": "none"}.get(config.split, config.split)
    return DataConfig(
        root=config.data,
        stem=config.stem,
        context=config.context,
        chunk_seconds=seconds,
        context_seconds=(seconds, seconds),
        uncut_probability=1.0,
        split=split,
        validation_file="" if config.validation_file is None else str(config.validation_file),
    ).without_augmentation()


def _chosen(config: EvaluationConfig, data: DataConfig) -> list[IndexedSong]:
    """Return the songs to evaluate on, by id."""
    songs = find_songs(data.root)
    if data.split in ("last", "none"):
        chosen = sorted(eligible_songs(songs, data), key=lambda song: song.id)
    else:
        chosen = list(split_songs(songs, data).validation)
    return chosen if config.most_songs is None else chosen[-config.most_songs :]


TEMPI = range(100, 180)
"""Beats a minute."""

TAKES = 2

LATEST_BEAT = 0.3
"""Seconds of the first beat, at most."""

_BEATS_PER_BAR = 4


def _tempi(count: int | None) -> list[int]:
    """Return all tempi, or so many of them, spread evenly."""
    if count is None or count >= len(TEMPI):
        return list(TEMPI)
    return [TEMPI[(2 * index + 1) * len(TEMPI) // (2 * count)] for index in range(count)]


class MetronomeClips(ClipSource):
    """Click tracks in 4/4. Takes of one tempo count as one song.

    Args:
        config: of the evaluation.
    """

    has_targets = False

    def __init__(self, config: EvaluationConfig) -> None:
        self._seconds = config.clip_seconds
        pairs = [(bpm, take) for bpm in _tempi(config.songs) for take in range(TAKES)]
        plans = [
            ClipPlan("", f"{bpm} bpm", f"{bpm} bpm, take {take + 1}", "metronome", f"{bpm} bpm {take}")
            for bpm, take in pairs
        ]
        self.plans = numbered(plans, config.generation.seed)
        self._tempi = [bpm for bpm, _ in pairs]

    def clip(self, index: int, digest: str) -> Clip:
        """Make a click track."""
        offset = float(np.random.default_rng(self.plans[index].seed).uniform(0, LATEST_BEAT))
        bpm = float(self._tempi[index])
        grid = constant_grid(bpm, _BEATS_PER_BAR, self._seconds, offset)
        return Clip(
            plan=self.plans[index],
            digest=digest,
            start=0.0,
            context_stems=(),
            beats=np.array(grid.beats),
            downbeats=np.array(grid.downbeats),
            bpm=bpm,
            key=None,
            description="",
            context=metronome(grid, self._seconds, RATE),
            target=None,
            sample_rate=RATE,
        )
