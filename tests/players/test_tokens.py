from __future__ import annotations

import itertools

import numpy as np
import pytest

from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of, separate_notes, voice_of
from stage_cli.core.players.tokens import (
    FIRST_PITCH,
    HELD,
    NOTHING,
    RELEASED,
    BassTokens,
    ChordTokens,
    DrumTokens,
    frames_of,
)

DRUMS, BASS, CHORDS = DrumTokens(), BassTokens(), ChordTokens()
ONSET = 0.0025 + 1e-7
"""Seconds by which an onset may be rounded."""


def _random_notes(
    rng: np.random.Generator, count: int, seconds: float, pitches: list[int], longest: float = 1.5
) -> list[Note]:
    return separate_notes(
        Note(float(onset), float(duration), int(pitch), int(velocity))
        for onset, duration, pitch, velocity in zip(
            rng.uniform(0, seconds, count),
            rng.uniform(0, longest, count),
            rng.choice(pitches, count),
            rng.integers(1, 128, count),
            strict=True,
        )
    )


def _frame(seconds: float) -> int:
    """The frame of a time by the rule in words: rounded to 5 ms, eight of which make a frame."""
    return round(seconds * 1000) // 5 // 8 if (seconds * 200) % 1 == 0 else int(np.floor(seconds * 200 + 0.5)) // 8


@pytest.mark.parametrize("seed", range(5))
def test_drums_come_back(seed: int) -> None:
    """Each stroke, or a louder one of its voice in its frame; times within 2.5 ms, velocities within 8."""
    rng = np.random.default_rng(seed)
    keys = [key for key in range(20, 90) if voice_of(key)]
    notes = _random_notes(rng, 800, 30, keys)
    back = DRUMS.decode(DRUMS.encode(notes, frames_of(30)))
    loudest: dict[tuple[int, str | None], Note] = {}
    for note in notes:
        place = (_frame(note.onset), voice_of(note.pitch))
        if place[0] < 750 and (place not in loudest or note.velocity > loudest[place].velocity):
            loudest[place] = note
    assert len(back) == len(loudest)
    assert len(back) > 600
    for note in back:
        truth = loudest[_frame(note.onset + 1e-6), voice_of(note.pitch)]
        assert abs(note.onset - truth.onset) <= ONSET
        assert abs(note.velocity - truth.velocity) <= 8
        assert voice_of(note.pitch) == voice_of(truth.pitch)


@pytest.mark.parametrize("seed", range(5))
def test_a_bass_line_comes_back(seed: int) -> None:
    """Notes at least 45 ms apart: every onset, pitch and loudness, and ends within a frame."""
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(rng.uniform(0.045, 0.6, 200))
    gaps = np.diff([*onsets, onsets[-1] + 1])
    line = [
        Note(float(onset), float(gap * part), int(pitch), int(velocity))
        for onset, gap, part, pitch, velocity in zip(
            onsets, gaps, rng.uniform(0.05, 1, 200), rng.integers(16, 72, 200), rng.integers(1, 128, 200), strict=True
        )
    ]
    back = BASS.decode(BASS.encode(line, frames_of(line[-1].end) + 1))
    assert [note.pitch for note in back] == [note.pitch for note in line]
    kinds = {"free": 0, "met": 0, "short": 0}
    for note, truth, after in zip(back, line, [*line[1:], Note(99, 1, 40, 1)], strict=True):
        assert abs(note.onset - truth.onset) <= ONSET
        assert abs(note.velocity - truth.velocity) <= 8
        assert note.duration > 0
        begin, end, follows = _frame(truth.onset), _frame(truth.end), _frame(after.onset)
        if begin == end and follows == begin + 1:
            kind, bound = "short", 0.08
        elif end in (begin, follows):
            kind, bound = "met", 0.0425
        else:
            kind, bound = "free", 0.0225
        kinds[kind] += 1
        assert abs(note.end - truth.end) <= bound + 1e-6
    assert kinds["free"] > 100
    assert kinds["met"] > 10


@pytest.mark.parametrize("seed", range(5))
def test_chords_of_up_to_six_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    notes = []
    for onset in np.cumsum(rng.uniform(0.2, 0.8, 60)):
        for pitch in sorted(rng.choice(np.arange(21, 109), rng.integers(1, 7), replace=False)):
            late = float(rng.uniform(0, 0.01))
            notes.append(
                Note(float(onset) + late, float(rng.uniform(0.05, 0.18)), int(pitch), int(rng.integers(1, 128)))
            )
    back = CHORDS.decode(CHORDS.encode(notes, frames_of(60)))
    assert len(back) == len(notes)
    for note, truth in zip(sorted(back, key=_by_pitch_and_beat), sorted(notes, key=_by_pitch_and_beat), strict=True):
        assert note.pitch == truth.pitch
        assert abs(note.onset - truth.onset) <= ONSET
        assert abs(note.velocity - truth.velocity) <= 8
        assert abs(note.end - truth.end) <= 0.0425 + 1e-6


def _by_pitch_and_beat(note: Note) -> tuple[int, float]:
    return note.pitch, note.onset


@pytest.mark.parametrize("tokens", [DRUMS, BASS, CHORDS])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_decoded_is_encoded_the_same(tokens: DrumTokens | BassTokens | ChordTokens, seed: int) -> None:
    """Also where fingers ran out and notes collided: decoding loses nothing that tokens hold."""
    rng = np.random.default_rng(seed)
    notes = _random_notes(rng, 1500, 60, list(range(35, 60)))
    once = tokens.encode(notes, 1500)
    assert np.count_nonzero(once) > 500
    np.testing.assert_array_equal(tokens.encode(tokens.decode(once), 1500), once)


@pytest.mark.parametrize("tokens", [DRUMS, BASS, CHORDS])
def test_any_tokens_can_be_decoded(tokens: DrumTokens | BassTokens | ChordTokens) -> None:
    """A pen that is not trained writes what it likes: HELD without a note, NOTHING in the middle of one."""
    rng = np.random.default_rng(7)
    array = np.where(
        rng.random((500, tokens.columns)) < 0.7,
        rng.integers(0, 3, (500, tokens.columns)),
        rng.integers(0, tokens.vocabulary, (500, tokens.columns)),
    ).astype(np.int16)
    if tokens is DRUMS:
        assert np.count_nonzero(array) == len(tokens.decode(array))
    notes = tokens.decode(array)
    assert notes == sorted(notes)
    assert all(0 <= note.onset < 20 and note.duration > 0 and note.end <= 20 + 0.1 for note in notes)
    assert all(1 <= note.velocity <= 127 for note in notes)
    for pitch in {note.pitch for note in notes}:
        line = [note for note in notes if note.pitch == pitch]
        assert all(a.end <= b.onset + 1e-9 for a, b in itertools.pairwise(line))


@pytest.mark.parametrize("tokens", [DRUMS, BASS, CHORDS])
def test_nothing(tokens: DrumTokens | BassTokens | ChordTokens) -> None:
    array = tokens.encode([], 5)
    assert array.shape == (5, tokens.columns)
    assert array.dtype == np.int16
    assert not array.any()
    assert tokens.decode(array) == []
    assert tokens.encode([], 0).shape == (0, tokens.columns)
    assert tokens.encode([Note(0.5, 0.1, 40, 80)], 5).any() == False  # noqa: E712 - begins after the end


@pytest.mark.parametrize("tokens", [DRUMS, BASS, CHORDS])
def test_split_and_join(tokens: DrumTokens | BassTokens | ChordTokens) -> None:
    array = np.arange(tokens.vocabulary, dtype=np.int16)[:, None].repeat(tokens.columns, axis=1)
    event = tokens.split(array)
    np.testing.assert_array_equal(tokens.join(event), array)
    assert event.loudness.max() == event.place.max() == 7
    assert event.loudness.min() == event.place.min() == 0


def test_a_drum_token_says_loudness_and_place() -> None:
    tokens = DRUMS.encode([Note(0.050, 0.1, 38, 100)], 3)
    # 50 ms: the second frame's third place; 100 is in the seventh of eight loudnesses.
    assert tokens[1, DRUM_VOICES.index("snare")] == 1 + 6 * 8 + 2
    assert np.count_nonzero(tokens) == 1
    event = DRUMS.split(tokens)
    assert (event.struck.sum(), event.loudness[1, 1], event.place[1, 1]) == (1, 6, 2)


def test_what_is_rounded_to_the_next_frame_belongs_to_it() -> None:
    assert DRUMS.encode([Note(0.0374, 0.1, 36, 100)], 3)[0, 0] == 1 + 6 * 8 + 7
    assert DRUMS.encode([Note(0.0376, 0.1, 36, 100)], 3)[1, 0] == 1 + 6 * 8 + 0
    assert not DRUMS.encode([Note(0.1176, 0.1, 36, 100)], 3).any()


def test_the_louder_of_two_strokes_in_a_frame_stays() -> None:
    flam = [Note(0.400, 0.1, 38, 30), Note(0.425, 0.1, 38, 110)]
    for notes in (flam, flam[::-1]):
        assert [(note.onset, note.velocity) for note in DRUMS.decode(DRUMS.encode(notes, 50))] == [(0.425, 104)]
    equal = [Note(0.400, 0.1, 38, 90), Note(0.425, 0.1, 38, 90)]
    assert [note.onset for note in DRUMS.decode(DRUMS.encode(equal[::-1], 50))] == [0.4]


def test_a_roll_survives_at_any_place() -> None:
    """Strokes 40 ms apart, wherever it begins."""
    for start in np.arange(0, 0.04, 0.0005):
        roll = [Note(float(start + 0.04 * number), 0.03, 38, 90) for number in range(16)]
        back = DRUMS.decode(DRUMS.encode(roll, 50))
        assert len(back) == 16
        assert max(abs(a.onset - b.onset) for a, b in zip(back, roll, strict=True)) <= ONSET


def test_keys_of_no_voice_are_left_out() -> None:
    assert not DRUMS.encode([Note(0.0, 0.1, 33, 100), Note(0.0, 0.1, 100, 100)], 5).any()
    assert {voice_of(note.pitch) for note in DRUMS.decode(DRUMS.encode([Note(0, 0.1, 26, 90)], 2))} == {"open_hat"}
    assert all(voice_of(pitch_of(voice)) == voice for voice in DRUM_VOICES)


def test_a_bass_is_struck_held_and_released() -> None:
    tokens = BASS.encode([Note(0.04, 0.15, 28, 100), Note(0.24, 0.01, 33, 100)], 8)
    pitch = FIRST_PITCH + (28 - 16) * 64 + 6 * 8
    short = FIRST_PITCH + (33 - 16) * 64 + 6 * 8
    # 40 to 190 ms: struck in frame 1, and released in frame 4, which begins at 160 ms.
    assert tokens[:, 0].tolist() == [NOTHING, pitch, HELD, HELD, RELEASED, NOTHING, short, NOTHING]
    first, second = BASS.decode(tokens)
    assert (first.onset, first.end) == pytest.approx((0.04, 0.18))
    # It ended in the frame in which it began, so shortly before that frame's end.
    assert (second.onset, second.end) == pytest.approx((0.24, 0.277))


def test_a_bass_plays_one_note_at_a_time() -> None:
    notes = [Note(0.0, 1.0, 28, 100), Note(0.4, 0.2, 40, 60), Note(0.401, 0.4, 43, 90)]
    first, second = BASS.decode(BASS.encode(notes, 50))
    assert (first.pitch, first.end) == pytest.approx((28, 0.4))
    assert (second.pitch, second.velocity) == (43, 88)
    assert second.end == pytest.approx(0.801, abs=0.0225)


def test_legato_stays_legato() -> None:
    line = [Note(0.123 * number, 0.123, 30 + number, 80) for number in range(20)]
    back = BASS.decode(BASS.encode(line, 80))
    assert all(a.end == pytest.approx(b.onset) for a, b in itertools.pairwise(back))


def test_a_note_that_goes_on_sounds_to_the_end() -> None:
    for tokens in (BASS, CHORDS):
        (note,) = tokens.decode(tokens.encode([Note(0.1, 99.0, 40, 80)], 25))
        assert note.end == pytest.approx(1.0)


def test_a_part_of_a_song_is_a_slice() -> None:
    """What sounded before the slice is held in it, and is no stroke."""
    tokens = BASS.encode([Note(0.0, 1.0, 40, 80), Note(1.2, 0.2, 45, 80)], 50)
    assert [note.pitch for note in BASS.decode(tokens[10:])] == [45]


def test_pitches_out_of_range_move_by_octaves() -> None:
    assert [note.pitch for note in BASS.decode(BASS.encode([Note(0, 0.1, 4, 80), Note(0.2, 0.1, 96, 80)], 9))] == [
        16,
        60,
    ]
    assert [note.pitch for note in CHORDS.decode(CHORDS.encode([Note(0, 0.1, 0, 80)], 9))] == [24]


def test_fingers_keep_their_notes() -> None:
    """The lowest free finger takes the lowest new note; held notes stay where they are."""
    notes = [
        Note(0.0, 0.9, 60, 80),
        Note(0.0, 0.3, 64, 80),
        Note(0.0, 0.9, 67, 80),
        Note(0.4, 0.4, 65, 80),
        Note(0.4, 0.4, 72, 80),
    ]
    tokens = CHORDS.encode(notes, 25)
    pitch = CHORDS.split(tokens).pitch + CHORDS.lowest
    assert pitch[0, :3].tolist() == [60, 64, 67]
    assert tokens[10, 0] == tokens[10, 2] == HELD
    assert (pitch[10, 1], pitch[10, 3]) == (65, 72)
    assert CHORDS.encode(notes[::-1], 25).tolist() == tokens.tolist()


def test_the_quietest_inner_note_is_left_out_of_seven() -> None:
    chord = [Note(0.0, 0.5, pitch, velocity) for pitch, velocity in
             ((40, 10), (47, 90), (52, 50), (56, 40), (59, 70), (64, 80), (68, 20))]  # fmt: skip
    assert [note.pitch for note in CHORDS.decode(CHORDS.encode(chord, 25))] == [40, 47, 52, 59, 64, 68]


def test_a_quiet_held_note_makes_room() -> None:
    held = [Note(0.0, 2.0, pitch, 40 + pitch) for pitch in (40, 45, 50, 55, 60, 65)]
    back = CHORDS.decode(CHORDS.encode([*held, Note(1.0, 0.5, 70, 120)], 100))
    ends = {note.pitch: note.end for note in back}
    assert ends[45] == pytest.approx(1.0, abs=0.0225)
    assert all(ends[pitch] == pytest.approx(2.0, abs=0.0225) for pitch in (40, 50, 55, 60, 65))
    assert ends[70] == pytest.approx(1.5, abs=0.0225)


def test_a_key_struck_again_ends_its_note() -> None:
    back = CHORDS.decode(CHORDS.encode([Note(0.0, 2.0, 60, 80), Note(0.5, 0.5, 60, 80)], 100))
    assert [(note.onset, note.pitch) for note in back] == [(0.0, 60), (0.5, 60)]
    assert back[0].end <= 0.5


@pytest.mark.parametrize(("tokens", "array"), [
    (DRUMS, np.full((4, 12), 65)), (DRUMS, np.zeros((4, 11))), (BASS, np.full((4, 1), -1)), (BASS, np.zeros(4)),
    (CHORDS, np.full((4, 6), 5635)),
])  # fmt: skip
def test_wrong_tokens(tokens: DrumTokens | BassTokens | ChordTokens, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="tokens must be"):
        tokens.decode(array.astype(np.int16))


def test_frames_of() -> None:
    assert [frames_of(seconds) for seconds in (0, 0.04, 0.041, 10, 0.1 + 0.2)] == [0, 1, 2, 250, 8]
