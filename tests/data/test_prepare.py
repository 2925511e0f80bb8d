"""One song prepared: what is written, when it is written again, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import soundfile
import soxr

from data.layout_sets import UUIDS, noise, write, write_moisesdb, write_musdb, write_slakh
from data.songs import Truth, compose
from stage_cli.core.band import soundfont
from stage_cli.core.band.demo_data import write_demo_data
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.data.layouts import find_songs, read_song
from stage_cli.core.data.layouts.source import Annotations
from stage_cli.core.data.prepare import PreparedSong, prepare_song, prepare_songs
from stage_cli.core.data.settings import PrepareSettings, Shard
from stage_cli.core.data.song import SongFeatures, read_features
from stage_cli.core.machine import available_cores
from stage_cli.errors import UsageError


def prepare(folder: Path, **settings: object) -> PreparedSong:
    (found,) = find_songs(folder)
    return prepare_song(found, PrepareSettings(**settings))  # ty: ignore[invalid-argument-type]


def prepared(folder: Path, **settings: object) -> SongFeatures:
    result = prepare(folder, **settings)
    assert result.error is None, result.error
    assert result.features is not None
    return result.features


def write_truth(folder: Path, song: Truth) -> None:
    drums = song.stems["drums"]
    stems = [("drums", [("kick drum", 0.7 * drums), ("overheads", 0.3 * drums)])]
    stems += [(name, [("kind", audio)]) for name, audio in song.stems.items() if name != "drums"]
    write_moisesdb(folder, stems, rate=song.sample_rate)


def read(path: Path) -> tuple[np.ndarray, int]:
    return soundfile.read(path, always_2d=True, dtype="float64")


class TestMixedDrums:
    def check(self, song: Path, tracks: list[Path], channels: int = 2) -> np.ndarray:
        """The mixed file is the sum of the tracks, padded at the end."""
        mixed, rate = read(song / "drums_mixed" / "drums.wav")
        expected = np.zeros((max(soundfile.info(path).frames for path in tracks), channels))
        for path in tracks:
            audio, track_rate = read(path)
            assert track_rate == rate
            expected[: len(audio)] += audio
        assert mixed.shape == expected.shape
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)
        return mixed

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
    def test_sum_of_the_tracks(self, tmp_path: Path, subtype: str) -> None:
        tracks = [("kick", noise(1, 1.1)), ("snare", noise(2, 1.1)), ("toms", noise(3, 1.1))]
        files = write_moisesdb(
            tmp_path / UUIDS[0], [("drums", tracks), ("bass", [("b", noise(4, 1.1))])], subtype=subtype
        )
        features = prepared(tmp_path)
        self.check(tmp_path / UUIDS[0], files["drums"])
        assert features.stems["drums"].files == ("drums_mixed/drums.wav",)

    def test_unequal_lengths_are_padded_at_the_end(self, tmp_path: Path) -> None:
        tracks = [("kick", noise(1, 0.4)), ("snare", noise(2, 2.93)), ("toms", noise(3, 1.61))]
        files = write_moisesdb(tmp_path / UUIDS[0], [("drums", tracks), ("bass", [("b", noise(4, 3.5))])])
        features = prepared(tmp_path)
        # All stems are as long as the longest: so is the mix.
        mixed, _ = read(tmp_path / UUIDS[0] / "drums_mixed" / "drums.wav")
        assert len(mixed) == features.frames == round(3.5 * 44100)
        expected = np.zeros((features.frames, 2))
        for path in files["drums"]:
            audio, _ = read(path)
            expected[: len(audio)] += audio
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)

    def test_a_sum_above_full_scale_is_not_clipped(self, tmp_path: Path) -> None:
        tracks = [("kick", noise(1, level=0.9)), ("snare", noise(2, level=0.9)), ("toms", noise(3, level=0.9))]
        files = write_moisesdb(tmp_path / UUIDS[0], [("drums", tracks)])
        prepared(tmp_path)
        assert np.abs(self.check(tmp_path / UUIDS[0], files["drums"])).max() > 1.5

    def test_mono_and_stereo_tracks(self, tmp_path: Path) -> None:
        tracks = [("kick", noise(1, channels=1)), ("overheads", noise(2, channels=2))]
        files = write_moisesdb(tmp_path / UUIDS[0], [("drums", tracks)])
        prepared(tmp_path)
        self.check(tmp_path / UUIDS[0], files["drums"])

    def test_tracks_of_other_rates_are_resampled_to_the_highest(self, tmp_path: Path) -> None:
        song = tmp_path / "song"
        low = noise(1, 2.0, rate=22050)
        write(song / "drums" / "low.wav", low, 22050, subtype="FLOAT")
        write(song / "drums" / "high.wav", noise(2, 2.0, rate=48000), 48000, subtype="FLOAT")
        write(song / "bass.wav", noise(3, 2.0, rate=44100), 44100)
        features = prepared(tmp_path)
        assert (features.sample_rate, features.frames) == (48000, 96000)
        mixed, rate = read(song / "drums_mixed" / "drums.wav")
        assert rate == 48000
        expected = noise(2, 2.0, rate=48000) + soxr.resample(low, 22050, 48000, quality="VHQ")[:96000]
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-4)

    def test_musdb_and_slakh(self, tmp_path: Path) -> None:
        song = write_musdb(tmp_path / "m" / "A - B")
        assert prepared(tmp_path / "m").layout == "musdb18"
        self.check(song, [song / "drums.wav"])
        sources = {"S00": ("Drums", 128, True, True), "S01": ("Bass", 33, False, True), "S02": ("Drums", 0, True, True)}
        song = write_slakh(tmp_path / "s" / "Track00001", sources)
        assert prepared(tmp_path / "s").layout == "slakh"
        self.check(song, [song / "stems" / "S00.flac", song / "stems" / "S02.flac"], channels=1)

    def test_no_drums_no_file(self, tmp_path: Path) -> None:
        write(tmp_path / "song" / "bass.wav", noise(1))
        assert list(prepared(tmp_path).stems) == ["bass"]
        assert not (tmp_path / "song" / "drums_mixed").exists()


class TestFeatures:
    def test_all_of_a_song(self, tmp_path: Path) -> None:
        song = compose(0, bpm=120, tonic=9, scale="minor", seconds=16)
        song.stems["wind"] = np.zeros(100, dtype=np.float32)
        write_truth(tmp_path / UUIDS[0], song)
        features = prepared(tmp_path)
        assert features == read_features(tmp_path / UUIDS[0] / "features.json")
        assert (features.song, features.title, features.artist) == (UUIDS[0], "A Song", "An Artist")
        assert (features.layout, features.genres, features.moods) == ("moisesdb", ("Bossa Nova",), ())
        assert (features.sample_rate, features.frames, features.duration) == (44100, 16 * 44100, 16)
        assert features.rhythm.bpm == pytest.approx(120, rel=0.005)
        assert features.key is not None
        assert (features.key.tonic, features.key.scale) == ("A", "minor")
        assert (features.stems["wind"].active, features.stems["wind"].loudness) == (0, None)
        assert features.stems["bass"].active > 10
        data = json.loads((tmp_path / UUIDS[0] / "features.json").read_text())
        assert (data["schema_version"], data["duration"]) == (1, 16)

    def test_annotations(self, tmp_path: Path) -> None:
        noted = {"bpm": 99.0, "beats": [0.1, 0.7], "downbeats": [0.1], "beats_per_bar": 3}
        key = {"tonic": "Eb", "scale": "major"}
        bass = [("bass", [("b", noise(1, 3))])]
        write_moisesdb(tmp_path / UUIDS[0], bass, annotations={**noted, "key": key})
        features = prepared(tmp_path, beats="annotations")
        assert features.rhythm.source == "annotations"
        assert (features.rhythm.bpm, features.rhythm.beats, features.rhythm.downbeats) == (99, (0.1, 0.7), (0.1,))
        assert features.key is not None
        assert (features.key.tonic, features.key.scale, features.key.source) == ("Eb", "major", "annotations")
        # Without being asked for, they are not used.
        assert prepared(tmp_path).rhythm.source == "essentia"

    def test_annotations_that_are_not_there(self, tmp_path: Path) -> None:
        write(tmp_path / "song" / "bass.wav", noise(1))
        result = prepare(tmp_path, beats="annotations")
        assert result.status == "failed"
        assert result.error is not None
        assert "no annotated beats" in result.error.what

    def test_a_song_at_16_kilohertz(self, tmp_path: Path) -> None:
        song = compose(0, bpm=95, tonic=7, scale="major", seconds=16, sample_rate=16000)
        write_truth(tmp_path / UUIDS[0], song)
        features = prepared(tmp_path)
        assert features.sample_rate == 16000
        assert features.rhythm.bpm == pytest.approx(95, rel=0.01)
        assert features.key is not None
        assert (features.key.tonic, features.key.scale) == ("G", "major")

    def test_drums_alone_have_a_beat_and_no_key(self, tmp_path: Path) -> None:
        song = compose(0, bpm=110, seconds=12)
        write(tmp_path / "song" / "drums.wav", song.stems["drums"])
        features = prepared(tmp_path)
        assert features.rhythm.bpm == pytest.approx(110, rel=0.01)
        assert features.key is None

    def test_an_analysis_that_fails_is_that_songs_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Essentia raises RuntimeError."""

        def fail(*_: object) -> None:
            raise RuntimeError("KeyExtractor: no\nmore")

        monkeypatch.setattr("stage_cli.core.music.rhythm.find_key", fail)
        write(tmp_path / "song" / "bass.wav", noise(1))
        result = prepare(tmp_path)
        assert str(result.error).startswith("song cannot be analysed · RuntimeError: KeyExtractor: no · leave the song")
        assert sorted(path.name for path in (tmp_path / "song").iterdir()) == ["bass.wav"]

    def test_a_file_of_somebody_else_is_not_replaced(self, tmp_path: Path) -> None:
        write(tmp_path / "song" / "bass.wav", noise(1))
        (tmp_path / "song" / "features.json").write_text('{"danceability": 3}')
        result = prepare(tmp_path)
        assert "features.json is not by stage prepare-data · it would be replaced" in str(result.error)
        assert (tmp_path / "song" / "features.json").read_text() == '{"danceability": 3}'
        assert prepared(tmp_path, output=tmp_path / "out").song == "song"

    def test_silence(self, tmp_path: Path) -> None:
        write(tmp_path / "song" / "drums.wav", np.zeros((44100 * 5, 2)))
        write(tmp_path / "song" / "bass.wav", np.zeros((44100 * 4, 2)))
        features = prepared(tmp_path)
        assert (features.rhythm.bpm, features.rhythm.beats, features.key) == (None, (), None)


@pytest.fixture(scope="module", params=["synth", "soundfont"])
def demo_songs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Annotations, SongFeatures]]:
    if request.param == "soundfont" and not (soundfont.is_available() and soundfont.find_default()):
        pytest.skip("FluidR3 and FluidSynth are not installed")
    folder, jobs = tmp_path_factory.mktemp("demo"), available_cores()
    list(write_demo_data(folder, DemoSettings(songs=10, seconds=60, seed=3, sounds=request.param), jobs=jobs))
    songs = find_songs(folder)
    results = {result.id: result.features for result in prepare_songs(songs, PrepareSettings(), jobs)}
    pairs = []
    for found in songs:
        truth, features = read_song(found).annotations, results[found.id]
        assert truth is not None
        assert features is not None
        pairs.append((truth, features))
    return pairs


@pytest.mark.slow
class TestDemoSongs:
    """Features from the audio alone against the exact truth of `stage demo-data`."""

    def test_tempo(self, demo_songs: list[tuple[Annotations, SongFeatures]]) -> None:
        errors = [abs((features.rhythm.bpm or 0) / (truth.bpm or 1) - 1) for truth, features in demo_songs]
        assert sum(error <= 0.02 for error in errors) >= 8, errors

    def test_beats(self, demo_songs: list[tuple[Annotations, SongFeatures]]) -> None:
        scores = [mir_eval.beat.f_measure(np.array(a.beats), np.array(b.rhythm.beats)) for a, b in demo_songs]
        assert sum(score >= 0.9 for score in scores) >= 8, scores

    def test_key(self, demo_songs: list[tuple[Annotations, SongFeatures]]) -> None:
        keys = [
            (a.key and mir_eval_key(*a.key), b.key and mir_eval_key(b.key.tonic, b.key.scale)) for a, b in demo_songs
        ]
        assert sum(a == b for a, b in keys) >= 8, keys


def mir_eval_key(tonic: str, scale: str) -> tuple[int, str]:
    """Pitch class and scale: C# and Db are one."""
    return mir_eval.key.KEY_TO_SEMITONE[tonic.lower()] or 0, scale


class TestAgain:
    """What a second run does."""

    @pytest.fixture
    def song(self, tmp_path: Path) -> Path:
        write_moisesdb(
            tmp_path / UUIDS[0], [("drums", [("a", noise(1)), ("b", noise(2))]), ("bass", [("c", noise(3))])]
        )
        prepared(tmp_path)
        return tmp_path / UUIDS[0]

    def outputs(self, song: Path) -> dict[str, int]:
        return {name: (song / name).stat().st_mtime_ns for name in ("features.json", "drums_mixed/drums.wav")}

    def test_nothing_is_done_twice(self, song: Path) -> None:
        before = self.outputs(song)
        assert prepare(song).status == "unchanged"
        assert self.outputs(song) == before

    def test_a_new_date_is_no_change(self, song: Path) -> None:
        before = self.outputs(song)
        for path in (*song.glob("*/*.wav"), song / "data.json"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        before["drums_mixed/drums.wav"] = self.outputs(song)["drums_mixed/drums.wav"]
        assert prepare(song).status == "unchanged"
        assert self.outputs(song) == before

    def test_new_content_under_the_old_date_and_size_is_a_change(self, song: Path) -> None:
        (track,) = song.glob("bass/*.wav")
        status = track.stat()
        write(track, noise(99), subtype="PCM_24")
        os.utime(track, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (track.stat().st_size, track.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        assert prepare(song).status == "prepared"
        assert prepare(song).status == "unchanged"

    def test_a_changed_drum_track_changes_the_mix(self, song: Path) -> None:
        track = sorted(song.glob("drums/*.wav"))[0]
        write(track, noise(77), subtype="PCM_24")
        assert prepare(song).status == "prepared"
        mixed, _ = read(song / "drums_mixed" / "drums.wav")
        expected = np.sum([read(path)[0] for path in song.glob("drums/*.wav")], axis=0)
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("lost", ["features.json", "drums_mixed/drums.wav"])
    def test_a_lost_output_is_made_again(self, song: Path, lost: str) -> None:
        content = {name: (song / name).read_bytes() for name in ("features.json",)}
        (song / lost).unlink()
        assert prepare(song).status == "prepared"
        assert (song / lost).is_file()
        before, after = (json.loads(text) for text in (content["features.json"], (song / "features.json").read_text()))
        before.pop("fingerprint"), after.pop("fingerprint")
        assert before == after

    @pytest.mark.parametrize("name", ["features.json", "drums_mixed/drums.wav"])
    def test_a_damaged_output_is_made_again(self, song: Path, name: str) -> None:
        (song / name).write_bytes((song / name).read_bytes()[:-20])
        assert prepare(song).status == "prepared"
        assert prepare(song).status == "unchanged"

    def test_an_added_track_a_lost_track_and_new_facts(self, song: Path) -> None:
        data = json.loads((song / "data.json").read_text())
        write(song / "wind" / "new.wav", noise(5))
        data["stems"].append({"stemName": "wind", "tracks": [{"id": "new", "trackType": "x", "extension": "wav"}]})
        (song / "data.json").write_text(json.dumps(data))
        assert "wind" in prepared(song).stems
        data["stems"].pop()
        (song / "data.json").write_text(json.dumps(data | {"genre": "jazz"}))
        features = prepared(song)
        assert "wind" not in features.stems
        assert features.genres == ("Jazz",)

    def test_other_settings(self, song: Path) -> None:
        data = json.loads((song / "data.json").read_text())
        data["annotations"] = {"beats": [0.1, 0.3]}
        (song / "data.json").write_text(json.dumps(data))
        assert prepare(song).status == "prepared"
        assert prepare(song, beats="annotations").status == "prepared"
        assert prepare(song, beats="annotations").status == "unchanged"
        assert prepare(song).status == "prepared"

    def test_a_moved_song_is_the_same(self, song: Path) -> None:
        moved = song.parent / "elsewhere" / song.name
        moved.parent.mkdir()
        shutil.move(song, moved)
        assert prepare(moved).status == "unchanged"

    def test_what_a_killed_run_left_is_removed(self, song: Path) -> None:
        for name in ("drums_mixed/.stage-0123.part", ".features.json.99.part"):
            (song / name).write_bytes(b"half")
        (song / "features.json").unlink()
        assert prepare(song).status == "prepared"
        assert list(song.rglob(".*")) == []

    def test_a_check_writes_nothing(self, song: Path, tmp_path: Path) -> None:
        assert prepare(song, check=True).status == "unchanged"
        write(next(song.glob("bass/*.wav")), noise(9))
        before = self.outputs(song)
        assert prepare(song, check=True).status == "outdated"
        assert self.outputs(song) == before


class TestOutput:
    def test_elsewhere(self, tmp_path: Path) -> None:
        source = tmp_path / "set" / "train" / "A - B"
        write_musdb(source)
        before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
        (found,) = find_songs(tmp_path / "set")
        result = prepare_song(found, PrepareSettings(output=tmp_path / "out"))
        assert result.folder == tmp_path / "out" / "train" / "A - B"
        assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()} == before
        features = read_features(result.folder / "features.json")
        assert features.stems["bass"].files == (str(source / "bass.wav"),)
        assert (result.folder / features.stems["drums"].files[0]).is_file()
        assert prepare_song(found, PrepareSettings(output=tmp_path / "out")).status == "unchanged"

    def test_originals_do_not_change(self, tmp_path: Path) -> None:
        song = write_musdb(tmp_path / "A - B")
        before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in song.iterdir()}
        prepared(tmp_path)
        after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in song.iterdir() if path.is_file()}
        assert {name: facts for name, facts in after.items() if name != "features.json"} == before


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(None, "there is no such file", id="missing"),
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"RIFF....WAVEgarbage", "damaged|no audio", id="corrupt"),
        pytest.param(np.full((4410, 2), np.nan), "not a number", id="nan"),
        pytest.param(np.full((4410, 2), 1e6), "60 dB above", id="integers-as-floats"),
        pytest.param("truncated", "truncated", id="truncated"),
    ],
)
def test_bad_files(tmp_path: Path, content: object, match: str) -> None:
    song = write_musdb(tmp_path / "A - B")
    path = song / "bass.wav"
    if isinstance(content, np.ndarray):
        write(path, content, subtype="FLOAT")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-4000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (song / "bass.wav").rename(song / "bass.txt")
    (found,) = find_songs(tmp_path, "musdb18") if content is not None else find_songs_with(song)
    result = prepare_song(found, PrepareSettings())
    assert result.status == "failed"
    assert result.error is not None
    assert match.split("|")[0] in str(result.error) or match.split("|")[-1] in str(result.error)
    assert "bass.wav" in str(result.error)
    assert not (song / "features.json").exists()
    assert not (song / "drums_mixed" / "drums.wav").exists()
    assert list(song.rglob(".*")) == []


def find_songs_with(song: Path) -> list:
    """A MUSDB song whose file was lost after it had been found."""
    from stage_cli.core.data.layouts.source import SongFolder

    return [SongFolder(song.name, song, Path(song.name), "musdb18")]


class TestManySongs:
    def write(self, folder: Path, count: int) -> None:
        for index in range(count):
            write_musdb(
                folder / f"Artist - Song {index}",
                {name: noise(index, 0.3) for name in ("drums", "bass", "other", "vocals")},
            )

    def test_a_bad_song_does_not_stop_the_others(self, tmp_path: Path) -> None:
        self.write(tmp_path, 3)
        (tmp_path / "Artist - Song 1" / "bass.wav").write_bytes(b"")
        results = {result.id: result.status for result in prepare_songs(find_songs(tmp_path), PrepareSettings(), 1)}
        assert results == {
            "Artist - Song 0": "prepared",
            "Artist - Song 1": "failed",
            "Artist - Song 2": "prepared",
        }

    def test_processes_do_what_one_does(self, tmp_path: Path) -> None:
        self.write(tmp_path / "one", 4)
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        (tmp_path / "two" / "Artist - Song 2" / "bass.wav").write_bytes(b"")
        (tmp_path / "one" / "Artist - Song 2" / "bass.wav").write_bytes(b"")
        features = []
        for folder, jobs in (("one", 1), ("two", 2)):
            results = list(prepare_songs(find_songs(tmp_path / folder), PrepareSettings(), jobs))
            results.sort(key=lambda result: result.id)
            assert [result.status for result in results] == ["prepared", "prepared", "failed", "prepared"]
            found = [result.features.to_dict() for result in results if result.features]
            features.append([{key: value for key, value in song.items() if key != "fingerprint"} for song in found])
        assert features[0] == features[1]

    def test_stopping_early_leaves_no_process_and_no_part(self, tmp_path: Path) -> None:
        self.write(tmp_path, 8)
        songs = prepare_songs(find_songs(tmp_path), PrepareSettings(), 2)
        next(songs)
        songs.close()
        assert multiprocessing.active_children() == []
        assert list(tmp_path.rglob("*.part")) == []


class TestShards:
    @pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
    def test_each_song_lies_in_one(self, count: int) -> None:
        songs = [f"song {index}" for index in range(10)]
        shards = [Shard.parse(f"{index}/{count}").take(songs) for index in range(1, count + 1)]
        assert sorted(song for shard in shards for song in shard) == songs
        assert max(map(len, shards)) - min(map(len, shards)) <= 1

    @pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/2/3", "", "1.0/2", "１/2"])
    def test_wrong_shards(self, text: str) -> None:
        with pytest.raises(UsageError, match="`shard` cannot be"):
            Shard.parse(text)


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`beats` cannot be 'madmom'.*essentia, beat-this, librosa, annotations"):
        PrepareSettings(beats="madmom")
    with pytest.raises(UsageError, match="`tags`: there is no folder"):
        PrepareSettings(tags=tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not a folder"):
        PrepareSettings(output=tmp_path / "file")
