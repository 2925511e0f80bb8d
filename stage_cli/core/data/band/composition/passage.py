"""What every player of a section has before them: chords, meter, groove, key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stage_cli.core.data.band.composition.grooves import Groove
from stage_cli.core.data.band.composition.score import ChordSpan, Meter, Section
from stage_cli.core.data.band.composition.theory import Chord, Key
from stage_cli.core.data.band.instruments import KICK


@dataclass(frozen=True)
class Passage:
    """One section as its players see it. Beats count from the song's first."""

    section: Section
    meter: Meter
    key: Key
    chords: tuple[ChordSpan, ...]
    groove: Groove

    @property
    def first_beat(self) -> float:
        """Beat on which the section begins."""
        return float(self.section.first_bar * self.meter.beats_per_bar)

    @property
    def beats(self) -> float:
        """Length in beats."""
        return float(self.section.bars * self.meter.beats_per_bar)

    @property
    def loudness(self) -> float:
        """Factor of every velocity."""
        return 0.72 + 0.28 * self.section.intensity

    def bars(self) -> Iterator[tuple[int, float]]:
        """Yield (number of the bar in the section, its first beat)."""
        for bar in range(self.section.bars):
            yield bar, self.first_beat + bar * self.meter.beats_per_bar

    def chord_at(self, beat: float) -> Chord:
        """Return the chord that sounds on a beat."""
        current = self.chords[0]
        for span in self.chords:
            if span.beat > beat + 1e-6:
                break
            current = span
        return current.chord

    def next_chord(self, beat: float) -> Chord:
        """Return the first chord after the one that sounds on a beat; the section's first if it was the last."""
        for span in self.chords:
            if span.beat > beat + 1e-6:
                return span.chord
        return self.chords[0].chord

    def kick_beats(self, bar: int) -> list[float]:
        """Beats within a bar (0 is its first) on which the kick is struck."""
        return [step / self.meter.steps_per_beat for step in self.groove.steps_of(KICK, bar)]

    def grid(self, pattern: str) -> Iterator[tuple[float, str]]:
        """Yield (beat, symbol) for a pattern of one bar of sixteenths, repeated; "-" is a rest."""
        for _, first in self.bars():
            for step in range(self.meter.steps_per_bar):
                symbol = pattern[step % len(pattern)]
                if symbol != "-":
                    yield first + step / self.meter.steps_per_beat, symbol
