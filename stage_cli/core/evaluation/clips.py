"""The clips that systems write for: what is true of them, and where they come from.

Clips of a folder of contexts: each file is one; true stems are in another folder, beats beside it or in the ear.

What is known of `mix.wav` may lie beside it:

- `mix.beats`: a line for each beat, seconds, and after a space its number in the bar if that is known (Beat This and
  the beat trackers' data sets write it so);
- `mix.json`: {"beats": […], "downbeats": […], "bpm": 120, "key": {"tonic": "A", "scale": "minor"}, "song": "…"}; all
  but the beats may be missing. Clips of one "song" are not counted as independent. A `features.json` of `stage
  prepare-data` is read too, as `mix.json`, or under its own name beside the only context of a folder.

Without them beats and key are those that are heard in the context, which is less sure.
"""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.audio.naming import AUDIO_SUFFIXES, find_audio
from stage_cli.core.audio.reading import MonoReader, probe
from stage_cli.core.data.song import FEATURES_FILE, file_fingerprint
from stage_cli.core.evaluation.metrics import key_agreement, rising_times
from stage_cli.core.evaluation.music import analyse_truth
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.files import display_name
from stage_cli.core.music import key_finder
from stage_cli.core.music.rhythm import Key
from stage_cli.errors import AudioError, StageError, UsageError


@dataclass(frozen=True)
class ClipPlan:
    """A clip before anything of it is read.

    Attributes:
        id: "0001", …; unique in the report.
        song: that it comes from; clips of one song are not independent.
        title: of the song.
        context_kind: "mix" or "metronome".
        recipe: what it is made from, as one text; another recipe, another clip.
        seed: of what is drawn for it, the same for all systems.
    """

    id: str
    song: str
    title: str
    context_kind: str
    recipe: str
    seed: int = 0


def numbered(plans: Sequence[ClipPlan], seed: int) -> list[ClipPlan]:
    """Return plans with ids from "0001" on, and with seeds, which depend on `seed` and the number alone."""
    return [
        dataclasses.replace(
            plan, id=f"{number:04d}", seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        )
        for number, plan in enumerate(plans, 1)
    ]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip to write a stem for.

    Attributes:
        plan: of the clip.
        digest: of all that decides on it.
        start: seconds in the song.
        context_stems: that are heard in the context.
        beats: `[beats]` seconds from the start, rising, before its end.
        downbeats: likewise; a subset of the beats.
        bpm: beats a minute; None takes it from the beats.
        key: of the song, or None.
        description: genres and moods, or "".
        context: `[samples]` float32, within ±1.
        target: the true stem, `[samples]`, as long as the context; None where there is none.
        sample_rate: Hz of both.
        target_error: why there is no true stem, where there should be one.
    """

    plan: ClipPlan
    digest: str
    start: float
    context_stems: tuple[str, ...]
    beats: np.ndarray
    downbeats: np.ndarray
    bpm: float | None
    key: Key | None
    description: str
    context: np.ndarray
    target: np.ndarray | None
    sample_rate: int
    target_error: str = ""

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.context) / self.sample_rate

    def without_audio(self) -> Clip:
        """Return the same clip with nothing but zeros in it, which take no memory: all else is small."""
        zeros = np.broadcast_to(np.zeros(1, dtype=np.float32), self.context.shape)
        return dataclasses.replace(self, context=zeros, target=None if self.target is None else zeros)


class ClipSource(ABC):
    """Where clips come from.

    Attributes:
        plans: of all clips, in order.
        has_targets: whether there are true stems.
        notes: what the user should know.
    """

    plans: Sequence[ClipPlan]
    has_targets: bool
    notes: tuple[str, ...] = ()

    @abstractmethod
    def clip(self, index: int, digest: str) -> Clip:
        """Make a clip.

        Args:
            index: in `plans`.
            digest: to be noted in the clip.

        Raises:
            StageError: it cannot be made, and why.
        """


SHORTEST_SHARE = 0.9
"""A stem that is shorter than this share of its context is not measured; one a little shorter ends in silence."""


@dataclass(frozen=True)
class AnnotatedTruth:
    """What a file beside a context tells."""

    beats: np.ndarray
    downbeats: np.ndarray
    bpm: float | None = None
    key: Key | None = None
    song: str = ""


class FileClips(ClipSource):
    """The files of a folder of contexts.

    Args:
        config: of the evaluation.

    Attributes:
        contexts: by name.

    Raises:
        UsageError: the folder holds no audio, or two files of one name.
        StageError: what is beside a context cannot be read.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        assert config.context_folder is not None
        self._config = config
        self._folder = config.context_folder
        self.contexts = _by_name(find_audio([self._folder]))
        self._truths = {name: _truth_file(path, alone=len(self.contexts) == 1) for name, path in self.contexts.items()}
        references = None if config.reference is None else matching(config.reference, self.contexts, config.stem)
        self.has_targets = references is not None
        self._references = references or {}
        songs = {name: _song_of(path) for name, path in self._truths.items()}
        plans = [ClipPlan("", songs[name] or name, name, "mix", self._recipe(name)) for name in self.contexts]
        self.plans = numbered(plans, config.generation.seed)

    def clip(self, index: int, digest: str) -> Clip:
        """Read a context, its true stem and what is known of it.

        Raises:
            StageError: the context or what lies beside it cannot be read.
        """
        plan = self.plans[index]
        path, stored = self.contexts[plan.title], self._truths[plan.title]
        rate = probe(path).sample_rate
        context = read_mono(path, rate, seconds=self._config.seconds)
        known = None if stored is None else read_truth(stored)
        if known is None:
            analysis = analyse_truth(context, rate, tracker=self._config.tracker)
            known = AnnotatedTruth(analysis.beats, np.zeros(0), analysis.bpm, analysis.key)
        target, target_error = None, ""
        if self.has_targets:
            try:
                target = read_stem(self._references.get(plan.title), rate, len(context), plan.title)
            except StageError as error:
                target_error = str(error)
        seconds = len(context) / rate
        return Clip(
            plan=plan,
            digest=digest,
            start=0.0,
            context_stems=(),
            beats=known.beats[known.beats < seconds],
            downbeats=known.downbeats[known.downbeats < seconds],
            bpm=known.bpm,
            key=known.key,
            description="",
            context=context,
            target=target,
            sample_rate=rate,
            target_error=target_error,
        )

    def _recipe(self, name: str) -> str:
        """Return what a clip is made from: the contents of its files."""
        paths = (self.contexts[name], self._truths[name], self._references.get(name))
        stored = [content_of(path) for path in paths]
        # Only what is heard depends on who hears it.
        keys = "" if key_finder() == "essentia" else f"+{key_finder()}"
        return " ".join([*stored, self._config.tracker + keys if self._truths[name] is None else ""])


def matching(folder: Path, contexts: Mapping[str, Path], stem: str) -> dict[str, Path]:
    """Find the stems of contexts in a folder, by the names of their files.

    `mix.wav` belongs to `mix.flac` and, as `stage generate` names stems, to `mix.drums.wav`, which goes first: both may
    lie in the folder of the contexts.

    Args:
        folder: of stems.
        contexts: by name.
        stem: which stem it is.

    Raises:
        AudioError: the folder cannot be listed.
        UsageError: nothing in it belongs to any context.
    """
    try:
        audio = [
            path for path in sorted(folder.iterdir()) if path.suffix.lower() in AUDIO_SUFFIXES and path.name[0] != "."
        ]
    except OSError as error:
        raise AudioError(f"cannot list the folder {display_name(folder)}", why=error.strerror or str(error)) from error
    named = {path.stem: path for path in audio}
    used = {path.resolve() for path in contexts.values()}
    found: dict[str, Path] = {}
    for name in contexts:
        for candidate in (f"{name}.{stem}", name):
            path = named.get(candidate)
            if path is not None and path.resolve() not in used:
                found[name] = path
                break
    if not found:
        example = next(iter(contexts))
        raise UsageError(
            f"no stem in {display_name(folder)} belongs to a context",
            why=f"they are matched by name: for {display_name(contexts[example])} there should be "
            f"{example}.wav or {example}.{stem}.wav",
        )
    return found


def read_mono(path: Path, sample_rate: int, *, seconds: float | None = None) -> np.ndarray:
    """Read a file, `[samples]` float32 at a rate in Hz; `seconds` of it at most.

    Raises:
        AudioError: it cannot be read.
    """
    return np.concatenate(list(MonoReader(path, sample_rate, duration=seconds)))


def read_stem(path: Path | None, sample_rate: int, samples: int, name: str) -> np.ndarray:
    """Read a stem as long as its context.

    Args:
        path: of the stem; None: there is none.
        sample_rate: Hz.
        samples: of the context at that rate.
        name: of the context, for the error.

    Raises:
        AudioError: it is missing, cannot be read, or is too short.
    """
    if path is None:
        raise AudioError(f"there is no stem for {display_name(Path(name))}", next_step="check the names of the files")
    audio = read_mono(path, sample_rate)
    return fitted(audio, samples, sample_rate, display_name(path))


def fitted(audio: np.ndarray, samples: int, sample_rate: int, name: str) -> np.ndarray:
    """Cut a stem to the length of its context, or let it end in silence.

    Raises:
        AudioError: it is shorter than `SHORTEST_SHARE` of it.
    """
    if len(audio) < SHORTEST_SHARE * samples:
        raise AudioError(
            f"{name} is too short",
            why=f"it has {len(audio) / sample_rate:.2f} s, its context {samples / sample_rate:.2f} s",
        )
    return np.pad(audio[:samples], (0, max(0, samples - len(audio))))


def content_of(path: Path | None) -> str:
    """Return a hash of a file's content; another text where it cannot be read."""
    if path is None:
        return "none"
    try:
        return file_fingerprint(path).rpartition(" ")[2]
    except AudioError as error:
        return error.why or "unreadable"


def read_truth(path: Path) -> AnnotatedTruth:
    """Read what a file beside a context tells.

    Raises:
        StageError: it cannot be read, or its beats are no rising seconds.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return _from_lines(text) if path.suffix == ".beats" else _from_json(json.loads(text))
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"{display_name(path)} is not as it should be",
            why=f"{error}",
            next_step='give seconds, rising: a beat a line, or {"beats": [0.5, 1.0]}',
        ) from None


def _from_lines(text: str) -> AnnotatedTruth:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    beats = rising_times([float(row[0]) for row in rows], "beats")
    first = [len(row) > 1 and float(row[1]) == 1 for row in rows]
    return AnnotatedTruth(beats, beats[np.array(first, dtype=bool)])


def _from_json(values: Mapping[str, Any]) -> AnnotatedTruth:
    rhythm, key = values.get("rhythm", values), values.get("key")
    beats = rising_times(rhythm["beats"], "beats")
    downbeats = rising_times(rhythm.get("downbeats", []), "downbeats")
    if key is not None:
        key = Key(str(key["tonic"]), str(key["scale"]), 1.0, "annotations")
        key_agreement(None, f"{key.tonic} {key.scale}")  # refuses what is no key
    bpm = rhythm.get("bpm")
    if bpm is not None and not (math.isfinite(bpm) and bpm > 0):
        raise ValueError(f"bpm cannot be {bpm}")
    return AnnotatedTruth(beats, downbeats, None if bpm is None else float(bpm), key, str(values.get("song") or ""))


def _song_of(path: Path | None) -> str:
    """Return the song that a truth file names; "" for none, or where it cannot be read, which is told later."""
    if path is None:
        return ""
    try:
        return read_truth(path).song
    except StageError:
        return ""


def _truth_file(context: Path, *, alone: bool) -> Path | None:
    names = [f"{context.stem}.beats", f"{context.stem}.json", *([FEATURES_FILE] if alone else [])]
    return next((path for name in names if (path := context.with_name(name)).is_file()), None)


def _by_name(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise UsageError(
                f"{display_name(path)} and {display_name(found[path.stem])} have one name",
                why="stems are matched by the names of their contexts",
                next_step="rename one of them",
            )
        found[path.stem] = path
    return found
