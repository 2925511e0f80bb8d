"""What a training set is made of: the `[data]` table of a run's TOML file. Imports no torch.

The defaults are those that STAGE was published with (docs/dev/dataset.md).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from stage_cli.core.stems import STEMS, parse_stem
from stage_cli.errors import UsageError

ANY_STEM = "any"
CONTEXTS: tuple[str, ...] = ("mix", "metronome", "both")
SPLITS: tuple[str, ...] = ("last", "fraction", "file", "none")

_SLOWEST, _FASTEST = 0.5, 2.0
_WIDEST_PITCH = 12  # semitones
_LONGEST_CHUNK = 600.0  # seconds


@dataclass(frozen=True)
class DataConfig:
    """Where the songs are and how items are drawn from them.

    Attributes:
        root: folders of prepared songs, or of shards.
        stem: the target, or "any": each stem of a song in turn, named in the description.
        context: "mix" of other stems, "metronome", or "both" (one or the other).
        chunk_seconds: length of the target.
        context_seconds: shortest and longest context that a cut leaves; it starts where the target starts.
        uncut_probability: of a context as long as the target.
        silence_peak: a chunk with a lower peak (full scale 1) counts as silent.
        speed: slowest and fastest speed; 1.2 plays 20 % faster.
        speed_probability: of changing the speed.
        pitch: most semitones up or down; whole numbers are drawn.
        pitch_probability: of changing the pitch.
        metronome_share: of "both".
        effects_probability: of a mix context going through effects of recordings (`data/effects.py`).
        genres: most genres in a description; 0 leaves them out.
        moods: likewise.
        split: how validation songs are chosen: "last" by name, as published; "fraction"; "file"; "none".
        validation_songs: how many, for "last".
        validation_fraction: share of the songs, for "fraction".
        validation_file: text file of song ids, one a line, for "file".
        split_seed: another value draws another "fraction".
        exclude: ids of songs to leave out.

    Raises:
        UsageError: a value is not allowed; the error names its TOML key.
    """

    root: tuple[str, ...]
    stem: str = "drums"
    context: str = "both"
    chunk_seconds: float = 10.0
    context_seconds: tuple[float, float] = (5.0, 10.0)
    uncut_probability: float = 0.05
    silence_peak: float = 0.01
    speed: tuple[float, float] = (0.8, 1.2)
    speed_probability: float = 0.5
    pitch: int = 4
    pitch_probability: float = 0.5
    metronome_share: float = 0.5
    effects_probability: float = 0.0
    genres: int = 3
    moods: int = 3
    split: str = "last"
    validation_songs: int = 24
    validation_fraction: float = 0.1
    validation_file: str = ""
    split_seed: int = 0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = isinstance(self.root, tuple) and all(isinstance(root, str) and root for root in self.root)
        _check("root", self.root, texts and bool(self.root), "a folder, or a list of folders")
        self._check_stem()
        _check_choice("context", self.context, CONTEXTS)
        _check_number("chunk_seconds", self.chunk_seconds, 0, _LONGEST_CHUNK, above=True)
        _check_range("context_seconds", self.context_seconds, 0, self.chunk_seconds, "data.chunk_seconds", above=True)
        _check_number("uncut_probability", self.uncut_probability, 0, 1)
        _check_number("silence_peak", self.silence_peak, 0, 1)
        _check_range("speed", self.speed, _SLOWEST, _FASTEST)
        _check_number("speed_probability", self.speed_probability, 0, 1)
        _check_number("pitch", self.pitch, 0, _WIDEST_PITCH, whole=True)
        _check_number("pitch_probability", self.pitch_probability, 0, 1)
        _check_number("metronome_share", self.metronome_share, 0, 1)
        _check_number("effects_probability", self.effects_probability, 0, 1)
        _check_number("genres", self.genres, 0, 100, whole=True)
        _check_number("moods", self.moods, 0, 100, whole=True)
        _check_choice("split", self.split, SPLITS)
        _check_number("validation_songs", self.validation_songs, 1, 1_000_000, whole=True)
        _check_number("validation_fraction", self.validation_fraction, 0, 0.9, above=True)
        is_named = isinstance(self.validation_file, str) and (self.split != "file" or bool(self.validation_file))
        _check("validation_file", self.validation_file, is_named, 'a text file of song ids, as data.split is "file"')
        _check_number("split_seed", self.split_seed, 0, 2**62, whole=True)
        listed = isinstance(self.exclude, tuple) and all(isinstance(song, str) for song in self.exclude)
        _check("exclude", self.exclude, listed, "a list of song ids")

    @property
    def augments(self) -> bool:
        """Whether speed or pitch may change."""
        return self.speed_probability > 0 or (self.pitch_probability > 0 and self.pitch > 0)

    def without_augmentation(self) -> DataConfig:
        """Return the same with speed, pitch and sound left as they are, for validation."""
        return replace(self, speed_probability=0.0, pitch_probability=0.0, effects_probability=0.0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataConfig:
        """Read the `[data]` table of a TOML file; `root` may be one text.

        Raises:
            UsageError: an unknown key (with the nearest known one), or a value that is not allowed.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise UsageError(
                    f"unknown key data.{key}",
                    why=f"did you mean data.{near[0]}?" if near else "",
                    next_step=f"allowed: {', '.join(known)}",
                )
        content: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if isinstance(content.get("root"), str):
            content["root"] = (content["root"],)
        content.setdefault("root", ())
        if isinstance(stem := content.get("stem"), str) and stem != ANY_STEM:
            try:
                content["stem"] = parse_stem(stem)
            except UsageError as error:
                raise UsageError(
                    f"data.stem cannot be {stem!r}", why=error.why, next_step=f"allowed: {ANY_STEM}, {', '.join(STEMS)}"
                ) from None
        return cls(**content)

    def _check_stem(self) -> None:
        if self.stem == ANY_STEM:
            return
        _check("stem", self.stem, self.stem in STEMS, f"{ANY_STEM}, {', '.join(STEMS)}")


def _check(key: str, value: object, allowed: bool, what: str) -> None:
    if not allowed:
        shown = list(value) if isinstance(value, tuple) else value
        raise UsageError(f"data.{key} cannot be {shown!r}", next_step=f"allowed: {what}")


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    _check(key, value, value in choices, ", ".join(f'"{choice}"' for choice in choices))


def _is_number(value: object, *, whole: bool = False) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(key: str, value: float, low: float, high: float, *, above: bool = False, whole: bool = False) -> None:
    allowed = _is_number(value, whole=whole) and low <= value <= high and not (above and value == low)
    kind = "a whole number" if whole else "a number"
    _check(key, value, allowed, f"{kind} {f'above {low:g}, up to' if above else f'from {low:g} to'} {high:g}")


def _check_range(
    key: str, value: tuple[float, float], low: float, high: float, high_name: str = "", *, above: bool = False
) -> None:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(_is_number(number) for number in value)
    allowed = is_pair and low <= value[0] <= value[1] <= high and not (above and value[0] == low)
    limit = f"{high:g} ({high_name})" if high_name else f"{high:g}"
    lowest = f"above {low:g}, up to" if above else f"from {low:g} to"
    _check(key, value, allowed, f"a list of two numbers, the lower first, {lowest} {limit}")
