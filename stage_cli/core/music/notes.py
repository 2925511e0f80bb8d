"""Notes of a stem, and the voices of a drum kit.

    Note(onset=1.5, duration=0.25, pitch=38, velocity=96)

A stem's notes are a sequence of `Note`. Times are seconds from the stem's start: never beats, never MIDI ticks; those
live in `core/music/beats.py` and inside `core/music/midi.py`. The pitch of a drum stroke is its key in the percussion
map of General MIDI; `voice_of` says which of the twelve `DRUM_VOICES` it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

LOWEST_VELOCITY = 1
"""Velocity 0 switches a note off in MIDI, so no note has it."""
HIGHEST_VELOCITY = 127
HIGHEST_PITCH = 127


class Note(NamedTuple):
    """One note or drum stroke. Notes compare by onset first, so `sorted` puts them in the order in which they sound."""

    onset: float
    """Seconds from the stem's start."""
    duration: float
    """Seconds. Of a drum stroke it has no meaning to an instrument, which lets one-shots ring."""
    pitch: int
    """MIDI note number, 0 to 127 (60 is middle C); of a drum stroke its key in General MIDI's percussion map."""
    velocity: int
    """Loudness, 1 to 127."""

    @property
    def end(self) -> float:
        """Seconds from the stem's start."""
        return self.onset + self.duration


DRUM_VOICES: tuple[str, ...] = (
    "kick",
    "snare",
    "side_stick",
    "closed_hat",
    "pedal_hat",
    "open_hat",
    "ride",
    "crash",
    "high_tom",
    "mid_tom",
    "low_tom",
    "percussion",
)
"""The voices of a kit, in the order of every array that has one column a voice."""

# The first key of a voice is the one that is written. Keys below 35 and the second meaning of 58 come from Roland's
# TD-11, on which the drummers of the Groove MIDI Dataset play: 22 and 26 are strokes on the edge of the closed and the
# open hi-hat, 58 is the rim of the floor tom (General MIDI: a vibraslap). Splash (55) and china (52) count as crash,
# the clap (39) as side stick. The metronome's keys of General MIDI 2 (32 to 34) are no part of the music.
_KEYS_OF: dict[str, tuple[int, ...]] = {
    "kick": (36, 35),
    "snare": (38, 40),
    "side_stick": (37, 39),
    "closed_hat": (42, 22),
    "pedal_hat": (44,),
    "open_hat": (46, 26),
    "ride": (51, 53, 59),
    "crash": (49, 52, 55, 57),
    "high_tom": (48, 50),
    "mid_tom": (45, 47),
    "low_tom": (43, 41, 58),
    "percussion": (54, 27, 28, 29, 30, 31, 56, *range(60, 88)),
}
_VOICE_OF: dict[int, str] = {key: voice for voice, keys in _KEYS_OF.items() for key in keys}


def voice_of(pitch: int) -> str | None:
    """Return the drum voice of a percussion key (General MIDI 1 and 2, Roland TD-11), one of `DRUM_VOICES`.

    Returns: None for keys that are no part of a kit (a metronome's click, effects outside the map).
    """
    return _VOICE_OF.get(pitch)


def pitch_of(voice: str) -> int:
    """Return the percussion key that stands for a drum voice.

    It means the same in General MIDI and on Roland's kits: kick 36, snare 38, side stick 37, hats 42, 44 and 46,
    ride 51, crash 49, toms 48, 45 and 43, percussion 54 (a tambourine).

    Raises:
        KeyError: no voice has this name.
    """
    return _KEYS_OF[voice][0]


def sort_notes(notes: Iterable[Note]) -> list[Note]:
    """Return notes in the order in which they sound: by onset, then duration, pitch and velocity."""
    return sorted(notes)


def check_notes(notes: Iterable[Note]) -> None:
    """Check that every note can be played and written as MIDI.

    Raises:
        ValueError: a time is not finite or negative, or a pitch or velocity is no whole number in its range; the
            error says which note.
    """
    for number, note in enumerate(notes):
        onset, duration, pitch, velocity = note
        if not (math.isfinite(onset) and onset >= 0 and math.isfinite(duration) and duration >= 0):
            raise ValueError(f"note {number}: onset and duration must be finite and not negative: {note}")
        if not (0 <= pitch <= HIGHEST_PITCH and pitch == int(pitch)):
            raise ValueError(f"note {number}: pitch must be a whole number from 0 to {HIGHEST_PITCH}: {note}")
        if not (LOWEST_VELOCITY <= velocity <= HIGHEST_VELOCITY and velocity == int(velocity)):
            raise ValueError(
                f"note {number}: velocity must be a whole number from {LOWEST_VELOCITY} to {HIGHEST_VELOCITY}: {note}"
            )


def shift_notes(notes: Iterable[Note], seconds: float) -> list[Note]:
    """Return notes that start `seconds` later (or earlier), without those that would then start before 0."""
    return [note._replace(onset=note.onset + seconds) for note in notes if note.onset + seconds >= 0]


def crop_notes(notes: Iterable[Note], start: float, end: float, *, ringing: bool = False) -> list[Note]:
    """Return the notes of a span, their times counted from its start.

    Notes belong to the span if they begin in it; what reaches past its end is cut there.

    Args:
        notes: in any order; the order is kept.
        start: seconds.
        end: seconds, excluded.
        ringing: also keep notes that began before the span and sound into it. They begin at 0, so an instrument
            strikes them anew.
    """
    kept = []
    for note in notes:
        onset = note.onset
        if onset < start:
            if not ringing or note.end <= start:
                continue
            onset = start
        if onset < end:
            kept.append(note._replace(onset=onset - start, duration=min(note.end, end) - onset))
    return kept


def separate_notes(notes: Iterable[Note]) -> list[Note]:
    """Return notes in order, in which no two of one pitch overlap, so that MIDI can say when each one ends.

    A note ends where the next of its pitch begins. Of two that begin at the same time the louder stays, as long as
    the longer.
    """
    last: dict[int, int] = {}
    kept: list[Note] = []
    for note in sort_notes(notes):
        at = last.get(note.pitch)
        if at is not None:
            before = kept[at]
            if before.onset == note.onset:
                kept[at] = before._replace(
                    duration=max(before.duration, note.duration), velocity=max(before.velocity, note.velocity)
                )
                continue
            if before.end > note.onset:
                kept[at] = before._replace(duration=note.onset - before.onset)
        last[note.pitch] = len(kept)
        kept.append(note)
    # Durations have changed, by which notes that begin together are ordered.
    return sort_notes(kept)


def notes_to_array(notes: Sequence[Note]) -> np.ndarray:
    """Return notes as `[notes, 4]` float64: onset and duration in seconds, pitch, velocity."""
    return np.array(notes, dtype=np.float64).reshape(len(notes), 4)


def notes_from_array(array: np.ndarray) -> list[Note]:
    """Return the notes of a `[notes, 4]` array as `notes_to_array` makes it; pitch and velocity are rounded."""
    return [Note(onset, duration, round(pitch), round(velocity)) for onset, duration, pitch, velocity in array.tolist()]
