"""MIDI arrangements as songs: the parts, the beats and the strokes are those of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.midi_songs import band_tracks, write_midi_file
from stage_cli.core.band.arrangements import ArrangementLibrary
from stage_cli.core.band.demo_data import compose_song, make_song
from stage_cli.core.band.instruments import KICK, SAMPLE_RATE, TAMBOURINE
from stage_cli.core.band.score import Score
from stage_cli.core.band.settings import DemoSettings
from stage_cli.errors import UsageError

BARS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrangements")
    write_midi_file(folder / "song.mid", band_tracks(BARS), bpm=124, tempos=[(40.0, 118.0)])
    return folder


@pytest.fixture(scope="module")
def songs(folder: Path) -> list[Score]:
    library = ArrangementLibrary.open(folder)
    return [library.arrange((seed, 0), 20.0) for seed in range(12)]


def part(score: Score, stem: str) -> list[tuple[float, int]]:
    return [(note.beat, note.pitch) for part in score.parts if part.stem == stem for note in part.notes]


def test_parts_are_split_by_channel_and_program(songs: list[Score]) -> None:
    for song in songs:
        names = {part.name: part.stem for part in song.parts}
        assert names == {
            "drums": "drums",
            "percussion": "percussion",
            "finger bass 1": "bass",
            "clean guitar 1": "guitar",
            "synth bass 1": "bass",
        }
        assert {pitch for _, pitch in part(song, "percussion")} == {TAMBOURINE}


def test_drums_are_those_of_the_file(songs: list[Score]) -> None:
    """Every bar has the file's strokes on their places, at the song's tempo; the piece goes round at its end."""
    expected = {(0.0, 36), (1.0, 38), (2.0, 36), (2.5, 36), (3.0, 38), (0.0, 49), (0.5, 42), (1.5, 46)}
    for song in songs:
        times = np.array(song.beat_times)
        whole = len(times) // 4 - 1
        strokes = part(song, "drums")
        for bar in range(whole):
            found = {
                (round(beat - 4 * bar, 3), key) for beat, key in strokes if 4 * bar <= round(beat, 3) < 4 * bar + 4
            }
            assert found == expected
        notes = next(part.notes for part in song.parts if part.stem == "drums")
        places = np.interp([note.beat for note in notes], np.arange(len(times)), times)
        inside = [note.beat < len(times) - 1 for note in notes]
        np.testing.assert_allclose(np.array([note.onset for note in notes])[inside], places[inside], rtol=0, atol=1e-6)


def test_tempo_and_key_vary_and_parts_stay_together(songs: list[Score]) -> None:
    tempos = {round(60 / float(np.median(np.diff(song.beat_times))), 2) for song in songs}
    assert len(tempos) > 6
    assert all(118 / 1.13 < tempo < 124 * 1.13 for tempo in tempos)
    shifts = set()
    for song in songs:
        bass = {pitch for name in song.parts if name.name == "finger bass 1" for pitch in (n.pitch for n in name.notes)}
        guitar = {pitch for _, pitch in part(song, "guitar")}
        shift = min(guitar) - 57
        assert bass == {33 + shift, 34 + shift, 35 + shift}
        assert guitar == {57 + shift, 60 + shift, 64 + shift}
        shifts.add(shift)
    assert len(shifts) > 4
    assert max(map(abs, shifts)) <= 5


def test_the_tempo_map_is_kept(songs: list[Score]) -> None:
    """Where the file changes its tempo the beats do, in proportion."""
    ratios = [float(np.max(np.diff(song.beat_times)) / np.min(np.diff(song.beat_times))) for song in songs]
    assert max(ratios) == pytest.approx(124 / 118, abs=1e-3)


def test_kicks_sound_where_the_file_has_them(folder: Path) -> None:
    song = make_song(DemoSettings(seconds=8.0, sounds="synth", arrangements=folder, arrangement_share=1.0), 3)
    kick = next(track.audio for track in song.tracks if track.track_type == "kick drum").mean(axis=0)
    hop = SAMPLE_RATE // 500
    energy = 10 * np.log10(np.square(kick[: len(kick) // hop * hop]).reshape(-1, hop).mean(axis=1) + 1e-9)
    before = np.array([energy[max(0, i - 10) : i].max(initial=-90.0) for i in range(len(energy))])
    heard = np.flatnonzero((energy > before + 10) & (energy > energy.max() - 30)) * hop / SAMPLE_RATE
    written = np.array([note.onset for note in song.notes("drums") if note.pitch == KICK])
    assert len(written) > 10
    assert np.abs(written[:, None] - heard[None]).min(axis=1)[:-1].max() < 0.008
    assert np.abs(heard[:, None] - written[None]).min(axis=1).max() < 0.03
    assert sum(song.stems().values(), np.zeros(1)).max() <= 1.0


def test_a_shorter_song_is_the_beginning_of_a_longer_one(folder: Path) -> None:
    """Also past the end of the piece, which then starts again."""
    library = ArrangementLibrary.open(folder)
    again = ArrangementLibrary.open(folder)
    for seed in range(6):
        assert library.arrange((seed, 1), 9.0) == again.arrange((seed, 1), 120.0).crop(9.0)
    long = library.arrange((0, 1), 120.0)
    assert long.beat_times[-1] > 119
    assert max(note.onset for note in long.parts[0].notes) > 118


def test_three_four_and_double_tempo(tmp_path: Path) -> None:
    waltz = [(9, 0, [(float(i), 0.1, 36 if i % 3 == 0 else 42, 90) for i in range(60)])]
    waltz.append((0, 0, [(3.0 * i, 2.5, 60, 90) for i in range(20)]))
    write_midi_file(tmp_path / "three" / "waltz.mid", waltz, bpm=150, meter=(3, 4))
    song = ArrangementLibrary.open(tmp_path / "three").arrange((1, 1), 12.0)
    assert (song.meter.name, song.meter.beats_per_bar) == ("3/4", 3)
    assert all(beat % 3 == 0 for beat, key in part(song, "drums") if key == KICK)
    write_midi_file(tmp_path / "fast" / "fast.mid", band_tracks(24), bpm=260)
    song = ArrangementLibrary.open(tmp_path / "fast").arrange((1, 1), 12.0)
    assert song.meter.beats_per_bar == 2
    assert 130 / 1.13 < song.bpm < 130 * 1.13


def test_share_of_arrangements(folder: Path) -> None:
    def styles(share: float) -> list[str]:
        settings = DemoSettings(seconds=5.0, arrangements=folder, arrangement_share=share)
        return [compose_song(settings, index).style for index in range(40)]

    assert styles(0.0).count("arrangement") == 0
    assert styles(1.0).count("arrangement") == 40
    assert 4 <= styles(0.3).count("arrangement") <= 20


def test_files_that_cannot_be_played_are_named_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "text.mid").write_text("not MIDI")
    write_midi_file(tmp_path / "short.mid", band_tracks(2))
    write_midi_file(tmp_path / "alone.mid", band_tracks(12)[1:2])
    rng = np.random.default_rng(0)
    loose = [(9, 0, [(float(rng.uniform(0, 60)), 0.1, 36, 90) for _ in range(200)]), band_tracks(15)[1]]
    write_midi_file(tmp_path / "loose.mid", loose)
    library = ArrangementLibrary.open(tmp_path)
    with pytest.raises(UsageError, match=r"no file in .* can be played"):
        library.arrange((0, 0), 10.0)
    reasons = dict(line.split(": ", 1) for line in library.skipped)
    assert reasons == {
        "text.mid": "it is no MIDI file",
        "short.mid": "it has fewer than 16 beats",
        "alone.mid": "it has fewer than two parts",
        "loose.mid": "its drums do not follow its tempo",
    }
    write_midi_file(tmp_path / "good.mid", band_tracks(12))
    assert ArrangementLibrary.open(tmp_path).arrange((0, 0), 10.0).title == "good"


def test_folders_without_arrangements(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is no folder"):
        ArrangementLibrary.open(tmp_path / "missing")
    with pytest.raises(UsageError, match="it holds no MIDI files"):
        ArrangementLibrary.open(tmp_path)
    (tmp_path / "broken.mid").write_bytes(b"MThd")
    with pytest.raises(UsageError, match=r"broken\.mid: "):
        ArrangementLibrary.open(tmp_path).arrange((0, 0), 5.0)
