from __future__ import annotations

import itertools

import numpy as np
import pytest

from stage_cli.core.music.beats import BeatGrid, constant_grid
from stage_cli.core.music.notes import Note, pitch_of
from stage_cli.core.players.steering import (
    UNKNOWN,
    bar_edges,
    bar_features,
    beat_positions,
    density,
    density_class,
    loudness,
    loudness_class,
    strokes,
    swing_class,
    swing_ratio,
)

GRID = constant_grid(120, 4, 16.0)
"""Eight bars of 2 s."""


def _hit(voice: str, beat: float, velocity: int = 80) -> Note:
    return Note(beat * 0.5, 0.1, pitch_of(voice), velocity)


def _groove(bars: int, first: int = 0) -> list[Note]:
    """Kick on 1 and 3, snare on 2 and 4, eighths on the hi-hat: twelve strokes a bar, three a beat."""
    notes = []
    for beat in range(4 * first, 4 * (first + bars)):
        notes.append(_hit("snare" if beat % 2 else "kick", beat))
        notes.extend(_hit("closed_hat", beat + half) for half in (0, 0.5))
    return notes


def test_bar_edges() -> None:
    assert bar_edges(GRID, 16.0).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    upbeat = BeatGrid((0.5, 1.0, 1.5, 2.0, 2.5, 3.0), (1.0, 2.5))
    assert bar_edges(upbeat, 3.2).tolist() == [0, 1.0, 2.5, 3.2]
    assert bar_edges(None, 5.0).tolist() == [0, 2, 4, 5]
    assert bar_edges(BeatGrid((), ()), 5.0).tolist() == [0, 2, 4, 5]
    assert bar_edges(BeatGrid((0.0, 1.0, 2.0, 3.0, 4.0), ()), 5.0).tolist() == [0, 4, 5]


def test_beat_positions() -> None:
    grid = BeatGrid((1.0, 1.5, 2.5), ())
    assert beat_positions(grid, np.array([0.5, 1.0, 1.25, 1.75, 2.5, 3.5])) == pytest.approx([-1, 0, 0.5, 1.25, 2, 3])
    assert beat_positions(None, np.array([1.0])) == pytest.approx([2.0])


def test_density_and_loudness_of_a_groove() -> None:
    notes = _groove(8)
    bars = bar_features(notes, GRID, 16.0, stem="drums")
    assert bars.beats == pytest.approx([4] * 8)
    assert bars.density == pytest.approx([3.0] * 8)
    assert bars.loudness == pytest.approx([80] * 8)
    assert bars.present.all()
    assert not bars.fill.any()
    assert density(notes, GRID, 2.0, 6.0, stem="drums") == pytest.approx(3.0)
    assert loudness(notes) == 80
    assert np.isnan(loudness([]))


def test_notes_of_a_chord_are_one_stroke() -> None:
    chord = [Note(1.0 + 0.005 * finger, 1.0, 60 + finger, 80) for finger in range(6)]
    assert strokes(chord, "guitar").tolist() == [1.0]
    assert len(strokes(chord, "drums")) == 6
    assert bar_features(chord, GRID, 16.0, stem="guitar").density[0] == pytest.approx(0.25)


def test_a_pause_is_a_run_of_bars_without_strokes() -> None:
    bars = bar_features([*_groove(2), *_groove(3, first=4)], GRID, 16.0, stem="drums")
    assert bars.present.tolist() == [True, True, False, False, True, True, True, False]
    assert np.isnan(bars.loudness[2])
    assert bars.density[2] == 0


def test_a_stroke_just_before_the_bar_line_belongs_to_the_bar() -> None:
    bars = bar_features([_hit("kick", 7.95)], GRID, 16.0, stem="drums")
    assert bars.present.tolist() == [False, False, True, *[False] * 5]
    bars = bar_features([_hit("kick", 7.85)], GRID, 16.0, stem="drums")
    assert bars.present.tolist() == [False, True, *[False] * 6]


def test_a_long_note_is_no_pause() -> None:
    """From 1 s for 6.5 s: struck in the first bar, sounds in half of the bars up to 8 s."""
    pad = [Note(1.0, 3.0, 60, 80), Note(1.0, 6.5, 64, 80), Note(12.0, 0.1, 64, 80)]
    bars = bar_features(pad, GRID, 16.0, stem="piano")
    assert bars.present.tolist() == [True, True, True, True, False, False, True, False]
    assert bar_features(pad, GRID, 16.0, stem="drums").present.tolist() == [True, *[False] * 5, True, False]


def test_a_fill_is_found() -> None:
    """The second half of the fourth bar goes round the toms in sixteenths."""
    fill = [_hit(voice, 14 + number / 4) for number, voice in enumerate(
        ("snare", "snare", "high_tom", "high_tom", "mid_tom", "mid_tom", "low_tom", "low_tom")
    )]  # fmt: skip
    notes = [note for note in _groove(8) if not 7.0 <= note.onset < 8.0]
    bars = bar_features([*notes, *fill], GRID, 16.0, stem="drums")
    assert bars.fill.tolist() == [False, False, False, True, False, False, False, False]
    assert not bar_features([*notes, *fill], GRID, 16.0, stem="percussion").fill.any()


def test_a_snare_roll_is_a_fill_and_a_ghost_note_is_none() -> None:
    roll = [_hit("snare", 30 + number / 4) for number in range(8)]
    ghosts = [_hit("snare", 4 * bar + 2.75, 30) for bar in (1, 3)]
    bars = bar_features([*_groove(8), *roll, *ghosts], GRID, 16.0, stem="drums")
    assert bars.fill.tolist() == [False] * 7 + [True]


def test_a_groove_on_toms_is_no_fill() -> None:
    toms = [_hit("low_tom", beat / 2) for beat in range(64)]
    assert not bar_features(toms, GRID, 16.0, stem="drums").fill.any()
    assert not bar_features(toms[:8], GRID, 16.0, stem="drums").fill.any()


@pytest.mark.parametrize(("place", "ratio", "kind"), [(0.5, 1.0, 1), (0.58, 1.381, 2), (2 / 3, 2.0, 3)])
@pytest.mark.parametrize("late", [-0.03, 0.0, 0.02])
def test_swing(place: float, ratio: float, kind: int, late: float) -> None:
    """Also of a drummer who plays ahead of the beat, or behind it."""
    rng = np.random.default_rng(0)
    notes = [
        _hit("ride", 1 + beat + part + 2 * late + float(rng.normal(0, 0.005)))
        for beat in range(28)
        for part in (0.0, place)
    ]
    measured = swing_ratio(notes, GRID)
    assert measured == pytest.approx(ratio, rel=0.03)
    assert swing_class(measured) == kind


def test_swing_of_a_tempo_that_changes() -> None:
    beats = np.cumsum(np.linspace(0.4, 0.9, 30))
    notes = [
        Note(float(at + part * (after - at)), 0.1, 51, 80)
        for at, after in itertools.pairwise(beats)
        for part in (0, 2 / 3)
    ]
    assert swing_ratio(notes, BeatGrid(tuple(beats.tolist()), ())) == pytest.approx(2.0, rel=0.01)


def test_what_does_not_tell_swing() -> None:
    sixteenths = [_hit("closed_hat", number / 4) for number in range(120)]
    triplets = [_hit("closed_hat", number / 3) for number in range(90)]
    quarters = [_hit("closed_hat", number) for number in range(30)]
    for notes in (sixteenths, triplets, quarters, _groove(1), []):
        assert np.isnan(swing_ratio(notes, GRID))
    assert np.isnan(swing_ratio(_groove(8), None))
    assert swing_class(float("nan")) == UNKNOWN


def test_classes() -> None:
    assert density_class(np.array([np.nan, 0, 2.5, 4, 6, 9]), "drums").tolist() == [0, 1, 2, 3, 4, 5]
    assert density_class(np.array([0.2, 0.7, 1.5, 2, 4]), "bass").tolist() == [1, 2, 3, 4, 5]
    assert loudness_class(np.array([np.nan, 1, 60, 70, 80, 127])).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stem", ["drums", "bass", "piano"])
@pytest.mark.parametrize("grid", [None, BeatGrid((), ()), BeatGrid((3.0,), (3.0,)), GRID])
def test_no_notes(stem: str, grid: BeatGrid | None) -> None:
    bars = bar_features([], grid, 16.0, stem=stem)
    assert not bars.present.any()
    assert not bars.density.any()
    assert (loudness_class(bars.loudness) == UNKNOWN).all()
    assert len(bars.start) == len(bars.fill) >= 2
