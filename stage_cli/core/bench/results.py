"""What a run of `stage bench` has found. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from stage_cli.core.bench.environment import Environment


@dataclass(frozen=True)
class Measured:
    """One figure, as it came out in each round.

    Attributes:
        values: one a round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The lowest of the rounds."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest of the rounds."""
        return max(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"median": self.median, "low": self.low, "high": self.high, "values": list(self.values)}


Figures = Mapping[str, Measured]


@dataclass(frozen=True)
class PrecisionResult:
    """What one precision costs.

    Attributes:
        precision: of the language model.
        figures: `loading_seconds`; of one window of the model `encode_seconds`, `prefill_seconds` (to the first
            tokens), `step_seconds`, `decode_seconds`; of the audio that is written `total_seconds`, `real_time`
            (seconds of audio a second), `speed_ratio` (to the first precision); if there are variations
            `variations_seconds` and `variations_ratio` (to one); `resident_bytes`, on CUDA `cuda_bytes`, and with
            variations both of them headed by `variations_`.
    """

    precision: str
    figures: Figures


@dataclass(frozen=True)
class LengthResult:
    """What a song of one length costs in one precision.

    Attributes:
        precision: of the language model.
        length: seconds of audio.
        figures: `total_seconds`, `real_time`, `time_ratio` (time for a second of audio, to the shortest length's),
            `memory_ratio` (to the shortest length's), `resident_bytes`, and on CUDA `cuda_bytes`.
    """

    precision: str
    length: float
    figures: Figures


@dataclass(frozen=True)
class BenchResult:
    """Everything that a run has found.

    Attributes:
        environment: on what it was measured.
        model: its name.
        parameters: of the language model.
        window_seconds: of the model.
        guidance: that it is drawn with; 1 is off.
        duration: seconds of audio that were written.
        variations: that were measured beside one.
        repeats: rounds.
        precisions: in the order of the options.
        lengths: for each precision, the shortest first.
    """

    environment: Environment
    model: str
    parameters: int
    window_seconds: float
    guidance: float
    duration: float
    variations: int
    repeats: int
    precisions: tuple[PrecisionResult, ...]
    lengths: tuple[LengthResult, ...]
