"""Writing: from what the ears hear, step by step, to notes; numpy only.

    player = Player.from_pretrained(folder)
    performance = player.write(audio, 44_100, seed=3)
    performance.notes, performance.grid.beats

A song is heard twice: once to find its beats, where none are given, and once with them. What is written depends on the
audio, the grid, the settings and the seed alone; notes come as they are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of
from stage_cli.core.players.config import LOUDNESSES, PLACES, STEP_RATE, TAGS, PlayerConfig
from stage_cli.core.players.features import LogMel
from stage_cli.core.players.grid import FoundGrid, find_grid
from stage_cli.core.players.grid_channels import grid_channels
from stage_cli.core.players.levels import mean_power, normalized
from stage_cli.core.players.numpy_model import NumpyEars, NumpyPen

Array = np.ndarray
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SCALE_SUFFIX = ".scale"
"""Of the tensor by which a matrix of int8 is multiplied."""
_STROKE_SECONDS = 0.1
_MARGIN = 32  # steps at each end of a window that are taken from its neighbours
_VELOCITIES = 128 // LOUDNESSES
_DRAWS = 3  # random numbers for each voice of a step: whether, how, how loud exactly
_PITCHES = tuple(pitch_of(voice) for voice in DRUM_VOICES)


@dataclass(frozen=True)
class WritingSettings:
    """How a player chooses.

    Attributes:
        temperature: of loudness and place; 0 always takes the most probable.
        certainty: 1 strikes as often as the player would; larger values follow the more probable choice more often.
        bias: added to the logit of every voice being struck: more notes above 0, fewer below.
        tags: what the pen is told, by name (`TAGS`), 1 … ; what is not there is not told.
        sections: (second, tags) from which on other tags hold; by time.

    Raises:
        ValueError: a value is out of range, or there is no such tag.
    """

    temperature: float = 0.7
    certainty: float = 1.0
    bias: float = 0.0
    tags: Mapping[str, int] = field(default_factory=dict)
    sections: Sequence[tuple[float, Mapping[str, int]]] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.temperature <= 10 and 0 < self.certainty <= 10 and -10 <= self.bias <= 10):
            raise ValueError(f"out of range: {self}")
        for tags in (self.tags, *(tags for _, tags in self.sections)):
            for name, value in tags.items():
                if name not in TAGS or not 0 <= value <= TAGS[name]:
                    raise ValueError(f"no tag {name} = {value}; there are {TAGS}")


@dataclass(frozen=True)
class Hearing:
    """What a song sounds like to the ears.

    Attributes:
        levels: `[frames, bands]` float16, dB.
        seconds: length of the song.
        reference: dB, the song's mean power.
    """

    levels: Array
    seconds: float
    reference: float

    @property
    def steps(self) -> int:
        """Steps of the pen."""
        return math.ceil(self.seconds * STEP_RATE - 1e-9)


@dataclass(frozen=True)
class Known:
    """Notes that are there already, around the stretches that are to be written.

    Attributes:
        notes: of the stem.
        stretches: (from, to) in seconds, that are to be written; all other steps keep their notes.
    """

    notes: Sequence[Note]
    stretches: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Performance:
    """What was written.

    Attributes:
        notes: by onset.
        grid: that was found or given; not played to where its confidence is below `UNSURE`.
        bpm: of it; 0 without one.
        beats_per_bar: of most bars; 0 where unknown.
        confidence: 0 to 1, how clearly the beats were heard; 1 where they were given.
    """

    notes: tuple[Note, ...]
    grid: BeatGrid
    bpm: float
    beats_per_bar: int
    confidence: float


class Player:
    """Writes the notes of one stem for a mix.

    Args:
        config: its sizes.
        weights: float32, by the names of the torch model's `state_dict()`.
        settings: how it chooses if nothing else is said.
    """

    def __init__(
        self, config: PlayerConfig, weights: Mapping[str, Array], settings: WritingSettings | None = None
    ) -> None:
        self.config = config
        self.settings = settings or WritingSettings()
        self._weights = weights
        self._ears = NumpyEars(config, weights)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Player:
        """Load a player: `config.json` and `model.safetensors`.

        Raises:
            OSError, ValueError, KeyError, TypeError: a file cannot be read, or is none of a player's.
        """
        from safetensors.numpy import load_file

        folder = Path(folder)
        about = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        stored = load_file(folder / WEIGHTS_FILE)
        weights = {name: value.astype(np.float32) for name, value in stored.items() if not name.endswith(SCALE_SUFFIX)}
        for name, value in weights.items():
            if name + SCALE_SUFFIX in stored:
                value *= stored[name + SCALE_SUFFIX]
        config = PlayerConfig.from_dict(about["player"])
        return cls(config, weights, WritingSettings(**about.get("writing", {})))

    def write(
        self,
        audio: Array,
        sample_rate: int,
        *,
        grid: BeatGrid | None = None,
        bpm: float | None = None,
        seed: int = 0,
        settings: WritingSettings | None = None,
        known: Known | None = None,
    ) -> Performance:
        """Write the notes for a mix.

        Args:
            audio: `[frames]` or `[frames, channels]`.
            sample_rate: Hz.
            grid: its beats; found if left out.
            bpm: its tempo, for finding the beats.
            seed: another one, another take.
            settings: how to choose; the player's own if left out.
            known: notes that are there already; all is written if left out.
        """
        hearing = self.listen([audio], sample_rate)
        found = self.grid_of(hearing, bpm=bpm) if grid is None else given_grid(grid)
        notes = tuple(self.notes(hearing, found.trusted, seed=seed, settings=settings, known=known))
        return Performance(notes, found.grid, found.bpm, found.beats_per_bar, found.confidence)

    def listen(self, blocks: Iterable[Array], sample_rate: int) -> Hearing:
        """Turn a song, in blocks `[frames]` or `[frames, channels]`, into what the ears hear."""
        stream, samples, parts = LogMel(sample_rate, self.config.features), 0, []
        for block in blocks:
            samples += len(block)
            mono = block if block.ndim == 1 else block.mean(axis=1)
            for first in range(0, len(mono), 10 * sample_rate):
                parts.append(stream.push(mono[first : first + 10 * sample_rate]).astype(np.float16))
        parts.append(stream.finish().astype(np.float16))
        levels = np.concatenate(parts)
        reference = mean_power(levels.astype(np.float32)) if len(levels) else 0.0
        return Hearing(levels, samples / sample_rate, reference)

    def grid_of(self, hearing: Hearing, *, bpm: float | None = None) -> FoundGrid:
        """Find the song's beats and downbeats.

        Args:
            hearing: of the song.
            bpm: its tempo, if known.
        """
        nothing = BeatGrid((), ())
        parts = [self._ears.beats(ears) for _, ears in self.heard_in_windows(hearing, nothing)]
        activations = np.concatenate(parts) if parts else np.zeros((0, 2))
        return find_grid(activations, self.config.features.frame_rate, hearing.seconds, bpm=bpm)

    def notes(
        self,
        hearing: Hearing,
        grid: BeatGrid,
        *,
        seed: int,
        settings: WritingSettings | None = None,
        known: Known | None = None,
    ) -> Iterator[Note]:
        """Yield notes as they are written, by onset.

        Args:
            hearing: of the song.
            grid: its beats; one without beats leaves all to the ears.
            seed: another one, another take.
            settings: how to choose; the player's own if left out.
            known: notes that are there already; they are yielded, too.
        """
        settings = settings or self.settings
        pen = NumpyPen(self.config, self._weights)
        rng = np.random.default_rng(seed)
        tags = _tags_of(settings, hearing.steps)
        given = None if known is None else _given_tokens(known, hearing.steps, self.config.voices)
        past = np.zeros(self.config.voices, dtype=np.int64)
        step = 0
        for first, ears in self.heard_in_windows(hearing, grid, given):
            told = pen.inputs(ears, tags[first : first + len(ears)])
            random = rng.random((len(ears), self.config.voices, _DRAWS))
            for row in range(len(ears)):
                state = pen.state(told[row], past)
                if given is not None and given[1][step]:
                    past = given[0][step]
                else:
                    past = draw(pen, state, random[row], settings)
                yield from _notes_of(past, step, random[row, :, 2], hearing.seconds)
                step += 1

    def heard_in_windows(
        self, hearing: Hearing, grid: BeatGrid, given: tuple[Array, Array] | None = None
    ) -> Iterator[tuple[int, Array]]:
        """Yield (first step, what is heard in some steps `[steps, ears]`), one after the other to the song's end.

        Args:
            hearing: of the song.
            grid: its beats.
            given: tokens `[T, V]`, and which steps' tokens are known, `[T]`.
        """
        window, rate = self.config.window, self.config.features.frame_rate
        steps, hop = hearing.steps, max(1, window - 2 * _MARGIN)
        beats, downbeats = np.array(grid.beats), np.array(grid.downbeats)
        start = 0
        while True:
            last = start + window >= steps
            levels = hearing.levels[2 * start : 2 * (start + window)].astype(np.float32)
            heard = np.full((2 * window, levels.shape[1]), -7, np.float32)
            heard[: len(levels)] = normalized(levels, hearing.reference)
            channels = grid_channels(beats, downbeats, 2 * window, rate, start=start / STEP_RATE)
            extra = []
            if given is not None:
                tokens, is_known = np.zeros((window, self.config.voices), np.int64), np.zeros(window, bool)
                part = slice(start, min(steps, start + window))
                tokens[: part.stop - start], is_known[: part.stop - start] = given[0][part], given[1][part]
                extra = [tokens * is_known[:, None], is_known]
            ears = self._ears.hear(heard, channels, *extra)
            low = 0 if start == 0 else _MARGIN
            high = steps - start if last else window - _MARGIN
            if high > low:
                yield start + low, ears[low:high]
            if last:
                return
            start += hop


def draw(pen: NumpyPen, state: Array, random: Array, settings: WritingSettings) -> Array:
    """Draw the tokens of a step, `[V]`: voice by voice first whether, then how.

    Args:
        pen: whose step it is.
        state: of the step.
        random: `[V, 2 or more]`, 0 to 1.
        settings: how to choose.
    """
    voices = len(random)
    tokens = np.zeros(voices, dtype=np.int64)
    # The logit below which a voice is not struck: its random number's.
    threshold = np.log(random[:, 0]) - np.log1p(-random[:, 0])
    first = 0
    while first < voices:
        logits = (pen.whether(state) + settings.bias) * settings.certainty
        struck = np.flatnonzero(logits[first:] > threshold[first:])
        if not len(struck):
            break
        voice = first + int(struck[0])
        choice = _choose(pen.how(state, voice), random[voice, 1], settings.temperature)
        tokens[voice] = 1 + choice
        state = pen.strike(state, voice, 1 + choice)
        first = voice + 1
    return tokens


def given_grid(grid: BeatGrid) -> FoundGrid:
    """Return a grid that somebody gave, as if it had been found."""
    beats, downbeats = np.array(grid.beats), np.array(grid.downbeats)
    if len(beats) < 2:
        return FoundGrid(grid, 0.0, 0, 1.0)
    bar = 0 if len(downbeats) < 2 else int(np.median(np.diff(np.searchsorted(beats, downbeats - 1e-6))))
    return FoundGrid(grid, 60 / float(np.median(np.diff(beats))), bar, 1.0)


def _choose(logits: Array, random: float, temperature: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    shares = np.exp((logits - logits.max()) / temperature).cumsum()
    return min(int(np.searchsorted(shares, random * shares[-1], side="right")), len(logits) - 1)


def _notes_of(tokens: Array, step: int, random: Array, seconds: float) -> list[Note]:
    notes = []
    for voice in tokens.nonzero()[0]:
        loudness, place = divmod(int(tokens[voice]) - 1, PLACES)
        onset = (step + place / PLACES) / STEP_RATE
        velocity = int(loudness * _VELOCITIES + random[voice] * _VELOCITIES)
        if onset < seconds:
            notes.append(Note(onset, _STROKE_SECONDS, _PITCHES[voice], min(max(velocity, 1), 127)))
    return sorted(notes)


def _tags_of(settings: WritingSettings, steps: int) -> Array:
    """Return what is told in each step, `[steps, tags]`."""
    rows = np.zeros((steps, len(TAGS)), dtype=np.int64)
    for second, tags in ((0.0, settings.tags), *settings.sections):
        rows[max(0, round(second * STEP_RATE)) :] = [tags.get(name, 0) for name in TAGS]
    return rows


def _given_tokens(known: Known, steps: int, voices: int) -> tuple[Array, Array]:
    """Return known tokens `[steps, V]` and which steps are known, `[steps]`."""
    from stage_cli.core.players.tokens import DrumTokens

    tokens = DrumTokens().encode(known.notes, frames=steps).astype(np.int64)
    is_known = np.ones(steps, dtype=bool)
    for start, end in known.stretches:
        is_known[max(0, round(start * STEP_RATE)) : max(0, round(end * STEP_RATE))] = False
    if tokens.shape[1] != voices:
        raise ValueError(f"{voices} voices, not {tokens.shape[1]}")
    return tokens * is_known[:, None], is_known


def with_tags(settings: WritingSettings, **tags: int) -> WritingSettings:
    """Return settings that also tell some tags."""
    return replace(settings, tags={**settings.tags, **tags})
