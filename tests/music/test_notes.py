from __future__ import annotations

import math

import numpy as np
import pytest

from stage_cli.core.music.notes import (
    DRUM_VOICES,
    Note,
    check_notes,
    crop_notes,
    notes_from_array,
    notes_to_array,
    pitch_of,
    separate_notes,
    shift_notes,
    sort_notes,
    voice_of,
)


def test_every_voice_has_its_key() -> None:
    assert len(DRUM_VOICES) == 12
    assert [voice_of(pitch_of(voice)) for voice in DRUM_VOICES] == list(DRUM_VOICES)


@pytest.mark.parametrize(("voice", "keys"), [
    ("kick", (35, 36)), ("snare", (38, 40)), ("side_stick", (37, 39)), ("closed_hat", (22, 42)), ("pedal_hat", (44,)),
    ("open_hat", (26, 46)), ("ride", (51, 53, 59)), ("crash", (49, 52, 55, 57)), ("high_tom", (48, 50)),
    ("mid_tom", (45, 47)), ("low_tom", (41, 43, 58)), ("percussion", (54, 56, 60, 81)),
])  # fmt: skip
def test_keys_of_general_midi_and_of_rolands_kit(voice: str, keys: tuple[int, ...]) -> None:
    assert {voice_of(key) for key in keys} == {voice}


def test_keys_that_are_no_drum() -> None:
    assert [voice_of(key) for key in (0, 21, 33, 34, 88, 127)] == [None] * 6
    with pytest.raises(KeyError):
        pitch_of("gong")


def test_notes_sort_by_onset() -> None:
    first, second, third = Note(0.1, 9.0, 90, 1), Note(0.2, 0.1, 60, 5), Note(0.2, 0.1, 61, 4)
    assert sort_notes([third, first, second]) == [first, second, third]
    assert first.end == pytest.approx(9.1)


def test_shift() -> None:
    notes = [Note(0.5, 1, 60, 80), Note(1.0, 1, 62, 80)]
    assert shift_notes(notes, 1.0) == [Note(1.5, 1, 60, 80), Note(2.0, 1, 62, 80)]
    assert shift_notes(notes, -0.75) == [Note(0.25, 1, 62, 80)]


def test_crop() -> None:
    notes = [Note(0.0, 1.5, 60, 80), Note(1.0, 0.5, 62, 80), Note(1.5, 9.0, 64, 80), Note(2.0, 1.0, 65, 80)]
    assert crop_notes(notes, 1.0, 2.0) == [Note(0.0, 0.5, 62, 80), Note(0.5, 0.5, 64, 80)]
    assert crop_notes(notes, 1.0, 2.0, ringing=True) == [
        Note(0.0, 0.5, 60, 80), Note(0.0, 0.5, 62, 80), Note(0.5, 0.5, 64, 80)
    ]  # fmt: skip
    assert crop_notes(notes, 1.5, 1.75, ringing=True) == [Note(0.0, 0.25, 64, 80)]


def test_separate() -> None:
    notes = [Note(1.0, 1.0, 60, 90), Note(0.0, 5.0, 60, 80), Note(0.5, 0.1, 62, 70), Note(1.0, 2.0, 60, 40)]
    assert separate_notes(notes) == [Note(0.0, 1.0, 60, 80), Note(0.5, 0.1, 62, 70), Note(1.0, 2.0, 60, 90)]


def test_arrays() -> None:
    rng = np.random.default_rng(3)
    notes = [Note(float(a), float(b), int(c), int(d)) for a, b, c, d in rng.uniform(1, 100, (50, 4))]
    assert notes_from_array(notes_to_array(notes)) == notes
    assert notes_to_array([]).shape == (0, 4)
    assert notes_from_array(notes_to_array([])) == []


@pytest.mark.parametrize("note", [
    Note(-0.1, 1, 60, 80), Note(math.nan, 1, 60, 80), Note(0, math.inf, 60, 80), Note(0, -1, 60, 80),
    Note(0, 1, 128, 80), Note(0, 1, -1, 80), Note(0, 1, 60, 0), Note(0, 1, 60, 128), Note(0, 1, 60.5, 80),
    Note(0, 1, 60, math.nan),
])  # fmt: skip
def test_notes_that_cannot_be_played(note: Note) -> None:
    with pytest.raises(ValueError, match="note 1: "):
        check_notes([Note(0, 0, 0, 1), note])
    check_notes([Note(0.0, 0.0, 0, 1), Note(1e4, 1e4, 127, 127)])
