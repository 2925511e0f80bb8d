"""What a model is told about a song in words. Imports no torch.

Source of the wording: STAGE's training data, https://arxiv.org/abs/2504.05690, section 4.

One item of the training set: how its chunk, its context and its cut are drawn and made. Imports no torch.

The training set: (context, target, description), each drawn from nothing but (seed, epoch, index).

Batches of items whose contexts have unequal lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stage_cli.core.audio.chunks import EDGE_SECONDS, resample
from stage_cli.core.data.augment import LEAD_SECONDS, Augmentation, pick_augmentation, record, stretch
from stage_cli.core.data.config import ANY_STEM, DataConfig
from stage_cli.core.data.index import IndexedSong, context_kinds, eligible_songs, find_songs, targets
from stage_cli.core.music.beats import BeatGrid, metronome
from stage_cli.errors import StageError, UsageError


def describe(
    genres: Sequence[str], moods: Sequence[str], *, most_genres: int, most_moods: int, stem: str | None = None
) -> str:
    """Return "Genres: Rock, Blues. Moods: happy.": the first genres and moods; "" where nothing is known.

    Args:
        genres: of the song, the surest first.
        moods: likewise.
        most_genres: how many to name at most.
        most_moods: likewise.
        stem: the target, for a model that writes several: "… Instruments: other keys."
    """
    sentences = [_listed("Genre", genres, most_genres), _listed("Mood", moods, most_moods)]
    if stem is not None:
        sentences.append(stem_sentence(stem))
    return " ".join(sentence for sentence in sentences if sentence)


def stem_sentence(stem: str) -> str:
    """Return the sentence that names the target: "Instruments: other keys."."""
    # The underscore is the file system's; the text encoder has seen words.
    return f"Instruments: {stem.replace('_', ' ')}."


def _listed(noun: str, names: Sequence[str], most: int) -> str:
    chosen = list(dict.fromkeys(name.strip() for name in names if name.strip()))[:most]
    return f"{noun}{'s' if len(chosen) > 1 else ''}: {', '.join(chosen)}." if chosen else ""


# Chunks begin at multiples of 40 ms: a whole number of frames at every usual sample rate.
_GRID = 25  # a second
_RANDOM_TRIES = 8
_FEWEST_BEATS = 2


@dataclass(frozen=True, eq=False)
class Item:
    """One thing to learn from.

    Attributes:
        context: `[samples]` float32, mono, not longer than the target; both begin at the same time.
        target: `[samples]` float32, mono.
        description: "" where nothing is known.
        stem: of the target.
        song: id.
        start: seconds of the song at which context and target begin.
        context_kind: "mix" or "metronome".
        context_stems: what the mix is made of; empty for a metronome.
        beats: `[beats]` seconds from the start of the target, as it is played; up to its end.
        downbeats: likewise.
        augmentation: change of speed and pitch.
        index: in the data set.
    """

    context: np.ndarray
    target: np.ndarray
    description: str
    stem: str
    song: str
    start: float
    context_kind: str
    context_stems: tuple[str, ...]
    beats: np.ndarray
    downbeats: np.ndarray
    augmentation: Augmentation
    index: int


class ItemPicker:
    """One item in the making.

    Args:
        config: what to draw.
        sample_rate: Hz of the item.
        song: that it is drawn from.
        stem: the target.
        augmentation: change of speed and pitch.
    """

    def __init__(
        self, config: DataConfig, sample_rate: int, song: IndexedSong, stem: str, augmentation: Augmentation
    ) -> None:
        self.config = config
        self.sample_rate = sample_rate
        self.song = song
        self.stem = stem
        self.augmentation = augmentation
        self.frames = round(config.chunk_seconds * sample_rate)
        self.source_seconds = config.chunk_seconds * augmentation.speed
        self.lead = EDGE_SECONDS if augmentation.is_identity else LEAD_SECONDS
        self.kinds: list[str] = []
        self.context_frames = self.frames
        self.context_stems: tuple[str, ...] = ()

    def item(self, position: np.random.Generator, choice: np.random.Generator, index: int) -> Item:
        """Look for a chunk with target and context, and make the item of it.

        Args:
            position: draws where to look.
            choice: draws the context.
            index: to be noted in the item.

        Raises:
            AudioError: a file cannot be used; the error names the song.
            StageError: no chunk of the song has target and context.
        """
        self._pick_context(choice)
        for kind in self.kinds:
            for start in self._starts(position):
                target = self._read(self.stem, start, self.source_seconds)
                if self._is_silent(target):
                    continue
                beats, downbeats = self._moved(self.song.beats, start), self._moved(self.song.downbeats, start)
                context = self._metronome(beats, downbeats) if kind == "metronome" else self._mix(start, choice)
                if context is None:
                    continue
                context, target = self._finish(context, target, kind)
                return Item(
                    context=context,
                    target=target,
                    description=describe(
                        self.song.genres,
                        self.song.moods,
                        most_genres=self.config.genres,
                        most_moods=self.config.moods,
                        stem=self.stem if self.config.stem == ANY_STEM else None,
                    ),
                    stem=self.stem,
                    song=self.song.id,
                    start=start,
                    context_kind=kind,
                    context_stems=self.context_stems if kind == "mix" else (),
                    beats=beats,
                    downbeats=downbeats,
                    augmentation=self.augmentation,
                    index=index,
                )
        raise StageError(
            f"song {self.song.id}: no {self.source_seconds:.1f} s of {self.stem} can be used",
            why=f"the stem is silent everywhere, or nothing (data.context = {self.config.context!r}) sounds with it",
            next_step="add the song to data.exclude, or run stage prepare-data again",
        )

    def _pick_context(self, rng: np.random.Generator) -> None:
        """Draw the kind and the length of the context."""
        kinds = list(context_kinds(self.song, self.stem, self.config))
        # The other kind comes second, should no chunk of the song suit the first.
        self.kinds = kinds if rng.random() < 1 - self.config.metronome_share else kinds[::-1]
        shortest, longest = (round(seconds * self.sample_rate) for seconds in self.config.context_seconds)
        is_uncut, cut = rng.random() < self.config.uncut_probability, int(rng.integers(shortest, longest + 1))
        self.context_frames = self.frames if is_uncut else max(1, min(cut, self.frames))

    def _starts(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield seconds: some at random, then, for stems that are heard rarely, chunk after chunk of the whole song."""
        last = max(0, int((self.song.duration - self.source_seconds) * _GRID))
        for _ in range(_RANDOM_TRIES if last else 1):
            yield int(rng.integers(last + 1)) / _GRID
        if last:
            step = max(1, int(self.source_seconds * _GRID))
            for start in rng.permutation([*range(0, last, step), last]):
                yield int(start) / _GRID

    def _read(self, stem: str, start: float, seconds: float) -> np.ndarray:
        """Read a stem at the song's rate, with what the filters need on both sides."""
        return self.song.read(stem, start - self.lead, seconds + 2 * self.lead)

    def _is_silent(self, samples: np.ndarray, seconds: float | None = None) -> bool:
        lead = round(self.lead * self.song.sample_rate)
        end = len(samples) - lead if seconds is None else lead + round(seconds * self.song.sample_rate)
        return bool(np.abs(samples[lead:end]).max(initial=0.0) < self.config.silence_peak)

    def _moved(self, times: np.ndarray, start: float) -> np.ndarray:
        moved = self.augmentation.move(times, start)
        return moved[(moved >= 0) & (moved < self.config.chunk_seconds)]

    def _metronome(self, beats: np.ndarray, downbeats: np.ndarray) -> np.ndarray | None:
        """Click on the beats as they are played, or None where too few are left to tell a tempo."""
        seconds = self.context_frames / self.sample_rate
        if np.count_nonzero(beats < seconds) < _FEWEST_BEATS:
            return None
        grid = BeatGrid(tuple(beats.tolist()), tuple(downbeats.tolist()))
        return metronome(grid, seconds, self.sample_rate)

    def _mix(self, start: float, rng: np.random.Generator) -> np.ndarray | None:
        """Sum a random non-empty subset of the stems that can be heard in the context, or None if there is none."""
        heard_seconds = self.context_frames / self.sample_rate * self.augmentation.speed
        # The stretch takes target and context of one length; else what is cut off need not be read.
        read_seconds = heard_seconds if self.augmentation.is_identity else self.source_seconds
        audible: dict[str, np.ndarray] = {}
        for name in sorted(self.song.stems.keys() - {self.stem}):
            samples = self._read(name, start, read_seconds)
            if not self._is_silent(samples, heard_seconds):
                audible[name] = samples
        if not audible:
            return None
        # As published: first how many, then which.
        count = int(rng.integers(1, len(audible) + 1))
        names = sorted(audible)
        self.context_stems = tuple(names[number] for number in sorted(rng.permutation(len(names))[:count]))
        return np.stack([audible[name] for name in self.context_stems]).sum(axis=0)

    def _finish(self, context: np.ndarray, target: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Bring what was read to the items' rate, speed, pitch and length."""
        sources = [target] if kind == "metronome" else [target, context]
        lead = round(self.lead * self.sample_rate)
        parts = [resample(source, self.song.sample_rate, self.sample_rate) for source in sources]
        if self.augmentation.is_identity:
            parts = [
                _exactly(part[lead:], self.frames if n == 0 else self.context_frames) for n, part in enumerate(parts)
            ]
        else:
            length = min(map(len, parts))
            together = np.stack([part[:length] for part in parts])
            stretched = stretch(together, self.augmentation, self.sample_rate, lead_frames=lead, frames=self.frames)
            parts = list(stretched)
        heard = context if kind == "metronome" else parts[1]
        return np.ascontiguousarray(heard[: self.context_frames], dtype=np.float32), parts[0]


def _exactly(samples: np.ndarray, frames: int) -> np.ndarray:
    """Cut to `frames`; rates that are no multiple of each other may leave a sample too few, which becomes silence."""
    cut = np.array(samples[:frames])
    return cut if len(cut) == frames else np.pad(cut, (0, frames - len(cut)))


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
        draw = ItemPicker(
            self.config, self.sample_rate, self.songs[number], stem, pick_augmentation(self.config, change)
        )
        item = draw.item(position, choice, index)
        if not self.config.effects_probability or item.context_kind != "mix":
            return item
        sound = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch, index), spawn_key=_EFFECTS_STREAM))
        if sound.random() >= self.config.effects_probability:
            return item
        return replace(item, context=record(item.context, self.sample_rate, sound))


@dataclass(frozen=True)
class AudioBatch:
    """Items as tensors, for a codec that runs on the device.

    Attributes:
        context: `[B, samples]` float32, contexts followed by silence up to the longest.
        context_samples: `[B]` int64, the length of each; frame by frame, `ceil(context_samples / samples a frame)`
            codes are its own, the rest is silence to be thrown away.
        target: `[B, samples]` float32.
        descriptions: one an item.
        items: without their audio: song, stem, start, beats, …
    """

    context: Tensor
    context_samples: Tensor
    target: Tensor
    descriptions: tuple[str, ...]
    items: tuple[Item, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> AudioBatch:
        """Move context and target; the lengths stay on the CPU, where shapes are made of them."""
        return replace(
            self,
            context=self.context.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> AudioBatch:
        """Pin context and target; `DataLoader(pin_memory=True)` calls it."""
        return replace(self, context=self.context.pin_memory(), target=self.target.pin_memory())


def collate(items: Sequence[Item]) -> AudioBatch:
    """Make a batch; the `collate_fn` of a DataLoader."""
    lengths = [len(item.context) for item in items]
    context = torch.zeros(len(items), max(lengths))
    for row, item in zip(context, items, strict=True):
        row[: len(item.context)] = torch.from_numpy(item.context)
    return AudioBatch(
        context=context,
        context_samples=torch.tensor(lengths),
        target=torch.stack([torch.from_numpy(item.target) for item in items]),
        descriptions=tuple(item.description for item in items),
        items=tuple(replace(item, context=item.context[:0], target=item.target[:0]) for item in items),
    )


def left_pad_codes(codes: Sequence[Tensor], pad: int) -> Tensor:
    """Join contexts of unequal lengths so that all of them end where the separator will be.

    For a codec's `[B, K, T]` of a padded batch: `left_pad_codes([row[:, :n] for row, n in zip(codes, frames)], pad)`.

    Args:
        codes: `[K, Tc]` each, of any Tc, 0 included (a context that is dropped).
        pad: the pad token, `LanguageModelConfig.pad`.

    Returns:
        `[B, K, longest Tc]`; `lm.prefix.attended_steps` masks the pads.
    """
    longest = max(row.shape[-1] for row in codes)
    return torch.stack([torch.nn.functional.pad(row, (longest - row.shape[-1], 0), value=pad) for row in codes])
