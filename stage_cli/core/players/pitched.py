"""Sampled instruments with pitches: the nearest recorded note, tuned by resampling, let go when the note ends.

An instrument is a folder with an `instrument.toml` and one audio file with its notes one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stage_cli.core.music.notes import Note
from stage_cli.core.players.kits import naming_field, read_table
from stage_cli.core.players.modal import fold_pitch
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.sampler import Cut, Strike, pan_gains
from stage_cli.core.players.samples import SampleStore, SampleTake

INSTRUMENT_FILE = "instrument.toml"
_LEGATO = 0.012  # seconds in which a string that is struck again, or stopped elsewhere, gives up its old note


@dataclass(frozen=True)
class RecordedNote:
    """A note of an instrument.

    Attributes:
        pitch: MIDI note number, with its tuning: 40.06 is an E that is 6 cents high.
        velocity: MIDI velocity that it stands for.
        level: dB of its loudest 50 ms, K-weighted.
        take: where it is.
    """

    pitch: float
    velocity: float
    level: float
    take: SampleTake


@dataclass(frozen=True)
class SampledSounds:
    """A sampled bass or guitar.

    Attributes:
        name: of the instrument.
        title: one line for a list.
        notes: recorded ones.
        lowest: MIDI note; lower ones sound an octave or more higher.
        highest: MIDI note.
        level: dB of the hardest note's loudest 50 ms, K-weighted.
        dynamics: exponent of velocity to amplitude.
        release: seconds in which a note dies away once it is let go.
        single: whether a note silences the one before, as on a bass.
        pan: −1 left to 1 right.
        send: dB to the room.
        room: around it.
        bus: behind it.
    """

    name: str
    title: str
    notes: tuple[RecordedNote, ...]
    lowest: int
    highest: int
    level: float = -14.0
    dynamics: float = 1.0
    release: float = 0.08
    single: bool = False
    pan: float = 0.0
    send: float = -20.0
    room: RoomConfig | None = None
    bus: BusConfig | None = None
    store: SampleStore = field(default_factory=SampleStore, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.notes:
            raise ValueError("an instrument needs notes")
        if not 0 <= self.lowest <= self.highest - 12 <= 115:
            raise ValueError(f"an instrument has an octave or more: lowest {self.lowest}, highest {self.highest}")

    def perform(self, sample_rate: int, rng: np.random.Generator) -> _SampledPerformance:
        """Start to play at a sample rate."""
        return _SampledPerformance(self, sample_rate, rng)


class _SampledPerformance:
    def __init__(self, sounds: SampledSounds, sample_rate: int, rng: np.random.Generator) -> None:
        self._sounds = sounds
        self._sample_rate = sample_rate
        self._rng = rng
        self._last = -1

    def strikes(self, note: Note) -> Sequence[Strike]:
        sounds = self._sounds
        pitch = fold_pitch(note.pitch, sounds.lowest, sounds.highest)
        number = self._choose(pitch, note.velocity)
        recorded = sounds.notes[number]
        self._last = number
        samples = sounds.store.get(
            recorded.take,
            self._sample_rate,
            tune=pitch - recorded.pitch,
            seconds=note.duration + sounds.release + 0.1,
        )
        jitter = float(np.clip(self._rng.normal(0, 0.25), -0.5, 0.5))
        decibels = 20 * sounds.dynamics * math.log10(note.velocity / 127) + sounds.level - recorded.level + jitter
        level = 10 ** (decibels / 20)
        left, right = pan_gains(sounds.pan)
        name = "string" if sounds.single else f"pitch {pitch}"
        return (
            Strike(
                samples,
                level * left,
                level * right,
                level * 10 ** (sounds.send / 20),
                (name,),
                (Cut(name, _LEGATO),),
                hold=note.duration,
                release=sounds.release,
            ),
        )

    def _choose(self, pitch: int, velocity: int) -> int:
        """Return the number of the nearest recorded note, by pitch and loudness; rather not the last one again.

        A neighbour a semitone or two further does: a repeated take sounds mechanical.
        """
        notes = self._sounds.notes

        def distance(number: int) -> float:
            note = notes[number]
            return abs(note.pitch - pitch) + abs(note.velocity - velocity) / 8 + (1.5 if number == self._last else 0)

        return min(range(len(notes)), key=distance)


def read_instrument(folder: Path) -> SampledSounds:
    """Read an `instrument.toml`; its audio is decoded when it is first played.

    Raises:
        StageError: the file cannot be read, or a field of it is wrong: the error names the field.
    """
    path = folder / INSTRUMENT_FILE
    table = dict(read_table(path))
    with naming_field(path, "notes"):
        file = folder / str(table.pop("file"))
        if file.parent != folder:
            raise ValueError(f"{file.name!r} lies outside the instrument's folder")
        notes = tuple(
            RecordedNote(
                float(note["pitch"]),
                float(note["velocity"]),
                float(note["level"]),
                SampleTake(file, int(note["take"][0]), int(note["take"][1])),
            )
            for note in table.pop("notes")
        )
    with naming_field(path, "a field"):
        room = RoomConfig(**table.pop("room")) if "room" in table else None
        bus = BusConfig(**table.pop("bus")) if "bus" in table else None
        return SampledSounds(folder.name, notes=notes, room=room, bus=bus, **table)
