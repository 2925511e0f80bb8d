"""What a band plays: notes, parts, sections, chords and beats of one song."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stage_cli.core.data.band.composition.theory import Chord, Key


@dataclass(frozen=True, slots=True)
class Meter:
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


FOUR_FOUR = Meter("4/4", 4, 4)
THREE_FOUR = Meter("3/4", 3, 4)
SIX_EIGHT = Meter("6/8", 2, 6)
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
class Note:
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
class Part:
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
    notes: tuple[Note, ...]
    level: float = 0.0
    pan: float = 0.0
    kit: str = ""

    def placed(self, level: float, pan: float) -> Part:
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
        key: tonic and mode.
        swing: place of the second of two eighths (or sixteenths, see `swing_unit`); 0.5 is straight.
        swing_unit: length in beats of the pair that swings.
        bpm: of the first bar.
        beat_times: seconds of every beat, the one that ends the last section included.
        sections: by time.
        chords: by time.
        parts: players; silent ones included.
        groove: the drums' main pattern: (key, step) pairs of two bars, for telling songs apart.
        duration: seconds.
    """

    title: str
    artist: str
    style: str
    genre: str
    meter: Meter
    key: Key
    swing: float
    swing_unit: float
    bpm: float
    beat_times: tuple[float, ...]
    sections: tuple[Section, ...]
    chords: tuple[ChordSpan, ...]
    parts: tuple[Part, ...]
    groove: frozenset[tuple[int, int]] = field(default=frozenset())
    duration: float = 0.0

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
