"""The sizes of a player and what it can be told. Imports neither torch nor the models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

STEP_RATE = 25
"""Steps of the pen a second; a step is 40 ms."""
PLACES = 8
"""Places in a step, 5 ms apart."""
LOUDNESSES = 8
"""Levels of velocity."""
STROKES = LOUDNESSES * PLACES
"""Ways to strike: loudness × place. A token is 0 (nothing) or 1 + loudness · PLACES + place."""

GRID_CHANNELS = 14
"""Of a beat grid: see `grid_channels`."""

DENSITY_EDGES = (0.25, 1.0, 1.75, 2.5, 3.25, 4.0, 5.5)
"""Strokes a beat between the levels 1 … 8 of the tag density."""
LOUDNESS_EDGES = (45.0, 60.0, 72.0, 84.0, 98.0)
"""Mean velocities between the levels 1 … 6 of the tag loudness."""
SWING_EDGES = (0.53, 0.6)
"""Places of the second of two between the levels 1 (straight), 2 (light) and 3 (hard) of the tag swing."""
STYLE_FAMILIES = (
    "rock",
    "pop",
    "funk",
    "soul",
    "reggae",
    "disco",
    "electronic",
    "hip-hop",
    "ballad",
    "country",
    "jazz",
    "latin",
    "metal",
    "punk",
    "breakbeat",
    "blues",
)
"""Values 1 … of the tag style."""

TAGS: dict[str, int] = {
    "density": len(DENSITY_EDGES) + 1,
    "loudness": len(LOUDNESS_EDGES) + 1,
    "swing": len(SWING_EDGES) + 1,
    "fill": 2,
    "style": len(STYLE_FAMILIES),
}
"""What the pen can be told for each step, and the number of values; 0 is "not told". Fill: 1 is no fill, 2 is one."""


@dataclass(frozen=True)
class FeatureSettings:
    """How audio becomes frames.

    Attributes:
        frame_rate: frames a second; frame t is centred at t / frame_rate seconds.
        bands: triangles, equally wide in HTK's mels.
        lowest: Hz, where the first triangle begins.
        highest: Hz, where the last one ends.
        window: seconds of the Hann window.

    Raises:
        ValueError: a value is out of range.
    """

    frame_rate: int = 50
    bands: int = 72
    lowest: float = 25.0
    highest: float = 11_000.0
    window: float = 0.0464

    def __post_init__(self) -> None:
        if not (self.frame_rate >= 1 and self.bands >= 1 and 0 <= self.lowest < self.highest and self.window > 0):
            raise ValueError(f"no features: {self}")

    def frames(self, samples: int, sample_rate: int) -> int:
        """Return the number of frames of a signal: those centred before its end."""
        return -(-samples * self.frame_rate // sample_rate)


@dataclass(frozen=True)
class PlayerConfig:
    """The sizes of a player.

    Attributes:
        stem: what it plays.
        voices: that a step may strike, one after the other.
        window: steps that the ears see at once.
        history: steps that the pen sees, its own included.
        ears: width of the ears.
        ear_layers: of attention, after the convolutions.
        ear_heads: of attention.
        convolutions: over steps, the n-th with dilation 2ⁿ.
        pen: width of the pen.
        pen_layers: of it.
        pen_heads: of attention.
        stroke: width of what a step's voices are drawn from.
        features: what the ears listen with.

    Raises:
        ValueError: sizes do not fit together.
    """

    stem: str = "drums"
    voices: int = 12
    window: int = 256
    history: int = 160
    ears: int = 256
    ear_layers: int = 3
    ear_heads: int = 4
    convolutions: int = 7
    pen: int = 192
    pen_layers: int = 3
    pen_heads: int = 4
    stroke: int = 192
    features: FeatureSettings = field(default_factory=FeatureSettings)

    def __post_init__(self) -> None:
        for name in ("voices", "window", "history", "ears", "ear_heads", "pen", "pen_heads", "stroke"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.ears % (2 * self.ear_heads) or self.pen % (2 * self.pen_heads):
            raise ValueError("a width must be twice the heads, or a multiple of that")
        if self.features.frame_rate != 2 * STEP_RATE:
            raise ValueError(f"players hear {2 * STEP_RATE} frames a second, not {self.features.frame_rate}")

    def as_dict(self) -> dict[str, Any]:
        """Return the sizes ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlayerConfig:
        """Return the sizes of `as_dict`.

        Raises:
            TypeError, ValueError: a value is missing, unknown or out of range.
        """
        rest = {name: value for name, value in values.items() if name != "features"}
        return cls(features=FeatureSettings(**values["features"]), **rest)


SIZES: tuple[str, ...] = tuple(
    key.name for key in dataclasses.fields(PlayerConfig) if key.name not in ("stem", "voices", "features")
)
"""What a training may choose of them."""


@dataclass(frozen=True)
class ItemSettings:
    """How items are drawn; all but `speed` and `gain` are probabilities.

    Attributes:
        grid: that beats are shown to the ears.
        downbeats: that downbeats are shown, where beats are.
        other_level: that shown beats are every second one, or twice as many.
        metronome: that the context is a metronome.
        no_context: that the context is silent.
        one_part: that the context is one part.
        with_drums: that the true drums sound in the context.
        known: that notes around a hidden stretch are shown to the ears.
        hidden: that some of the pen's past is hidden.
        tag: that a tag is told.
        drummer: that a drummer's performance is the target instead of an invented one, where one fits the song.
        speed: the logarithm of the change of speed is even within ± this.
        gain: a part's gain is even within ± this, dB.
    """

    grid: float = 0.55
    downbeats: float = 0.6
    other_level: float = 0.06
    metronome: float = 0.1
    no_context: float = 0.07
    one_part: float = 0.25
    with_drums: float = 0.04
    known: float = 0.25
    hidden: float = 0.5
    tag: float = 0.5
    drummer: float = 0.4
    speed: float = 0.25
    gain: float = 8.0
