"""Where sounds come from: the one interface that the built-in synthesizer and soundfonts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from stage_cli.core.data.band.randomness import chance
from stage_cli.core.data.band.rendering.synth.kits import Stroke, build_hand_percussion, build_kit
from stage_cli.core.data.band.rendering.synth.timbres import Voice, build_voice


class SoundBank(Protocol):
    """Plays single notes and strokes; the song's generator chooses among its timbres."""

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        ...

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        ...

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        ...


class SynthBank:
    """The built-in synthesizer."""

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        return build_voice(instrument, rng)

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        return build_kit(kit, rng)

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        return build_hand_percussion(rng)


class MixedBank:
    """Two banks side by side: each player of a song takes one or the other.

    Args:
        first: bank.
        second: bank.
        share: probability of the first.
    """

    def __init__(self, first: SoundBank, second: SoundBank, share: float = 0.5) -> None:
        self._first, self._second, self._share = first, second, share

    def _choose(self, rng: np.random.Generator) -> SoundBank:
        return self._first if chance(rng, self._share) else self._second

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        return self._choose(rng).voice(instrument, rng)

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        return self._choose(rng).kit(kit, rng)

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        return self._choose(rng).hand_percussion(rng)


BankMaker = Callable[[], SoundBank]
