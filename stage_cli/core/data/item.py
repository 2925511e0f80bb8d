"""One item of the training set: how its chunk, its context and its cut are drawn and made. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.audio_chunks import EDGE_SECONDS, resample
from stage_cli.core.data.augment import LEAD_SECONDS, Augmentation, stretch
from stage_cli.core.data.config import ANY_STEM, DataConfig
from stage_cli.core.data.descriptions import describe
from stage_cli.core.data.index import context_kinds
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.rhythm import BeatGrid, metronome
from stage_cli.errors import StageError

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


class ItemDraw:
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
        self._choose_context(choice)
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

    def _choose_context(self, rng: np.random.Generator) -> None:
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
