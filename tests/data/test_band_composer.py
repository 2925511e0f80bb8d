"""What the composer writes: music that keeps its own rules, and another song each time."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stage_cli.core.band.composer import compose, hire_players
from stage_cli.core.band.grooves import GROOVES, LIKELIHOOD
from stage_cli.core.band.instruments import CLOSED_HAT, INSTRUMENTS, KICK, OPEN_HAT, SNARE
from stage_cli.core.band.score import METERS, Feel, Score
from stage_cli.core.band.styles import styles
from stage_cli.core.band.theory import MODES, PROGRESSIONS, Chord, chord, nearest_pitch, progression, voicing
from stage_cli.core.stems import STEMS

SEED = 2024


@pytest.fixture(scope="module")
def songs() -> list[Score]:
    return [compose(SEED, index, 24.0) for index in range(200)]


def median_bpm(song: Score) -> float:
    return float(np.median(60 / np.diff(song.beat_times)))


@pytest.mark.parametrize("seconds", [3.0, 17.3, 40.0])
def test_a_shorter_song_is_the_beginning_of_a_longer_one(seconds: float) -> None:
    for index in range(12):
        whole, part = compose(SEED, index, 90.0), compose(SEED, index, seconds)
        assert part == whole.crop(seconds)
        assert all(note.onset < seconds for part in part.parts for note in part.notes)


def test_a_song_depends_on_its_seed_and_index_only() -> None:
    assert compose(1, 7, 20.0) == compose(1, 7, 20.0)
    assert len({compose(seed, index, 10.0).parts for seed in (1, 2) for index in range(5)}) == 10


def test_a_long_song_goes_on_to_its_end() -> None:
    song = compose(SEED, 3, 400.0)
    assert song.beat_times[-1] > 399
    assert max(note.onset for part in song.parts for note in part.notes) > 395
    assert len(song.sections) > 10


def test_tempo_is_in_range_and_spread(songs: list[Score]) -> None:
    tempos = np.array([median_bpm(song) for song in songs])
    assert tempos.min() >= 70
    assert tempos.max() <= 180
    assert np.ptp(np.percentile(tempos, [10, 90])) > 40


def test_tempo_is_constant_unless_it_is_meant_to_change() -> None:
    for index in range(20):
        steady = np.diff(compose(SEED, index, 60.0, tempo_changes="never").beat_times)
        np.testing.assert_allclose(steady, steady[0], rtol=0, atol=1e-9)
    changed = 0
    for index in range(20):
        song = compose(SEED, index, 120.0, tempo_changes="always")
        starts = [section.first_bar * song.meter.beats_per_bar for section in song.sections]
        tempos = [60 / (song.beat_times[beat + 1] - song.beat_times[beat]) for beat in starts[:-1]]
        changed += max(tempos) / min(tempos) > 1.02
        assert min(tempos) >= 69.9
        assert max(tempos) <= 180.1
    assert changed >= 17


def test_every_meter_and_swing_is_there(songs: list[Score]) -> None:
    meters = Counter(song.meter.name for song in songs)
    assert meters["3/4"] >= 8
    assert meters["6/8"] >= 6
    assert meters["4/4"] >= 120
    assert 0.2 < np.mean([song.swing > 0.5 for song in songs]) < 0.6
    assert len({song.style for song in songs}) >= 24
    assert {song.key.scale for song in songs} == {"major", "minor"}
    assert len({song.key.tonic for song in songs}) == 12


def test_two_songs_rarely_share_a_groove(songs: list[Score]) -> None:
    """Alike: nine tenths of the strokes of two bars (ghost notes left out) are common to both."""
    pairs = list(itertools.combinations([song.groove for song in songs], 2))
    alike = np.mean([len(one & other) >= 0.9 * len(one | other) for one, other in pairs])
    assert alike < 0.01
    backbeats = [frozenset(hit for hit in song.groove if hit[0] in (KICK, SNARE)) for song in songs]
    same = np.mean([one == other for one, other in itertools.combinations(backbeats, 2)])
    assert same < 0.03


def test_drums_have_ghost_notes_dynamics_and_fills(songs: list[Score]) -> None:
    drums = [next(part for part in song.parts if part.stem == "drums") for song in songs]
    snares = [[note.velocity for note in part.notes if note.pitch == SNARE] for part in drums]
    assert np.mean([min(strokes, default=1) < 0.4 < max(strokes, default=0) for strokes in snares]) > 0.3
    keys = Counter(note.pitch for part in drums for note in part.notes)
    assert len(keys) >= 12
    assert keys[CLOSED_HAT] > keys[OPEN_HAT] > 0
    # Two bars of a groove repeat, but the part does not.
    long = compose(SEED, 0, 60.0)
    steps = long.meter.beats_per_bar
    bars = Counter(
        frozenset((note.pitch, round(note.beat % steps, 3)) for note in drum.notes if note.beat // steps == bar)
        for drum in long.parts
        if drum.stem == "drums"
        for bar in range(int(long.beat_times[-1] * long.bpm / 60) // steps)
    )
    assert len(bars) > 3


def test_bass_plays_the_chord(songs: list[Score]) -> None:
    """On the first beat of a chord most bass notes are its root; nearly all notes belong to the key or the chord."""
    roots, inside, count, total = 0, 0, 0, 0
    for song in songs:
        starts = {span.beat: span.chord for span in song.chords}
        for note in (note for part in song.parts if part.stem == "bass" for note in part.notes):
            spans = [span for span in song.chords if span.beat <= note.beat + 1e-6]
            total += 1
            inside += note.pitch % 12 in {*song.key.pitch_classes, *spans[-1].chord.pitch_classes}
            if note.beat in starts:
                count += 1
                roots += note.pitch % 12 == starts[note.beat].root
    assert count > 1000
    assert roots / count > 0.9
    assert inside / total > 0.9


def test_melodies_stay_in_key_and_range(songs: list[Score]) -> None:
    inside, total = 0, 0
    for song in songs:
        for part in song.parts:
            known = INSTRUMENTS[part.instrument]
            pitches = [note.pitch for note in part.notes]
            if part.stem in ("vocals", "wind") and pitches:
                assert known.lowest - 1 <= min(pitches)
                assert max(pitches) <= known.highest + 5
            if part.name == "singer":
                chords = {pitch for span in song.chords for pitch in span.chord.pitch_classes}
                inside += sum(pitch % 12 in {*song.key.pitch_classes, *chords} for pitch in pitches)
                total += len(pitches)
    assert inside / total > 0.98


def test_instruments_enter_and_leave() -> None:
    entering = 0
    for index in range(30):
        song = compose(SEED, index, 150.0)
        bounds = [section.first_bar * song.meter.beats_per_bar for section in song.sections]
        for part in song.parts:
            counts = [sum(begin <= note.beat < end for note in part.notes) for begin, end in itertools.pairwise(bounds)]
            entering += any(counts) and not all(counts)
        assert len({section.kind for section in song.sections}) >= 2
    assert entering >= 30


def test_every_song_has_drums_bass_and_chords(songs: list[Score]) -> None:
    for song in songs:
        stems = {part.stem for part in song.parts}
        assert {"drums", "bass"} <= stems <= set(STEMS)
        assert stems & {"guitar", "piano", "other_keys", "bowed_strings", "other_plucked", "percussion", "vocals"}
    heard = [{part.stem for part in song.parts if part.notes} for song in songs]
    assert np.mean(["drums" in stems for stems in heard]) > 0.95
    assert np.mean(["bass" in stems for stems in heard]) > 0.95
    assert np.mean([len(stems) >= 3 for stems in heard]) > 0.95


def test_beats_are_exact_and_notes_near_them(songs: list[Score]) -> None:
    """A player is a few milliseconds early or late, not more: timing of beats does not drift from the annotation."""
    for song in songs[:60]:
        times = np.array(song.beat_times)
        on_beat = [
            (note.onset, round(note.beat))
            for part in song.parts
            if part.stem in ("drums", "bass")
            for note in part.notes
            if abs(note.beat - round(note.beat)) < 1e-9 and round(note.beat) < len(times)
        ]
        late = np.array([onset - times[beat] for onset, beat in on_beat])
        assert np.abs(late).max() < 0.04
        assert abs(np.median(late)) < 0.01


def test_swing_moves_offbeats_and_leaves_beats() -> None:
    feel = Feel(2 / 3, 1.0, 0.0)
    np.testing.assert_allclose(feel.warp(np.array([0, 0.5, 1, 1.5, 3])), [0, 2 / 3, 1, 5 / 3, 3])
    sixteenths = Feel(0.6, 0.5, 0.0)
    np.testing.assert_allclose(sixteenths.warp(np.array([0, 0.25, 0.5, 0.75])), [0, 0.3, 0.5, 0.8])


def test_roman_numerals() -> None:
    assert chord("I", 0) == Chord(0, "maj")
    assert chord("bVII", 2) == Chord(0, "maj")
    assert chord("ii7", 0) == Chord(2, "min7")
    assert chord("V7", 7) == Chord(2, "7")
    assert chord("iim7b5", 9) == Chord(11, "m7b5")
    assert progression("I V | vi", 0) == [[Chord(0, "maj"), Chord(7, "maj")], [Chord(9, "min")]]
    with pytest.raises(ValueError, match="not a chord's numeral: 'H7'"):
        chord("H7", 0)


def test_voicings_move_little() -> None:
    previous: tuple[int, ...] = ()
    for tones in (Chord(0, "maj"), Chord(9, "min"), Chord(5, "maj7"), Chord(7, "7")):
        notes = voicing(tones, previous, 60, 3)
        assert {note % 12 for note in notes} <= set(tones.pitch_classes)
        assert sorted(notes) == list(notes)
        if previous:
            assert abs(np.mean(notes) - np.mean(previous)) < 5
        previous = notes
    assert nearest_pitch(11, 60) == 59


def test_the_tables_name_what_exists() -> None:
    for style in styles():
        meter = METERS[style.meter]
        assert set(style.grooves) <= set(GROOVES)
        assert set(style.modes) <= set(MODES)
        assert set(style.modes) & set(PROGRESSIONS[style.harmony]) or style.harmony not in ("blues", "jazz", "metal")
        assert 70 <= style.tempo[0] < style.tempo[1] <= 180
        assert all(name in INSTRUMENTS for role in style.roles for name in role.instruments)
        for name in style.grooves:
            patterns = (*GROOVES[name].kicks, *GROOVES[name].snares, *GROOVES[name].toms)
            assert {len(pattern) for pattern in patterns} == {meter.steps_per_bar}, name
            assert set("".join(patterns)) <= set(LIKELIHOOD)
        assert any(player.role == "bass" for player in hire_players((0, 0), style))
    for family in PROGRESSIONS.values():
        for known in family.values():
            for text in known:
                assert progression(text, 0)


def test_crop_keeps_what_it_does_not_cut() -> None:
    song = compose(SEED, 1, 30.0)
    assert song.crop(30.0) == song
    assert replace(song.crop(10.0), duration=0).beat_times == tuple(t for t in song.beat_times if t < 10)
