"""From paper to time: the tempo map, swing, and the small lateness of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stage_cli.core.data.band.composition.score import Event, Meter, Note, Section

SLOWEST_BPM, FASTEST_BPM = 70.0, 180.0


@dataclass
class TempoMap:
    """Seconds of every beat, bar by bar; it grows with the song and never changes what it has said.

    Args:
        bpm: of the first bar.
        meter: time signature.
        lead_in: seconds before the first beat.
        drift: standard deviation of the slow wandering of a band without a click, relative (0: a machine's tempo).
        rng: of the drift.
    """

    bpm: float
    meter: Meter
    lead_in: float
    drift: float
    rng: np.random.Generator
    _wander: float = 0.0
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.times.append(self.lead_in)
        self._anchor = (0, self.lead_in, self.bpm)

    def add(self, section: Section, factor: float) -> None:
        """Append a section's bars at `factor` times the song's tempo, kept within 70 to 180 bpm."""
        for _ in range(section.bars):
            if self.drift:
                self._wander = 0.9 * self._wander + float(self.rng.normal(0, self.drift))
            bpm = min(max(self.bpm * factor * (1 + self._wander), SLOWEST_BPM), FASTEST_BPM)
            if bpm != self._anchor[2]:
                self._anchor = (len(self.times) - 1, self.times[-1], bpm)
            beat, seconds, _ = self._anchor
            # Each beat from its number, not from the beat before: rounding errors do not add up.
            first = len(self.times) - beat
            self.times += [seconds + (first + i) * 60 / bpm for i in range(self.meter.beats_per_bar)]


@dataclass(frozen=True)
class Feel:
    """How a band plays what is written.

    Attributes:
        swing: place of the second of a pair, 0.5 to 0.67.
        swing_unit: beats in the pair.
        looseness: seconds, standard deviation of a stroke's timing; 0 is a machine.
    """

    swing: float
    swing_unit: float
    looseness: float

    def warp(self, beats: np.ndarray) -> np.ndarray:
        """Move what is off the beat later, as swing does; beats stay where they are."""
        if self.swing == 0.5:
            return beats
        pair, place = np.divmod(beats, self.swing_unit)
        place = place / self.swing_unit
        bent = np.where(place < 0.5, place * 2 * self.swing, self.swing + (place - 0.5) * 2 * (1 - self.swing))
        return (pair + bent) * self.swing_unit


def perform(
    events: Sequence[Event], beat_times: Sequence[float], feel: Feel, lag: float, rng: np.random.Generator
) -> list[Note]:
    """Return events as notes in seconds.

    Args:
        events: what is written.
        beat_times: seconds of every beat, from the song's first to the end of the section.
        feel: the band's swing and looseness.
        lag: seconds that this player is behind the beat on average.
        rng: of the timing. Notes of one chord share it.
    """
    if not events:
        return []
    beats = np.array([event.beat for event in events])
    ends = beats + np.array([event.beats for event in events])
    grid = np.arange(len(beat_times))
    # Beyond the last beat the last tempo goes on.
    last = len(beat_times) - 1
    step = beat_times[-1] - beat_times[-2]
    times = np.interp(feel.warp(np.stack([beats, ends])), grid, beat_times)
    times += np.maximum(feel.warp(np.stack([beats, ends])) - last, 0) * step
    late = rng.normal(0, 1, size=len(events)) * feel.looseness
    shared: dict[float, float] = {}
    notes = []
    for event, onset, end, own in zip(events, times[0], times[1], late, strict=True):
        shift = shared.setdefault(event.beat, float(np.clip(own, -2.5 * feel.looseness, 2.5 * feel.looseness)))
        start = max(0.0, float(onset) + shift + lag + event.late)
        notes.append(Note(start, max(float(end) - start, 0.02), event.pitch, event.velocity, event.beat))
    return notes
