"""Training items: what is heard and what is written belong together, however the song is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stage_cli.core.music.notes import DRUM_VOICES
from stage_cli.core.players.config import STROKES, TAGS, ItemSettings, PlayerConfig
from stage_cli.core.players.drummers import NotatedPerformance, swing_of
from stage_cli.core.players.features import FLOOR_DB
from stage_cli.core.players.items import density_levels, disturbed, draw_item, encode, fills
from stage_cli.core.players.store import StoredPart, StoredSong, read_song, write_song

CONFIG = PlayerConfig()
PLAIN = ItemSettings(
    grid=1.0,
    downbeats=1.0,
    other_level=0.0,
    metronome=0.0,
    no_context=0.0,
    one_part=0.0,
    with_drums=0.0,
    known=0.0,
    hidden=0.0,
    tag=0.0,
    drummer=0.0,
)


@pytest.fixture
def song() -> StoredSong:
    """A bass and a kick on every beat of 120 bpm."""
    beats = np.arange(0.25, 24, 0.5)
    level = np.full((1200, 72), FLOOR_DB, np.float16)
    for beat in beats:
        level[round(beat * 50) : round(beat * 50) + 3, :10] = -20
    kicks = np.stack([beats, np.full(48, 0.1), np.full(48, 36), np.full(48, 100)], axis=1).astype(np.float32)
    empty = np.zeros((0, 4), np.float32)
    parts = (
        StoredPart("drums", "drums", "drums", level, kicks),
        StoredPart("bass", "bass", "finger bass", level, empty),
    )
    return StoredSong("a", parts, beats, beats[::4], 4, 0.5, "rock", 24.0)


def _performance(bpm: float = 125.0) -> NotatedPerformance:
    beats = np.arange(0, 64, 0.5)
    strokes = np.stack([beats + 0.01, np.full(len(beats), 42), np.full(len(beats), 80)], axis=1)
    return NotatedPerformance("groove", "rock", bpm, strokes, 64, swings=False)


@pytest.mark.parametrize("seed", range(8))
def test_strokes_beats_and_sound_stay_together(song: StoredSong, seed: int) -> None:
    item = draw_item(song, (), PLAIN, CONFIG, np.random.default_rng(seed))
    steps, _ = item["target"].nonzero()
    places = steps + (item["target"][item["target"] > 0] - 1) % 8 / 8
    told = item["beats"].reshape(512, 2)[:, 0]
    for place in places[(places > 1) & (places < 254)]:
        frame = round(float(place) * 2)
        assert told[max(0, frame - 1) : frame + 2].max() > 0.6
        assert item["grid"][max(0, frame - 1) : frame + 2, 0].max() > 0.45


def test_an_item_depends_on_its_generator_alone(song: StoredSong) -> None:
    first, again, other = (
        draw_item(song, [_performance()], ItemSettings(), CONFIG, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["heard"], other["heard"])


def test_shapes_and_ranges(song: StoredSong) -> None:
    for seed in range(30):
        item = draw_item(song, [_performance()], ItemSettings(), CONFIG, np.random.default_rng(seed))
        assert item["heard"].shape == (512, 72)
        assert item["heard"].min() >= -7
        assert np.isfinite(item["heard"]).all()
        assert np.isfinite(item["grid"]).all()
        assert item["target"].shape == (256, 12)
        assert 0 <= item["target"].min() <= item["target"].max() <= STROKES
        assert np.array_equal(item["past"][1:], item["target"][:-1])
        assert (item["known"] == item["target"] * item["is_known"][:, None]).all()
        assert not item["weight"][item["is_known"]].any()
        assert (item["tags"] <= np.array(list(TAGS.values()))).all()


def test_beats_teach_only_where_they_are_not_shown(song: StoredSong) -> None:
    shown = draw_item(song, (), PLAIN, CONFIG, np.random.default_rng(0))
    beats_only = draw_item(song, (), replace(PLAIN, downbeats=0.0), CONFIG, np.random.default_rng(0))
    hidden = draw_item(song, (), replace(PLAIN, grid=0.0), CONFIG, np.random.default_rng(0))
    assert shown["beat_weight"].tolist() == [0, 0, 0, 0]
    assert beats_only["beat_weight"].tolist() == [0, 1, 0, 1]
    assert hidden["beat_weight"].tolist() == [1, 1, 1, 1]
    assert not hidden["grid"].any()
    assert not beats_only["grid"][:, 1].any()


def test_a_drummer_plays_on_the_songs_beats(song: StoredSong) -> None:
    settings = replace(PLAIN, drummer=1.0)
    item = draw_item(song, [_performance()], settings, CONFIG, np.random.default_rng(3))
    hats = item["target"][:, DRUM_VOICES.index("closed_hat")]
    assert (hats > 0).sum() > 20
    assert not item["target"][:, DRUM_VOICES.index("kick")].any()
    # Two strokes a beat; those on the beat are near the shown pulses.
    pulses = item["grid"].reshape(256, 2, -1)[:, :, 0].max(axis=1) > 0.4
    near = pulses | np.roll(pulses, 1) | np.roll(pulses, -1)
    assert 0.4 < near[hats > 0].mean() < 0.9


def test_a_recording_without_notes_teaches_beats_only(song: StoredSong) -> None:
    drums = replace(song.parts[0], notes=np.zeros((0, 4), np.float32))
    recording = replace(song, has_notes=False, parts=(drums, song.parts[1]), beats_per_bar=3)
    item = draw_item(recording, [_performance()], PLAIN, CONFIG, np.random.default_rng(0))
    assert not item["weight"].any()
    assert not item["target"].any()


def test_no_performance_fits_another_metre_tempo_or_style(song: StoredSong) -> None:
    settings = replace(PLAIN, drummer=1.0)
    for unfit, wrong in (
        (replace(song, beats_per_bar=3), _performance()),
        (song, _performance(bpm=250.0)),
        (replace(song, style="reggae"), _performance()),
        (song, replace(_performance(), swings=True)),
    ):
        item = draw_item(unfit, [wrong], settings, CONFIG, np.random.default_rng(0))
        assert not item["target"][:, DRUM_VOICES.index("closed_hat")].any()


def test_tokens_are_those_of_the_token_codec() -> None:
    from stage_cli.core.music.notes import Note, pitch_of
    from stage_cli.core.players.tokens import DrumTokens

    rng = np.random.default_rng(0)
    voices = rng.integers(0, 12, 200)
    times, velocities = np.sort(rng.uniform(0, 9.9, 200)), rng.integers(1, 128, 200)
    notes = [
        Note(float(t), 0.1, pitch_of(DRUM_VOICES[v]), int(w)) for t, v, w in zip(times, voices, velocities, strict=True)
    ]
    expected = DrumTokens().encode(notes, frames=250)
    found = encode(np.stack([times, voices, velocities], axis=1), 250)
    assert (found != expected).mean() < 0.001  # of two equally loud strokes in one place either may stay


def test_density_counts_strokes_a_beat() -> None:
    onsets = np.arange(0, 10.24, 0.25)
    assert set(density_levels(onsets, 0.5, 256)[10:-10]) == {4}
    assert set(density_levels(np.zeros(0), 0.5, 256)) == {1}


def test_a_fill_is_toms_and_snares_in_a_row() -> None:
    tom = DRUM_VOICES.index("mid_tom")
    strokes = np.array([[5 + at * 0.125, tom, 90] for at in range(6)])
    told = fills(strokes, 0.5, 256)
    assert told[130:144].all()
    assert not told[:100].any()
    backbeat = np.array([[at, DRUM_VOICES.index("snare"), 100] for at in range(10)], float)
    assert not fills(backbeat, 0.5, 256).any()


def test_swing_is_measured_on_the_second_eighths() -> None:
    beats = np.arange(0, 32, 1.0)
    assert swing_of(np.concatenate([beats, beats + 0.5])) == 0.5
    assert swing_of(np.concatenate([beats, beats + 0.66])) == pytest.approx(0.66)


def test_silence_and_extremes_stay_finite() -> None:
    rng = np.random.default_rng(0)
    for level in (np.full((512, 72), FLOOR_DB, np.float32), np.full((512, 72), 30, np.float32)):
        for _ in range(20):
            assert np.isfinite(disturbed(level, rng)).all()


def test_a_stored_song_comes_back(tmp_path: Path, song: StoredSong) -> None:
    write_song(tmp_path / "7-00001.npz", replace(song, drummer="d/1.mid"))
    found = read_song(tmp_path / "7-00001.npz")
    assert (found.name, found.drummer, found.style, found.beats_per_bar) == ("7-00001", "d/1.mid", "rock", 4)
    assert np.array_equal(found.parts[0].level, song.parts[0].level)
    assert np.array_equal(found.parts[0].notes, song.parts[0].notes)
    assert np.array_equal(found.beats, song.beats)
    assert [path.name for path in tmp_path.iterdir()] == ["7-00001.npz"]
