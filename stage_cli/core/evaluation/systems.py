"""Anchors that need no model: a plain click drum on the beats, and silence.

What writes stems for clips: anchors, folders of files, codecs. Models are in `models.py`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from stage_cli.core.audio.reading import probe
from stage_cli.core.evaluation.clips import Clip, ClipPlan, content_of, fitted, read_mono
from stage_cli.core.evaluation.metrics import Times, rising_times
from stage_cli.core.files import display_name
from stage_cli.core.music.beats import BeatGrid, metronome
from stage_cli.errors import StageError

_LEVEL = np.float32(0.5)


def click_drum(beats: Times, seconds: float, sample_rate: int) -> np.ndarray:
    """Return a click on every beat, all alike, `[samples]` float32: as much rhythm as a list of beats holds.

    The clicks are those of the metronome track, at half its level; beats at or after the end are left out. Whichever
    stem it stands beside, listen to it as to drums: a tracker of pitched stems finds the clicks' tempo, not always
    their phase.

    Args:
        beats: seconds, rising.
        seconds: length.
        sample_rate: Hz.

    Raises:
        ValueError: beats are negative or not finite, or do not rise.
        UsageError: the length is not above 0 and up to 24 hours.
    """
    times = rising_times(beats, "beats")
    return _LEVEL * metronome(BeatGrid(tuple(times.tolist()), ()), seconds, sample_rate)


def silence(seconds: float, sample_rate: int) -> np.ndarray:
    """Return silence, `[samples]` float32.

    Args:
        seconds: length, not negative.
        sample_rate: Hz.
    """
    return np.zeros(round(seconds * sample_rate), dtype=np.float32)


TRUE, SHUFFLED, SILENCE, CLICK, CONTEXT = "true", "shuffled", "silence", "click", "context"


@dataclass(frozen=True, eq=False)
class Take:
    """What a system made of a clip.

    Attributes:
        audio: `[samples]` float32, as long as the clip.
        sample_rate: Hz.
        compute_seconds: of generating it; None where that was not measured.
        peak_memory: bytes; None likewise.
    """

    audio: np.ndarray
    sample_rate: int
    compute_seconds: float | None = None
    peak_memory: int | None = None


class System(ABC):
    """One system, or one anchor.

    Attributes:
        name: "model:small", "files:mine", "true", …
        title: as tables show it.
        role: "system" or "anchor".
        about: what is known of a model; None for others.
        content: what decides on its outputs, as one text; another content, other outputs.
        contents: likewise, by clip id, where that differs from clip to clip.
        only: ids of the clips that it has outputs for; None: of all.
        hears: as which stem its outputs are heard, by kind of context; nothing there: as the stem that is evaluated.
        embedded: whether FAD and KAD are measured.
        mixed: whether its mixes with the contexts are measured (APA).
        draws: whether a seed decides on what it makes.
        writes: whether its outputs are kept as files, alone and with the context; others are made in no time.
    """

    name: str
    title: str
    role = "anchor"
    about: dict[str, Any] | None = None
    content = ""
    contents: Mapping[str, str] = MappingProxyType({})
    only: frozenset[str] | None = None
    hears: Mapping[str, str] = MappingProxyType({})
    embedded = False
    mixed = False
    draws = False
    writes = False

    @property
    def part(self) -> str:
        """The name as a part of file names."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name).strip("-")

    @contextmanager
    def opened(self) -> Generator[None]:
        """Be ready for `take`; entered before the first output is made, if any is.

        Raises:
            StageError: it cannot be used at all.
        """
        yield

    @abstractmethod
    def take(self, clip: Clip) -> Take:
        """Make the stem of a clip.

        Raises:
            StageError: it cannot be made, and why.
        """


class TrueStem(System):
    """The real stems: as good as it gets."""

    name, title, embedded, mixed = TRUE, "true stems", True, True

    def take(self, clip: Clip) -> Take:
        """Return the true stem."""
        return Take(true_stem(clip), clip.sample_rate)


class OtherStem(System):
    """Real stems of other songs.

    Args:
        partners: by clip id, the clip whose true stem a clip gets.
        read: reads that clip; None where it could not be made.
    """

    name, title, embedded, mixed = SHUFFLED, "other songs' stems", True, True

    def __init__(self, partners: Mapping[str, ClipPlan], read: Callable[[ClipPlan], Clip | None]) -> None:
        self._partners = partners
        self._read = read
        self.only = frozenset(partners)
        self.contents = {clip: f"{other.id} {other.recipe}" for clip, other in partners.items()}

    def take(self, clip: Clip) -> Take:
        """Return the true stem of another song's clip, as long as this one."""
        other = self._read(self._partners[clip.plan.id])
        if other is None:
            raise StageError(f"clip {self._partners[clip.plan.id].id}, whose stem it would be, could not be made")
        samples = round(clip.seconds * other.sample_rate)
        audio = true_stem(other)[:samples]
        return Take(np.pad(audio, (0, samples - len(audio))), other.sample_rate)


class Silence(System):
    """Nothing at all."""

    name, title, embedded, mixed = SILENCE, "silence", True, True

    def take(self, clip: Clip) -> Take:
        """Return silence."""
        return Take(silence(clip.seconds, clip.sample_rate), clip.sample_rate)


class ClickDrum(System):
    """A click on every beat: perfect time, no music."""

    name, title = CLICK, "click on the beats"
    hears = MappingProxyType({"mix": "drums", "metronome": "drums"})

    def take(self, clip: Clip) -> Take:
        """Return clicks."""
        return Take(click_drum(clip.beats, clip.seconds, clip.sample_rate), clip.sample_rate)


class ContextItself(System):
    """What can be heard in the context, without any stem: in a mix something with pitch, else clicks."""

    name, title, embedded = CONTEXT, "context alone", True
    hears = MappingProxyType({"mix": "other", "metronome": "drums"})

    def take(self, clip: Clip) -> Take:
        """Return the context."""
        return Take(clip.context, clip.sample_rate)


class Files(System):
    """Finished stems in a folder.

    Args:
        folder: of the stems.
        title: of the system.
        stems: by the titles of the clips.
        plans: of all clips.
    """

    role, embedded, mixed, writes = "system", True, True, True

    def __init__(self, folder: Path, title: str, stems: Mapping[str, Path], plans: Sequence[ClipPlan]) -> None:
        self.name, self.title = f"files:{title}", title
        self.folder = folder
        self.contents = {plan.id: content_of(stems.get(plan.title)) for plan in plans}
        self._stems = stems

    def take(self, clip: Clip) -> Take:
        """Read the file."""
        path = self._stems.get(clip.plan.title)
        if path is None:
            raise StageError(f"no file in {display_name(self.folder)} belongs to {clip.plan.title}")
        rate = probe(path).sample_rate
        return Take(fitted(read_mono(path, rate), round(clip.seconds * rate), rate, display_name(path)), rate)


def true_stem(clip: Clip) -> np.ndarray:
    """Return a clip's true stem.

    Raises:
        StageError: it has none, and why.
    """
    if clip.target is None:
        raise StageError(clip.target_error or "there is no true stem")
    return clip.target


def distinct_titles(titles: list[str], others: list[str]) -> list[str]:
    """Return titles that no two systems share: where they would, with what `others` says in front, or a number."""
    given: list[str] = []
    for place, title in enumerate(titles):
        wanted = f"{others[place]}/{title}" if titles.count(title) > 1 and others[place] else title
        name, number = wanted, 2
        while name in given:
            name, number = f"{wanted}-{number}", number + 1
        given.append(name)
    return given
