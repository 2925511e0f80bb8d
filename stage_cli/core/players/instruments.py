"""The instruments of the stems: which there are, and how a name, a file or a folder becomes one.

instrument = load_instrument("drums", kit="acoustic")
stem = instrument.render(notes, frames=480_000, sample_rate=48_000, seed=0)  # [frames, 2] float32
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from stage_cli.core.music.notes import Note
from stage_cli.core.players.kits import read_kit
from stage_cli.core.players.sampler import Sampler

ASSETS = Path(__file__).parents[2] / "assets"
DEFAULT_KIT = "acoustic"


class InstrumentSession(Protocol):
    """A performance that is rendered as its notes arrive; see `SamplerSession`."""

    def push(self, notes: Iterable[Note], until_frame: int) -> np.ndarray:
        """Take notes, return the frames that they decide, `[frames, 2]` float32."""
        ...

    def finish(self, frames: int) -> np.ndarray:
        """Return the rest of a stream of `frames` frames."""
        ...


class StemInstrument(Protocol):
    """What plays the notes of a stem."""

    def session(self, sample_rate: int, seed: int) -> InstrumentSession:
        """Start a performance; its blocks are those of `render`, bit for bit."""
        ...

    def render(self, notes: Iterable[Note], frames: int, sample_rate: int, *, seed: int) -> np.ndarray:
        """Return the notes' sound, `[frames, 2]` float32."""
        ...


def load_instrument(
    stem: str, *, kit: str | None = None, sounds: Path | None = None, instrument: str | None = None
) -> StemInstrument:
    """Return what plays a stem."""
    return Sampler(read_kit(ASSETS / "kits" / (kit or DEFAULT_KIT)))
