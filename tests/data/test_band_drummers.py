"""Human drummers in composed songs: what they played is what the song has, and the band goes with them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data.midi_songs import rock_groove, write_drummers, write_info, write_strokes
from stage_cli.core.band.composer import compose
from stage_cli.core.band.instruments import CRASH, DRUM_TRACKS, KICK, SECOND_CRASH, SNARE
from stage_cli.core.band.performances import DrumLibrary, DrumPerformance, open_drummers
from stage_cli.core.band.score import FOUR_FOUR, SIX_EIGHT, Feel, Score
from stage_cli.errors import UsageError

SEED = 5
SONGS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groove")
    write_drummers(folder)
    return folder


@pytest.fixture(scope="module")
def library(folder: Path) -> DrumLibrary:
    return DrumLibrary.open(folder)


@pytest.fixture(scope="module")
def songs(library: DrumLibrary) -> list[Score]:
    played = [compose(SEED, index, 30.0, drummers=library) for index in range(SONGS)]
    return [song for song in played if song.drummer]


def only(folder: Path) -> DrumPerformance:
    library = DrumLibrary.open(folder)
    performance = library.performance(library.files[0])
    assert performance is not None
    return performance


def deviations(song: Score) -> list[tuple[int, float, float, float]]:
    """(key, place in the bar, deviation in beats, velocity) of a song's drum strokes, from its times in seconds."""
    feel = Feel(song.swing, song.swing_unit, 0.0)
    times = np.array(song.beat_times)
    found = []
    for part in song.parts:
        for note in part.notes if part.stem == "drums" else ():
            if times[0] < note.onset < times[-1]:
                beat = float(np.interp(note.onset, times, np.arange(len(times))))
                late = beat - float(feel.warp(np.array([note.beat]))[0])
                found.append((note.pitch, round(note.beat % 4, 3), late, note.velocity))
    return found


def test_a_stretched_performance_keeps_its_timing_and_loudness(songs: list[Score], library: DrumLibrary) -> None:
    """Every stroke is one that the drummer played there, as far off its place in beats, and exactly as loud."""
    assert len(songs) >= 6
    stretched = kept = total = 0
    for song in songs:
        by_path = {file.path: file for file in library.files}
        stretched += abs(by_path[song.drummer].bpm / song.bpm - 1) > 0.02
        played: dict[tuple[int, float], list[tuple[float, float]]] = defaultdict(list)
        for file in library.files:
            performance = library.performance(file)
            for stroke in (stroke for bar in performance.bars for stroke in bar) if performance else ():
                played[stroke.key, round(stroke.beat, 3)].append((stroke.deviation, stroke.velocity))
        for key, place, late, velocity in deviations(song):
            total += 1
            kept += any(abs(late - there) < 2e-3 and abs(velocity - loud) < 1e-6 for there, loud in played[key, place])
    assert stretched > len(songs) / 2
    # What is added: crashes, snare rolls of a build, rims for snares.
    assert kept / total > 0.95


def test_tempo_is_within_fifteen_percent(songs: list[Score], library: DrumLibrary) -> None:
    by_path = {file.path: file for file in library.files}
    for song in songs:
        ratio = by_path[song.drummer].bpm / song.bpm
        assert 1 / 1.15 <= ratio <= 1.15
        assert song.meter.name == "4/4"


def test_loudness_is_spread_as_the_drummer_spreads_it(songs: list[Score], library: DrumLibrary) -> None:
    """The standard deviation of velocities in songs lies within that of the drummer's own performances."""
    own = [
        float(np.std([stroke.velocity for bar in performance.bars for stroke in bar]))
        for performance in (library.performance(file) for file in library.files if not file.fill)
        if performance
    ]
    spreads = []
    for song in songs:
        crashes = (CRASH, SECOND_CRASH)
        notes = [n for part in song.parts if part.stem == "drums" for n in part.notes if n.pitch not in crashes]
        toms = any(note.pitch in DRUM_TRACKS["toms"] for note in notes)
        if len(notes) > 150 and not toms:
            spreads.append(float(np.std([note.velocity for note in notes])))
    assert len(spreads) >= 3
    assert min(own) - 0.03 < min(spreads)
    assert max(spreads) < max(own) + 0.03


def kicks_with_bass(song: Score) -> float | None:
    """Share of a song's kicks on which the bass begins a note, within 15 ms."""
    kicks = np.array([n.onset for part in song.parts if part.stem == "drums" for n in part.notes if n.pitch == KICK])
    bass = np.array([note.onset for part in song.parts if part.stem == "bass" for note in part.notes])
    if len(kicks) < 8 or len(bass) < 8:
        return None
    return float((np.abs(kicks[:, None] - bass[None]).min(axis=1) < 0.015).mean())


def test_the_bass_is_with_the_kick(library: DrumLibrary) -> None:
    """More of the kicks have a bass note than in the same songs with invented drums, whose timing is tighter."""
    pairs = []
    for index in range(SONGS):
        human = compose(SEED, index, 30.0, drummers=library)
        if human.drummer:
            shares = kicks_with_bass(human), kicks_with_bass(compose(SEED, index, 30.0))
            if None not in shares:
                pairs.append(shares)
    human, invented = np.array(pairs).mean(axis=0)
    assert human > invented + 0.05
    assert human > 0.6


def test_a_bass_note_on_a_kick_takes_its_timing(songs: list[Score]) -> None:
    """Of bass notes that share a sixteenth with a kick, the distance is a few milliseconds, less than the drummer's."""
    distances, late = [], []
    for song in songs:
        kicks = {
            round(note.beat, 3): note.onset
            for part in song.parts
            if part.stem == "drums"
            for note in part.notes
            if note.pitch == KICK
        }
        feel, times = Feel(song.swing, song.swing_unit, 0.0), np.array(song.beat_times)
        for note in (note for part in song.parts if part.stem == "bass" for note in part.notes):
            if round(note.beat, 3) in kicks and note.beat < len(times) - 1:
                onset = kicks[round(note.beat, 3)]
                distances.append(note.onset - onset)
                grid = np.interp(feel.warp(np.array([note.beat])), np.arange(len(times)), times)
                late.append(onset - float(grid[0]))
    assert len(distances) > 150
    assert np.std(distances) < 0.6 * np.std(late)


def test_fills_lead_to_sections(songs: list[Score]) -> None:
    """The toms are played in the drummer's fills only, and those stand at the ends of sections and phrases."""
    ends = inside = 0
    for song in songs:
        last_bars = {section.first_bar + section.bars - 1 for section in song.sections}
        for note in (note for part in song.parts if part.stem == "drums" for note in part.notes):
            if note.pitch in DRUM_TRACKS["toms"]:
                bar = int(note.beat // 4)
                ends += bar in last_bars
                inside += bar not in last_bars and not any(
                    (bar - section.first_bar + 1) % 4 == 0
                    for section in song.sections
                    if section.first_bar <= bar < section.first_bar + section.bars
                )
    assert ends >= 12
    assert inside == 0


def test_the_same_folder_gives_the_same_songs(folder: Path, library: DrumLibrary) -> None:
    again = DrumLibrary.open(folder)
    assert again.fingerprint == library.fingerprint
    for index in reversed(range(12)):
        assert compose(SEED, index, 12.0, drummers=again) == compose(SEED, index, 30.0, drummers=library).crop(12.0)


def test_other_content_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    write_drummers(tmp_path, seed=1)
    assert DrumLibrary.open(tmp_path).fingerprint.split()[-1] != DrumLibrary.open(folder).fingerprint.split()[-1]


def test_where_nobody_fits_songs_are_what_they_were(tmp_path: Path) -> None:
    """No performance of the meter, or of the tempo: every song has its invented drums, note for note."""
    write_strokes(tmp_path / "waltz.mid", [(i / 2, 42, 80) for i in range(96)], bpm=300, meter=(3, 4))
    write_strokes(tmp_path / "odd.mid", [(i / 2, 42, 80) for i in range(70)], bpm=120, meter=(7, 8))
    library = DrumLibrary.open(tmp_path)
    assert library.skipped == ["odd.mid: nothing is composed in 7/8"]
    for index in range(20):
        assert compose(SEED, index, 10.0, drummers=library) == compose(SEED, index, 10.0)


def test_electronic_kits_keep_their_machines(songs: list[Score]) -> None:
    kits = {part.kit for song in songs for part in song.parts if part.stem == "drums"}
    assert kits
    assert kits.isdisjoint({"electronic", "eighties"})
    assert "metal" not in {song.style for song in songs}


@pytest.mark.parametrize("swing", [0.5, 0.62, 0.66])
def test_swing_is_found(tmp_path: Path, swing: float) -> None:
    write_strokes(tmp_path / "groove.mid", rock_groove(np.random.default_rng(3), 16, swing=swing))
    performance = only(tmp_path)
    assert performance.feel.swing == pytest.approx(swing, abs=0.021)
    assert performance.feel.swing_unit == 1.0 or swing == 0.5
    assert performance.tightness < 0.5
    assert {stroke.beat for bar in performance.bars for stroke in bar if stroke.key == KICK} <= {0.0, 1.5, 2.0, 3.5}


def test_the_band_plays_where_a_late_drummer_does(tmp_path: Path) -> None:
    write_strokes(tmp_path / "late.mid", rock_groove(np.random.default_rng(3), 16, late=0.07))
    late = [stroke.deviation for bar in only(tmp_path).bars for stroke in bar]
    assert abs(np.median(late)) < 0.01
    assert np.std(late) == pytest.approx(0.025, abs=0.005)


@pytest.mark.parametrize("shift", [1, 3])
def test_a_recording_that_begins_on_another_beat(tmp_path: Path, shift: int) -> None:
    """The backbeat tells which beat is the first."""
    strokes = [(quarter + shift, key, loud) for quarter, key, loud in rock_groove(np.random.default_rng(3), 16)]
    write_strokes(tmp_path / "rock.mid", strokes)
    write_info(tmp_path, [("rock", 120, "beat", "4-4", "rock.mid", 32.0)])
    loud = [s.beat for bar in only(tmp_path).bars for s in bar if s.key == SNARE and s.velocity > 0.5]
    assert set(loud) == {1.0, 3.0}


def test_who_does_not_keep_time_is_not_hired(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    write_strokes(tmp_path / "free.mid", [(float(rng.uniform(0, 64)), 36, 100) for _ in range(300)])
    library = DrumLibrary.open(tmp_path)
    assert library.hire((1, 2), "rock", FOUR_FOUR, 120.0) is None


def test_six_eight_counts_dotted_quarters(tmp_path: Path) -> None:
    strokes = [(i / 2, 42, 80) for i in range(96)] + [(1.5 * i, 36 if i % 2 == 0 else 38, 100) for i in range(32)]
    write_strokes(tmp_path / "six.mid", strokes, bpm=114, meter=(6, 8))
    performer = DrumLibrary.open(tmp_path).hire((1, 2), "six-eight ballad", SIX_EIGHT, 76.0)
    assert performer is not None
    assert performer.main.file.bpm == pytest.approx(76, abs=0.1)
    assert {s.beat for bar in performer.main.bars for s in bar if s.key == SNARE} == {1.0}


def test_files_that_cannot_be_used_are_named_and_skipped(folder: Path, tmp_path: Path) -> None:
    write_strokes(tmp_path / "good.mid", rock_groove(np.random.default_rng(0), 16))
    (tmp_path / "text.mid").write_text("not MIDI")
    (tmp_path / "cut.mid").write_bytes((tmp_path / "good.mid").read_bytes()[:-300])
    write_strokes(tmp_path / "no drums.mid", [])
    plain = DrumLibrary.open(tmp_path)
    assert [file.path for file in plain.files] == ["good.mid"]
    assert sorted(line.split(":")[0] for line in plain.skipped) == ["cut.mid", "no drums.mid", "text.mid"]
    rows = [("rock", 120.0, "beat", "4-4", name, 32.0) for name in ("good.mid", "text.mid", "gone.mid")]
    write_info(tmp_path, rows)
    listed = DrumLibrary.open(tmp_path)
    assert [file.path for file in listed.files] == ["good.mid"]
    assert listed.skipped == ["text.mid: it is no MIDI file", "gone.mid: no such file"]


def test_a_table_with_a_bad_line(tmp_path: Path) -> None:
    write_strokes(tmp_path / "good.mid", rock_groove(np.random.default_rng(0), 16))
    write_info(tmp_path, [("rock", 120.0, "beat", "4-4", "good.mid", 32.0)])
    with (tmp_path / "info.csv").open("a") as file:
        file.write("drummer1,s,i,rock,fast,beat,4-4,other.mid,,1.0,train\n")
    library = DrumLibrary.open(tmp_path)
    assert len(library.files) == 1
    assert "line 3 of info.csv" in library.skipped[0]


def test_folders_without_drummers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is no folder"):
        open_drummers(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="it holds no MIDI files"):
        DrumLibrary.open(tmp_path)
    (tmp_path / "broken.mid").write_text("hello")
    with pytest.raises(UsageError, match=r"broken\.mid: it is no MIDI file"):
        DrumLibrary.open(tmp_path)
