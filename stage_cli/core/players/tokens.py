"""Notes as tokens, one step for each 40 ms: what a player's pen writes.

    tokens = DrumTokens().encode(notes, frames=250)     # [250, 12] for ten seconds
    notes = DrumTokens().decode(tokens)

An array of tokens is `[frames, columns]`, int16: a column is a drum voice, a bass (one column), or one of six fingers.

What rounding does, the same in all three:

- Onsets are rounded to the nearest 5 ms, counted from the stem's start: a place is one of eight in a frame. What is
  rounded to the next frame's first place belongs to that frame. So an onset comes back within 2.5 ms.
- Velocities are rounded to eight loudnesses, 16 wide: 1 to 15, 16 to 31, … 112 to 127. They come back as the middle of
  theirs, 8, 24, … 120: within 8, half a step.
- A column holds one stroke a frame. Of two in one frame the louder stays (of equally loud ones the earlier drum
  stroke, the longer note). Strokes of one voice that are 40 ms apart, or more, all stay.
- A drum stroke's duration is not kept. A note's end is kept to its frame, the middle of which it gets: it comes back
  within 22.5 ms. Where the column's next note begins in that frame it comes back as that note's onset, and where the
  note itself began in it as the frame's end: within 42.5 ms. Only such a short note with a stroke in the very next
  frame lasts until that stroke, up to 80 ms too long.
- Notes that begin at or after the last frame's end are left out. Notes that last longer sound to its end.

To encode a part of a song, encode the whole song and slice the array: notes that sound into the part are then held
in its first frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from stage_cli.core.music.notes import (
    DRUM_VOICES,
    HIGHEST_PITCH,
    HIGHEST_VELOCITY,
    Note,
    notes_to_array,
    pitch_of,
    separate_notes,
    voice_of,
)

FRAME_RATE = 25
"""Frames a second."""
PLACES = 8
"""Parts of a frame at which a stroke can be."""
LOUDNESSES = 8
PLACE_SECONDS = 1 / (FRAME_RATE * PLACES)
FRAME_SECONDS = 1 / FRAME_RATE

STROKES = LOUDNESSES * PLACES
"""How many tokens one voice, or one pitch, has for being struck."""

NOTHING = 0
"""Of every column: no stroke, and no note that sounds."""
HELD = 1
"""Of a bass or a finger: the note goes on through this frame."""
RELEASED = 2
"""Of a bass or a finger: the note ends in this frame."""
FIRST_PITCH = 3
"""Of a bass or a finger: the first token that strikes."""

STROKE_SECONDS = 0.1
"""The duration that decoded drum strokes get."""

_STEP_OF_VELOCITY = (HIGHEST_VELOCITY + 1) // LOUDNESSES
_BEFORE_FRAME = 0.6 * PLACE_SECONDS
"""Seconds before the next frame at which a note ends that ended in the frame in which it began: so it does again when
it is encoded once more."""
# Onsets half-way between two places are rounded up in spite of errors in the last digit, so that strokes 40 ms apart
# are always a whole frame apart.
_UP = 1e-6


class VoiceEvent(NamedTuple):
    """Drum tokens taken apart, for a pen that draws first whether, then how. All arrays have the tokens' shape."""

    struck: np.ndarray
    """bool."""
    loudness: np.ndarray
    """int16, 0 to 7; 0 where nothing is struck."""
    place: np.ndarray
    """int16, 0 to 7 (times 5 ms in the frame); 0 where nothing is struck."""


class PitchEvent(NamedTuple):
    """Tokens of a bass or of fingers taken apart. All arrays have the tokens' shape."""

    state: np.ndarray
    """int16: NOTHING, HELD, RELEASED, or FIRST_PITCH (3) where a note is struck."""
    pitch: np.ndarray
    """int16, 0 for the lowest pitch of these tokens; 0 where nothing is struck."""
    loudness: np.ndarray
    """int16, 0 to 7; 0 where nothing is struck."""
    place: np.ndarray
    """int16, 0 to 7 (times 5 ms in the frame); 0 where nothing is struck."""


def frames_of(seconds: float) -> int:
    """Return how many frames cover a duration."""
    return math.ceil(seconds * FRAME_RATE - _UP)


def loudness_of(velocity: np.ndarray | int) -> np.ndarray:
    """Return the loudness, 0 to 7, of velocities from 1 to 127."""
    return np.asarray(velocity, dtype=np.int64) // _STEP_OF_VELOCITY


def velocity_of(loudness: np.ndarray | int) -> np.ndarray:
    """Return the velocity, 8 to 120, that stands for a loudness from 0 to 7."""
    return np.asarray(loudness, dtype=np.int64) * _STEP_OF_VELOCITY + _STEP_OF_VELOCITY // 2


def _steps(seconds: np.ndarray) -> np.ndarray:
    """Return times in places of 5 ms, rounded, int64."""
    return np.floor(seconds / PLACE_SECONDS + (0.5 + _UP)).astype(np.int64)


_COLUMN_OF_KEY = np.array(
    [-1 if (voice := voice_of(key)) is None else DRUM_VOICES.index(voice) for key in range(HIGHEST_PITCH + 1)]
)
_KEY_OF_COLUMN = np.array([pitch_of(voice) for voice in DRUM_VOICES])


class DrumTokens:
    """Tokens of a drum kit: a column for each of the twelve `DRUM_VOICES`.

    A token is 0 for nothing, else 1 + loudness · 8 + place. Keys of one voice come back as its usual key, keys that
    belong to no voice are left out.
    """

    columns = len(DRUM_VOICES)
    vocabulary = 1 + STROKES

    def encode(self, notes: Sequence[Note], frames: int) -> np.ndarray:
        """Return the tokens of drum strokes in any order, `[frames, 12]` int16."""
        tokens = np.zeros((frames, self.columns), dtype=np.int16)
        onset, _, pitch, velocity = notes_to_array(notes).T
        column = _COLUMN_OF_KEY[pitch.astype(np.int64)]
        steps = _steps(onset)
        kept = np.flatnonzero((column >= 0) & (steps < frames * PLACES))
        # Of several values for one place numpy keeps the last: the louder, of equally loud ones the earlier.
        kept = kept[np.lexsort((-onset[kept], velocity[kept]))]
        stroke = loudness_of(velocity[kept].astype(np.int64)) * PLACES + steps[kept] % PLACES
        tokens[steps[kept] // PLACES, column[kept]] = 1 + stroke
        return tokens

    def decode(self, tokens: np.ndarray) -> list[Note]:
        """Return the strokes of `[frames, 12]` tokens, in order.

        Each lasts 0.1 s, or until the next stroke of its voice.

        Raises:
            ValueError: a token is not below `vocabulary`.
        """
        _check(tokens, self.columns, self.vocabulary)
        frame, column = np.nonzero(tokens)
        stroke = tokens[frame, column].astype(np.int64) - 1
        onset = (frame * PLACES + stroke % PLACES) * PLACE_SECONDS
        rows = zip(onset.tolist(), _KEY_OF_COLUMN[column].tolist(), velocity_of(stroke // PLACES).tolist(), strict=True)
        return separate_notes(Note(at, STROKE_SECONDS, key, velocity) for at, key, velocity in rows)

    def split(self, tokens: np.ndarray) -> VoiceEvent:
        """Take tokens of any shape apart."""
        struck = tokens > 0
        stroke = np.where(struck, tokens - 1, 0)
        return VoiceEvent(struck, stroke // PLACES, stroke % PLACES)

    def join(self, event: VoiceEvent) -> np.ndarray:
        """Put tokens together again, int16; loudness and place mean nothing where nothing is struck."""
        return np.where(event.struck, 1 + event.loudness * PLACES + event.place, 0).astype(np.int16)


class _PitchTokens:
    """What tokens of a bass and of fingers share.

    A token is NOTHING, HELD or RELEASED, else FIRST_PITCH + (pitch - lowest) · 64 + loudness · 8 + place. A new
    stroke ends the column's note; so does NOTHING, which follows a note that ended in the frame in which it began.
    Pitches out of range are moved by octaves.
    """

    columns: int
    lowest: int
    highest: int

    @property
    def vocabulary(self) -> int:
        """How many tokens a column has."""
        return FIRST_PITCH + self.pitches * STROKES

    @property
    def pitches(self) -> int:
        """How many pitches there are from the lowest to the highest."""
        return self.highest - self.lowest + 1

    def decode(self, tokens: np.ndarray) -> list[Note]:
        """Return the notes of `[frames, columns]` tokens, in order.

        HELD and RELEASED where no note sounds mean nothing. Of two columns that play the same pitch the earlier
        note ends where the later begins.

        Raises:
            ValueError: a token is not below `vocabulary`.
        """
        _check(tokens, self.columns, self.vocabulary)
        found = []
        for column in range(self.columns):
            line = tokens[:, column].astype(np.int64)
            # The frames in which something changes: everything but HELD.
            changes = np.flatnonzero(line != HELD)
            states = line[changes].tolist()
            frames = [*changes.tolist(), len(line)]
            for at, token in enumerate(states):
                if token < FIRST_PITCH:
                    continue
                stroke = token - FIRST_PITCH
                onset = (frames[at] * PLACES + stroke % PLACES) * PLACE_SECONDS
                after = states[at + 1] if at + 1 < len(states) else NOTHING
                if after >= FIRST_PITCH:
                    end = (frames[at + 1] * PLACES + (after - FIRST_PITCH) % PLACES) * PLACE_SECONDS
                elif after == RELEASED:
                    end = (frames[at + 1] + 0.5) * FRAME_SECONDS
                elif at + 1 < len(states):
                    end = frames[at + 1] * FRAME_SECONDS - _BEFORE_FRAME
                else:
                    end = len(line) * FRAME_SECONDS
                pitch = self.lowest + stroke // STROKES
                found.append(Note(onset, end - onset, pitch, int(velocity_of(stroke % STROKES // PLACES))))
        return separate_notes(found)

    def split(self, tokens: np.ndarray) -> PitchEvent:
        """Take tokens of any shape apart."""
        state = np.minimum(tokens, FIRST_PITCH)
        stroke = np.maximum(tokens - FIRST_PITCH, 0)
        return PitchEvent(state, stroke // STROKES, stroke % STROKES // PLACES, stroke % PLACES)

    def join(self, event: PitchEvent) -> np.ndarray:
        """Put tokens together again, int16; pitch, loudness and place mean nothing where nothing is struck."""
        stroke = FIRST_PITCH + event.pitch.astype(np.int64) * STROKES + event.loudness * PLACES + event.place
        return np.where(event.state == FIRST_PITCH, stroke, event.state).astype(np.int16)

    def _spans(self, notes: Sequence[Note], frames: int) -> list[_Span]:
        """Return the notes that begin before the end, by frame, then pitch; of each pitch one a frame."""
        onset, duration, pitch, velocity = notes_to_array(notes).T
        begin, end = _steps(onset), _steps(onset + duration)
        folded = pitch.astype(np.int64)
        folded += 12 * np.maximum(0, np.ceil((self.lowest - folded) / 12)).astype(np.int64)
        folded -= 12 * np.maximum(0, np.ceil((folded - self.highest) / 12)).astype(np.int64)
        token = FIRST_PITCH + (folded - self.lowest) * STROKES
        token += loudness_of(velocity.astype(np.int64)) * PLACES + begin % PLACES
        rows = zip(
            (begin // PLACES).tolist(), folded.tolist(), velocity.tolist(), (end // PLACES).tolist(), token.tolist(),
            strict=True,
        )  # fmt: skip
        kept: dict[tuple[int, int], _Span] = {}
        for row in rows:
            span = _Span(*row)
            if span.frame < frames:
                kept[span[:2]] = _louder(kept[span[:2]], span) if span[:2] in kept else span
        return [kept[key] for key in sorted(kept)]


class _Span(NamedTuple):
    """A note in frames."""

    frame: int
    pitch: int
    velocity: float
    end: int
    """The frame in which it ends."""
    token: int
    """That strikes it."""


def _louder(first: _Span, second: _Span) -> _Span:
    """Return which of two notes in one frame stays, for as long as either sounds."""
    stays = max(first, second, key=lambda span: (span.velocity, span.end, -span.token))
    return stays._replace(end=max(first.end, second.end))


def _write(column: np.ndarray, span: _Span) -> None:
    """Write a note into a column, `[frames]`, over what is left of the note before."""
    column[span.frame] = span.token
    column[span.frame + 1 : span.end] = HELD
    # Slices end with the song, and so does a note that lasts longer.
    column[max(span.frame + 1, span.end) : span.end + 1] = RELEASED
    column[span.end + 1 :] = NOTHING


class BassTokens(_PitchTokens):
    """Tokens of an instrument that plays one note at a time: one column, `[frames, 1]`.

    A note ends where the next begins, whatever its duration. Of several in one frame the loudest stays, for as long
    as any of them sounds. Pitches from 16 (E0, the lowest of detuned basses) to 71 (B4).
    """

    columns = 1
    lowest = 16
    highest = 71

    def encode(self, notes: Sequence[Note], frames: int) -> np.ndarray:
        """Return the tokens of notes in any order, `[frames, 1]` int16."""
        tokens = np.zeros((frames, 1), dtype=np.int16)
        kept: dict[int, _Span] = {}
        for span in self._spans(notes, frames):
            kept[span.frame] = _louder(kept[span.frame], span) if span.frame in kept else span
        line = list(kept.values())
        for span, after in zip_longest(line, line[1:]):
            _write(tokens[: after.frame if after else frames, 0], span)
        return tokens


class ChordTokens(_PitchTokens):
    """Tokens of keys and guitars: six columns, one a finger, `[frames, 6]`.

    Notes that begin in a frame take the lowest fingers that are free, the lowest note first; a note stays on its
    finger. A finger is free in the frame in which its note ends. Of more than six notes the quietest inner ones (all
    but the lowest and the highest that sound) are left out, or end there if they sound already; of equally loud ones
    the one that began first. Pitches are those of a piano, 21 to 108.
    """

    columns = 6
    lowest = 21
    highest = 108

    def encode(self, notes: Sequence[Note], frames: int) -> np.ndarray:
        """Return the tokens of notes in any order, `[frames, 6]` int16."""
        tokens = np.zeros((frames, self.columns), dtype=np.int16)
        fingers: list[_Span | None] = [None] * self.columns
        chord: list[_Span] = []
        spans = self._spans(notes, frames)
        for number, span in enumerate(spans):
            chord.append(span)
            if number + 1 < len(spans) and spans[number + 1].frame == span.frame:
                continue
            fingers = [held if held and held.end > span.frame else None for held in fingers]
            self._make_room(tokens, fingers, chord)
            for note in chord:
                finger = fingers.index(None)
                fingers[finger] = note
                _write(tokens[:, finger], note)
            chord = []
        return tokens

    def _make_room(self, tokens: np.ndarray, fingers: list[_Span | None], chord: list[_Span]) -> None:
        """Take notes off the fingers, or out of the chord, until all have a finger."""
        frame = chord[0].frame
        sounding = sorted([held for held in fingers if held], key=lambda span: span.pitch)
        # A key that is struck again frees its finger.
        for held in sounding:
            if any(note.pitch == held.pitch for note in chord):
                self._release(tokens, fingers, held, frame)
        sounding = sorted([*(held for held in fingers if held), *chord], key=lambda span: (span.pitch, span.frame))
        while len(sounding) > self.columns:
            quietest = min(sounding[1:-1], key=lambda span: (span.velocity, span.frame, span.pitch))
            sounding.remove(quietest)
            if quietest in chord:
                chord.remove(quietest)
            else:
                self._release(tokens, fingers, quietest, frame)

    def _release(self, tokens: np.ndarray, fingers: list[_Span | None], held: _Span, frame: int) -> None:
        finger = fingers.index(held)
        tokens[frame, finger] = RELEASED
        tokens[frame + 1 :, finger] = NOTHING
        fingers[finger] = None


def _check(tokens: np.ndarray, columns: int, vocabulary: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != columns:
        raise ValueError(f"tokens must be [frames, {columns}], not {list(tokens.shape)}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocabulary):
        raise ValueError(f"tokens must be 0 to {vocabulary - 1}")
