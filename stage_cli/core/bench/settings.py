"""The published sizes of MusicGen, which random weights are made in. Imports no torch.

What `stage bench` measures: its options, checked. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.errors import UsageError


def _musicgen(dimension: int, layers: int, heads: int) -> LanguageModelConfig:
    return LanguageModelConfig(dimension=dimension, layers=layers, heads=heads, feed_forward=4 * dimension)


SIZES: dict[str, LanguageModelConfig] = {
    "musicgen-small": _musicgen(1024, 24, 16),
    "musicgen-medium": _musicgen(1536, 48, 24),
    "musicgen-large": _musicgen(2048, 48, 32),
}
"""By the name of the published model (arXiv 2306.05284, section 4.1), in STAGE's layout."""


SHORTEST, LONGEST = 0.1, 86_400.0  # seconds of audio
MOST_REPEATS = 100


@dataclass(frozen=True)
class BenchConfig:
    """One run of `stage bench`.

    Attributes:
        model: name, as `model` of `stage generate` takes it; None is a bundled one.
        random: a name of `SIZES` instead: random weights of that size.
        device: as `device` of `stage generate`.
        precisions: as `precision` of `stage generate`, each of them measured.
        duration: seconds of audio that are written.
        variations: also measured beside one, if there are more.
        lengths: seconds of audio whose cost is measured one by one, rising; none if empty.
        repeats: rounds; each measures everything once.
        plot: a PNG file of the cost of `lengths`, or None.
        overwrite: replace that file.
        offline: use only files that are on this machine.
        command: as it was typed.

    Raises:
        UsageError: a value or a combination is not allowed; the error names the field.
    """

    model: str | None = None
    random: str | None = None
    device: str = "auto"
    precisions: tuple[str, ...] = ("auto",)
    duration: float = 10.0
    variations: int = GenerationConfig.variations
    lengths: tuple[float, ...] = ()
    repeats: int = 3
    plot: Path | None = None
    overwrite: bool = False
    offline: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.model is not None and self.random is not None:
            raise UsageError("`model` and `random` name two models", next_step="leave one of them out")
        if self.random is not None and self.random not in SIZES:
            raise UsageError(f"`random` {self.random} is unknown", why=f"allowed: {', '.join(SIZES)}")
        if not self.precisions:
            raise UsageError("`precision` is empty", next_step="leave it out, or give for example: float32,int8")
        _check_seconds("duration", self.duration)
        GenerationConfig(variations=self.variations)
        for length in self.lengths:
            _check_seconds("lengths", length)
        if list(self.lengths) != sorted(set(self.lengths)):
            raise UsageError("`lengths` do not rise", why=f"given: {list(self.lengths)}")
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise UsageError(f"`repeats` {self.repeats} is not possible", why=f"allowed: 1 to {MOST_REPEATS}")
        if self.plot is not None:
            self._check_plot(self.plot)

    @property
    def longest(self) -> float:
        """Seconds of the longest context that is needed."""
        return max(self.duration, *self.lengths, 0.0)

    def _check_plot(self, path: Path) -> None:
        if not self.lengths:
            raise UsageError("`plot` draws the cost of `lengths`", next_step="add for example: `lengths` 30,60,120")
        if path.suffix.lower() != ".png":
            raise UsageError(f"`plot` {path} is no PNG file", next_step="give a name that ends in .png")
        if not path.parent.is_dir():
            raise UsageError(f"`plot` {path}: there is no folder {path.parent}")
        if path.exists() and not self.overwrite:
            raise UsageError(f"{path} already exists", next_step="use `overwrite` to replace it, or another `plot`")


def split_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Split what was given as `a,b`, or as several options, or both; each name counts once."""
    names = (part.strip() for text in texts for part in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def parse_lengths(text: str) -> tuple[float, ...]:
    """Read `30,60,120`; each length once, rising.

    Raises:
        UsageError: a part of it is no number.
    """
    lengths = []
    for part in text.split(","):
        try:
            lengths.append(float(part))
        except ValueError:
            raise UsageError(
                f"`lengths` {text}: '{part.strip()}' is no number",
                next_step="give seconds with commas between them: `lengths` 30,60,120",
            ) from None
    return tuple(sorted(set(lengths)))


def _check_seconds(field: str, value: float) -> None:
    if not math.isfinite(value) or not SHORTEST <= value <= LONGEST:
        raise UsageError(f"`{field}` {value:g} is not possible", why=f"allowed: {SHORTEST:g} to {LONGEST:g} seconds")
