"""A song on paper and in time: notes, parts, sections, beats; the tempo map, swing, and a player's small deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stage_cli.core.band.theory import Chord, ScoreKey


@dataclass(frozen=True, slots=True)
class ScoreMeter:
    """A time signature: its name, beats in a bar, and steps (sixteenths) in a beat.

    6/8 has two beats (dotted quarters) of six sixteenths each: that is how it is counted at song tempo.
    """

    name: str
    beats_per_bar: int
    steps_per_beat: int

    @property
    def steps_per_bar(self) -> int:
        """Sixteenths in a bar."""
        return self.beats_per_bar * self.steps_per_beat


FOUR_FOUR = ScoreMeter("4/4", 4, 4)
THREE_FOUR = ScoreMeter("3/4", 3, 4)
SIX_EIGHT = ScoreMeter("6/8", 2, 6)
METERS = {meter.name: meter for meter in (FOUR_FOUR, THREE_FOUR, SIX_EIGHT)}


@dataclass(frozen=True, slots=True)
class Event:
    """A note on paper: where it stands in beats from the song's first, before swing and a player's timing.

    Attributes:
        beat: beats from the song's first downbeat.
        beats: length in beats.
        pitch: MIDI note number; of a drum, its General MIDI key.
        velocity: 0 to 1.
        late: seconds behind its place (a strummed string, a flam); may be negative.
    """

    beat: float
    beats: float
    pitch: int
    velocity: float
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoreNote:
    """A note as played.

    Attributes:
        onset: seconds from the beginning of the song.
        duration: seconds.
        pitch: MIDI note number; of a drum, its General MIDI key.
        velocity: 0 to 1.
        beat: place on paper, in beats from the first downbeat.
    """

    onset: float
    duration: float
    pitch: int
    velocity: float
    beat: float


@dataclass(frozen=True)
class ScorePart:
    """One player.

    Attributes:
        name: unique in the song, such as "guitar 2".
        stem: one of the project's stem names.
        track_type: as MoisesDB names it.
        instrument: a name that every renderer knows (see `instruments.py`).
        notes: by onset.
        level: dB relative to what is usual for the instrument.
        pan: −1 (left) to 1.
        kit: of drums: "rock", "studio", "dry", "garage", "jazz", "electronic" or "eighties".
    """

    name: str
    stem: str
    track_type: str
    instrument: str
    notes: tuple[ScoreNote, ...]
    level: float = 0.0
    pan: float = 0.0
    kit: str = ""

    def placed(self, level: float, pan: float) -> ScorePart:
        """Return the part at another level (dB) and place."""
        return replace(self, level=level, pan=pan)


@dataclass(frozen=True)
class Section:
    """A part of the form: "verse", "chorus", …; bars counted from the song's first; intensity 0 to 1."""

    kind: str
    first_bar: int
    bars: int
    intensity: float


@dataclass(frozen=True)
class ChordSpan:
    """A chord, where it begins and how long it lasts (beats)."""

    beat: float
    beats: float
    chord: Chord


@dataclass(frozen=True)
class Score:
    """A whole song, or as much of it as was asked for.

    Attributes:
        title: of the song.
        artist: who plays it.
        style: name of the style.
        genre: in MoisesDB's spelling.
        meter: time signature.
        key: tonic and mode; None if unknown.
        swing: place of the second of two eighths (or sixteenths, see `swing_unit`); 0.5 is straight.
        swing_unit: length in beats of the pair that swings.
        bpm: of the first bar.
        beat_times: seconds of every beat, the one that ends the last section included.
        sections: by time.
        chords: by time.
        parts: players; silent ones included.
        groove: the drums' main pattern: (key, step) pairs of two bars, for telling songs apart.
        duration: seconds.
        drummer: the performance that its drums are played from; "" where they are invented.
    """

    title: str
    artist: str
    style: str
    genre: str
    meter: ScoreMeter
    key: ScoreKey | None
    swing: float
    swing_unit: float
    bpm: float
    beat_times: tuple[float, ...]
    sections: tuple[Section, ...]
    chords: tuple[ChordSpan, ...]
    parts: tuple[ScorePart, ...]
    groove: frozenset[tuple[int, int]] = field(default=frozenset())
    duration: float = 0.0
    drummer: str = ""

    def crop(self, seconds: float) -> Score:
        """Return the song's beginning: notes and beats before `seconds`, the rest left out."""
        keep = tuple(time for time in self.beat_times if time < seconds)
        parts = tuple(
            replace(part, notes=tuple(note for note in part.notes if note.onset < seconds)) for part in self.parts
        )
        return replace(
            self,
            beat_times=keep,
            parts=parts,
            sections=tuple(s for s in self.sections if s.first_bar * self.meter.beats_per_bar < len(keep)),
            chords=tuple(span for span in self.chords if span.beat < len(keep)),
            duration=seconds,
        )


SLOWEST_BPM, FASTEST_BPM = 70.0, 180.0


@dataclass
class ScoreTempo:
    """Seconds of every beat, bar by bar; it grows with the song and never changes what it has said.

    Args:
        bpm: of the first bar.
        meter: time signature.
        lead_in: seconds before the first beat.
        drift: standard deviation of the slow wandering of a band without a click, relative (0: a machine's tempo).
        rng: of the drift.
    """

    bpm: float
    meter: ScoreMeter
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
) -> list[ScoreNote]:
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
        notes.append(ScoreNote(start, max(float(end) - start, 0.02), event.pitch, event.velocity, event.beat))
    return notes
