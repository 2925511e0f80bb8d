"""Finding and describing songs in each layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.layout_sets import UUIDS, noise, write, write_moisesdb, write_musdb, write_slakh
from stage_cli.core.data.layouts import find_songs, read_song
from stage_cli.core.data.layouts.source import Song
from stage_cli.core.stems import STEMS
from stage_cli.errors import StageError, UsageError


def only_song(folder: Path, layout: str | None = None) -> Song:
    (found,) = find_songs(folder, layout)
    return read_song(found)


def names(song: Song) -> dict[str, list[str]]:
    """Names of the files by stem, relative to the song's folder."""
    return {
        stem: [track.path.relative_to(song.folder).as_posix() for track in tracks]
        for stem, tracks in song.stems.items()
    }


class TestMoisesDB:
    def test_all_stem_names_and_facts(self, tmp_path: Path) -> None:
        files = write_moisesdb(tmp_path / "v0.1" / UUIDS[0], [(stem, [("kind", noise(1))]) for stem in STEMS])
        song = only_song(tmp_path)
        assert (song.id, song.layout) == (UUIDS[0], "moisesdb")
        assert (song.title, song.artist, song.genres) == ("A Song", "An Artist", ("Bossa Nova",))
        assert {stem: [track.path for track in tracks] for stem, tracks in song.stems.items()} == files
        assert song.metadata == (song.folder / "data.json",)

    def test_a_stem_name_may_occur_twice(self, tmp_path: Path) -> None:
        song_folder = tmp_path / UUIDS[0]
        write_moisesdb(
            song_folder, [("guitar", [("a", noise(1))]), ("bass", [("b", noise(2))]), ("guitar", [("c", noise(3))])]
        )
        song = only_song(tmp_path)
        assert [track.type for track in song.stems["guitar"]] == ["a", "c"]

    def test_the_same_file_listed_twice_sounds_once(self, tmp_path: Path) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("a", noise(1))])])
        path = tmp_path / UUIDS[0] / "data.json"
        data = json.loads(path.read_text())
        path.write_text(json.dumps(data | {"stems": data["stems"] * 2}))
        assert len(only_song(tmp_path).tracks) == 1

    def test_track_types_are_no_paths(self, tmp_path: Path) -> None:
        kind = "fx/processed sound, scratches, gun shots, explosions etc"
        write_moisesdb(tmp_path / UUIDS[0], [("other", [(kind, noise(1))])])
        (track,) = only_song(tmp_path).tracks
        assert track.type == kind
        assert track.path.is_file()

    def test_click_tracks_are_left_out(self, tmp_path: Path) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("other", [("click track", noise(1))]), ("bass", [("b", noise(2))])])
        song = only_song(tmp_path)
        assert list(song.stems) == ["bass"]
        assert "it is a click track" in song.notes[0]

    def test_a_song_of_clicks_has_no_stem(self, tmp_path: Path) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("other", [("click track", noise(1))])])
        with pytest.raises(StageError, match=r"has no stem.*click track"):
            only_song(tmp_path)

    @pytest.mark.parametrize("genre", ["", "undefined", None])
    def test_no_genre(self, tmp_path: Path, genre: str | None) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])], genre=genre)
        assert only_song(tmp_path).genres == ()

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"id": "../../secret"}, id="track-climbs"),
            pytest.param({"id": "/etc/passwd"}, id="track-absolute"),
            pytest.param({"id": "a\\..\\b"}, id="track-backslash"),
            pytest.param({"extension": "wav/../../x"}, id="extension"),
        ],
    )
    def test_tracks_that_leave_the_folder_are_refused(self, tmp_path: Path, change: dict[str, str]) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])])
        path = tmp_path / UUIDS[0] / "data.json"
        data = json.loads(path.read_text())
        data["stems"][0]["tracks"][0] |= change
        path.write_text(json.dumps(data))
        with pytest.raises(StageError, match="must not lead out of its song's folder"):
            only_song(tmp_path)

    @pytest.mark.parametrize("name", ["..", "../bass", ""])
    def test_stems_that_leave_the_folder_are_refused(self, tmp_path: Path, name: str) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])])
        path = tmp_path / UUIDS[0] / "data.json"
        data = json.loads(path.read_text())
        data["stems"][0]["stemName"] = name
        path.write_text(json.dumps(data))
        with pytest.raises(StageError, match="must not lead out"):
            only_song(tmp_path)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"song": "x"}', '{"stems": 3}', '{"stems": [{"stemName": "bass"}]}', "\udcff"]
    )
    def test_damaged_data(self, tmp_path: Path, text: str) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])])
        (tmp_path / UUIDS[0] / "data.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(StageError, match=r"data\.json is damaged"):
            only_song(tmp_path)

    def test_annotations(self, tmp_path: Path) -> None:
        noted = {"bpm": 120.0, "beats": [0.5, 1.0, 1.5], "downbeats": [0.5], "beats_per_bar": 4}
        key = {"tonic": "F#", "scale": "minor"}
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])], annotations={**noted, "key": key})
        found = only_song(tmp_path).annotations
        assert found is not None
        assert (found.bpm, found.beats, found.downbeats) == (120.0, (0.5, 1.0, 1.5), (0.5,))
        assert (found.beats_per_bar, found.key) == (4, ("F#", "minor"))

    @pytest.mark.parametrize(
        "wrong",
        [{"beats": [1.0, 0.5]}, {"beats": [-1.0]}, {"beats": [float("nan")]}, {"bpm": -3}, {"key": {"tonic": "C"}},
         {"beats_per_bar": 3.5}, {"key": {"tonic": "C", "scale": "lydian"}}],
    )  # fmt: skip
    def test_wrong_annotations(self, tmp_path: Path, wrong: dict) -> None:
        write_moisesdb(tmp_path / UUIDS[0], [("bass", [("b", noise(2))])], annotations=wrong)
        with pytest.raises(StageError, match=r"data\.json is damaged"):
            only_song(tmp_path)

    def test_plain_folders_without_data(self, tmp_path: Path) -> None:
        for stem in ("drums", "other_keys"):
            write(tmp_path / UUIDS[0] / stem / f"{UUIDS[1]}.wav", noise(1))
        song = only_song(tmp_path)
        assert song.layout == "moisesdb"
        assert names(song) == {"drums": [f"drums/{UUIDS[1]}.wav"], "other_keys": [f"other_keys/{UUIDS[1]}.wav"]}


class TestMusdb:
    def test_both_parts(self, tmp_path: Path) -> None:
        write_musdb(tmp_path / "train" / "A Band - The Song")
        write_musdb(tmp_path / "test" / "Another - Tune - Live")
        found = find_songs(tmp_path)
        assert [(song.id, song.layout) for song in found] == [
            ("Another - Tune - Live", "musdb18"),
            ("A Band - The Song", "musdb18"),
        ]
        song = read_song(found[0])
        assert (song.artist, song.title) == ("Another", "Tune - Live")
        assert names(song) == {stem: [f"{stem}.wav"] for stem in ("drums", "bass", "other", "vocals")}

    def test_the_published_errata(self, tmp_path: Path) -> None:
        write_musdb(tmp_path / "test" / "PR - Oh No")
        write_musdb(tmp_path / "test" / "Zeno - Signs")
        assert [song.known_error for song in find_songs(tmp_path)] == [
            "the stems do not add up to the mix in the left channel",
            "",
        ]

    def test_more_stems_are_a_song_of_ones_own(self, tmp_path: Path) -> None:
        write_musdb(tmp_path / "song")
        write(tmp_path / "song" / "guitar.wav", noise(9))
        song = only_song(tmp_path)
        assert (song.layout, sorted(song.stems)) == ("folders", ["bass", "drums", "guitar", "other", "vocals"])


class TestSlakh:
    SOURCES = {  # noqa: RUF012 - never changed
        "S00": ("Guitar", 30, False, True), "S01": ("Drums", 128, True, True), "S02": ("Bass", 33, False, True),
        "S03": ("Strings (continued)", 48, False, True), "S04": ("Sound effects", 122, False, False),
        "S05": ("Strings", 46, False, True), "S06": ("Piano", 7, False, True), "S07": ("Guitar", 25, False, True),
        "S08": ("Synth Pad", 90, False, True), "S09": ("Pipe", 73, False, True),
        "S10": ("Chromatic Percussion", 11, False, True),
    }  # fmt: skip

    def test_sources_by_class_and_program(self, tmp_path: Path) -> None:
        write_slakh(tmp_path / "train" / "Track00001", self.SOURCES)
        song = only_song(tmp_path)
        assert names(song) == {
            "guitar": ["stems/S00.flac", "stems/S07.flac"],
            "drums": ["stems/S01.flac"],
            "bass": ["stems/S02.flac"],
            "bowed_strings": ["stems/S03.flac"],
            "other_plucked": ["stems/S05.flac"],
            "other_keys": ["stems/S06.flac", "stems/S08.flac"],
            "wind": ["stems/S09.flac"],
            "percussion": ["stems/S10.flac"],
        }
        assert song.notes == ("S04 is left out: it was not rendered",)

    def test_converted_to_wav(self, tmp_path: Path) -> None:
        song_folder = write_slakh(tmp_path / "Track00001", {"S00": ("Bass", 33, False, True)})
        (song_folder / "stems" / "S00.flac").unlink()
        write(song_folder / "stems" / "S00.wav", noise(1))
        assert names(only_song(tmp_path)) == {"bass": ["stems/S00.wav"]}

    def test_repeated_midi_files_and_bad_stems(self, tmp_path: Path) -> None:
        bass = {"S00": ("Bass", 33, False, True)}
        write_slakh(tmp_path / "train" / "Track00010", bass, midi="763b")
        write_slakh(tmp_path / "omitted" / "Track00049", bass, midi="763b")
        write_slakh(tmp_path / "omitted" / "Track00050", bass, midi="aaaa")
        write_slakh(tmp_path / "train" / "Track00496", bass, midi="bbbb")
        write_slakh(tmp_path / "train" / "Track00497", bass, midi="cccc")
        assert {song.id: song.known_error for song in find_songs(tmp_path)} == {
            "Track00010": "",
            "Track00049": "made from the same MIDI file as Track00010",
            "Track00050": "omitted by Slakh2100-redux: made from the same MIDI file as another song",
            "Track00496": "S01 has the wrong pitch",
            "Track00497": "",
        }

    @pytest.mark.parametrize("text", ["", "a: [", "- 1", "stems: 3", "stems: {S00: {audio_rendered: true}}", "\0"])
    def test_damaged_metadata(self, tmp_path: Path, text: str) -> None:
        song = write_slakh(tmp_path / "Track00001", {"S00": ("Bass", 33, False, True)})
        (song / "metadata.yaml").write_text(text)
        with pytest.raises(StageError, match=r"metadata\.yaml is damaged"):
            only_song(tmp_path)

    @pytest.mark.parametrize("text", ["audio_dir: ../..\nstems: {S00: {}}", "stems: {../S00: {inst_class: Bass}}"])
    def test_names_that_leave_the_folder_are_refused(self, tmp_path: Path, text: str) -> None:
        song = write_slakh(tmp_path / "Track00001", {"S00": ("Bass", 33, False, True)})
        (song / "metadata.yaml").write_text(text)
        with pytest.raises(StageError, match="must not lead out"):
            only_song(tmp_path)


class TestFolders:
    def test_files_and_folders_mixed(self, tmp_path: Path) -> None:
        song = tmp_path / "My Song"
        write(song / "Bass Guitar.flac", noise(1))
        write(song / "guitar 2.wav", noise(2))
        write(song / "guitar.wav", noise(2))
        write(song / "Drums" / "kick.wav", noise(3))
        write(song / "Drums" / "overheads.aiff", noise(4))
        write(song / "mix.wav", noise(5))
        write(song / "click.wav", noise(6))
        write(song / "theremin.wav", noise(7))
        write(song / "drums_mixed" / "drums.wav", noise(8))
        (song / "notes.txt").write_text("hello")
        found = only_song(tmp_path)
        assert (found.id, found.title, found.layout) == ("My Song", "My Song", "folders")
        assert names(found) == {
            "bass": ["Bass Guitar.flac"],
            "guitar": ["guitar 2.wav", "guitar.wav"],
            "drums": ["Drums/kick.wav", "Drums/overheads.aiff"],
        }
        assert found.notes == (
            "click.wav is left out: it is a click track",
            "mix.wav is left out: it is a mix",
            "theremin.wav is left out: its name is no stem's",
        )

    def test_a_song_may_be_called_like_a_stem(self, tmp_path: Path) -> None:
        for song in ("Beat", "Another"):
            for stem in ("drums", "bass"):
                write(tmp_path / song / f"{stem}.wav", noise(1))
        assert [song.id for song in find_songs(tmp_path)] == ["Another", "Beat"]

    def test_one_song_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "Song" / "bass.wav", noise(1))
        (found,) = find_songs(tmp_path / "Song")
        assert (found.id, found.relative) == ("Song", Path())

    def test_songs_of_the_same_name_get_longer_ids(self, tmp_path: Path) -> None:
        for album in ("First", "Second"):
            write(tmp_path / album / "Intro" / "bass.wav", noise(1))
        write(tmp_path / "First" / "Song" / "bass.wav", noise(1))
        assert [song.id for song in find_songs(tmp_path)] == ["First/Intro", "Song", "Second/Intro"]


def test_hidden_folders_hold_no_songs(tmp_path: Path) -> None:
    write(tmp_path / ".trash" / "Song" / "bass.wav", noise(1))
    write(tmp_path / "Song" / "bass.wav", noise(1))
    assert len(find_songs(tmp_path)) == 1


def test_the_layout_can_be_forced(tmp_path: Path) -> None:
    write_musdb(tmp_path / "A - B")
    assert only_song(tmp_path).layout == "musdb18"
    assert only_song(tmp_path, "folders").layout == "folders"
    write(tmp_path / "plain" / "bass" / "x.wav", noise(1))
    assert [song.layout for song in find_songs(tmp_path, "moisesdb")] == ["moisesdb", "moisesdb"]


@pytest.mark.parametrize(
    ("layout", "match"),
    [(None, "no songs in .*musdb18 or slakh or moisesdb or folders"), ("slakh", "nothing in it looks like slakh"),
     ("dsd100", "`layout` cannot be 'dsd100'")],
)  # fmt: skip
def test_no_songs(tmp_path: Path, layout: str | None, match: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=match):
        find_songs(tmp_path, layout)


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="there is no such folder"):
        find_songs(tmp_path / "missing")
    with pytest.raises(UsageError, match="it is not a folder"):
        find_songs(tmp_path / "file")
