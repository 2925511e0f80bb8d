"""Shards: the same items as from the folder, readable by WebDataset itself, resumable, and clear when broken."""

import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from prepared_songs import RATE, TONES, tone, write_song
from webdataset.compat import WebDataset

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.settings import Shard
from stage_cli.core.data.shards import write_shards
from stage_cli.errors import AudioError, StageError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    write_song(folder / "a song.v2", seconds=6, genres=("Café",))
    tracks = [tone(TONES["drums"], 6), tone(TONES["drums"] + 30, 5)]
    stems = {"drums": tracks, "bass": tone(TONES["bass"], 6), "vocals": np.zeros(6 * RATE)}
    write_song(folder / "train" / "b", stems, suffix=".flac")
    write_song(folder / "c", seconds=6, subtype="FLOAT")
    return folder


def dataset(root: Path, rate: int = RATE, **changes: Any) -> StemDataset:
    config = DataConfig((str(root),), chunk_seconds=2.0, context_seconds=(1.0, 2.0), **changes)
    return StemDataset(config, rate, seed=0, items_per_song=4)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("stem", ["drums", "any"])
def test_items_are_those_of_the_folder_bit_for_bit(root, tmp_path, stem):
    report = write_shards([root], tmp_path / "shards", shard_bytes=700_000)
    assert (report.songs, report.kept) == (3, 0)
    assert report.shards == 2
    folder, shards = dataset(root, stem=stem), dataset(tmp_path / "shards", stem=stem)
    assert len(folder) == len(shards)
    for index in range(0, len(folder), 3):
        one, other = folder[index], shards[index]
        np.testing.assert_array_equal(one.target, other.target)
        np.testing.assert_array_equal(one.context, other.context)
        np.testing.assert_array_equal(one.beats, other.beats)
        assert (one.song, one.description, one.start) == (other.song, other.description, other.start)


def test_one_mono_file_a_stem_at_the_codec_rate(tmp_path):
    rng = np.random.default_rng(0)
    stems = {
        "drums": [0.1 * rng.standard_normal((15 * 44100, 2)) for _ in range(2)],
        "bass": 0.9 * tone(60, 15, 44100, peak=1.0)[:, None].repeat(2, axis=1),
        "vocals": [tone(300, 15, 44100, peak=0.9)] * 2,  # sums to 1.8: no fixed-point file holds it
        "piano": np.zeros((44100, 2)),
    }
    write_song(tmp_path / "songs" / "song", stems, sample_rate=44100)
    write_shards([tmp_path / "songs"], tmp_path / "shards", sample_rate=32_000)
    song = find_songs([tmp_path / "shards"])[0]
    assert {name: [file.name for file in stem.files] for name, stem in song.stems.items()} == {
        "drums": ["000000-song.drums.0.flac"],
        "bass": ["000000-song.bass.0.flac"],
        "vocals": ["000000-song.vocals.0.wav"],
    }
    assert (song.sample_rate, song.duration) == (32_000, 15.0)
    folder, shards = (dataset(tmp_path / name, 32_000, context="mix") for name in ("songs", "shards"))
    for index in range(4):
        one, other = folder[index], shards[index]
        assert (one.start, one.context_stems, one.augmentation) == (
            other.start,
            other.context_stems,
            other.augmentation,
        )
        if one.augmentation.is_identity:
            np.testing.assert_allclose(one.target, other.target, atol=2e-4)
            np.testing.assert_allclose(one.context, other.context, atol=2e-4)


def test_webdataset_reads_them(root, tmp_path):
    write_shards([root], tmp_path / "shards")
    samples = list(WebDataset(str(tmp_path / "shards" / "shard-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000-a_song_v2", "000001-b", "000002-c"]
    features = json.loads(samples[0]["features.json"])
    assert (features["song"], features["genres"]) == ("a song.v2", ["Café"])
    audio, rate = soundfile.read(io.BytesIO(samples[0]["drums.0.wav"]))
    expected, _ = soundfile.read(root / "a song.v2" / "drums" / "0.wav")
    np.testing.assert_array_equal(audio, expected)
    assert rate == RATE
    assert {"drums.0.flac", "drums.1.flac"} <= samples[1].keys()


@pytest.mark.parametrize(("sample_rate", "jobs"), [(None, 1), (16_000, 2)])
def test_the_same_songs_give_the_same_bytes(root, tmp_path, sample_rate, jobs):
    write_song(root / "loud", {"drums": [tone(TONES["drums"], 3, peak=0.9)] * 2, "bass": tone(TONES["bass"], 3)})
    write_shards([root], tmp_path / "one", sample_rate=sample_rate, shard_bytes=500_000)
    time.sleep(1.1)  # libsndfile writes the second of the day into files of floats
    write_shards([root], tmp_path / "two", sample_rate=sample_rate, shard_bytes=500_000, jobs=jobs)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    (loud,) = (song for song in find_songs([tmp_path / "two"]) if song.id == "loud")
    assert loud.stems["drums"].files[0].name.endswith(".wav")


def test_a_second_run_writes_only_what_has_changed(root, tmp_path):
    output = tmp_path / "shards"
    steps = []
    write_shards([root], output, shard_bytes=1, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    before = digests(output)
    assert write_shards([root], output, shard_bytes=1).kept == 3
    assert digests(output) == before
    write_song(root / "c", seconds=7)
    assert write_shards([root], output, shard_bytes=1).kept == 2
    assert find_songs([output])[2].duration == 7
    # Fewer, larger shards: no old one stays behind. A file of somebody else's does.
    (output / "shard-notes.json").write_text("{}")
    assert write_shards([root], output).shards == 1
    assert sorted(digests(output)) == ["shard-000000.json", "shard-000000.tar", "shard-notes.json", "shards.json"]


def test_an_interrupted_run_leaves_no_set_and_is_taken_up(root, tmp_path, monkeypatch):
    from stage_cli.core.data import shards as module

    output, add_song = tmp_path / "shards", module.add_song

    def stops(tar, song):
        if song.key == "000001-b":
            raise KeyboardInterrupt
        return add_song(tar, song)

    monkeypatch.setattr(module, "add_song", stops)
    with pytest.raises(KeyboardInterrupt):
        write_shards([root], output, shard_bytes=1)
    assert sorted(digests(output)) == ["shard-000000.json", "shard-000000.tar"]
    with pytest.raises(StageError, match=r"the shards in .* are unfinished .* goes on where it stopped"):
        find_songs([output])
    monkeypatch.undo()
    (output / ".shard-000001.tar.77.part").write_bytes(b"what a killed run leaves")
    assert write_shards([root], output, shard_bytes=1).kept == 1
    assert len(find_songs([output])) == 3
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_is_told_and_leaves_nothing_half_written(root, tmp_path, monkeypatch):
    from stage_cli.core.data import shards as module

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "add_song", full)
    with pytest.raises(StageError, match=r"cannot write shards .*No space left on device .*finished shards are kept"):
        write_shards([root], tmp_path / "shards")
    assert digests(tmp_path / "shards") == {}


def test_broken_shards_are_clear_errors(root, tmp_path):
    output = tmp_path / "shards"
    write_shards([root], output, shard_bytes=700_000)
    shard, index = output / "shard-000000.tar", output / "shard-000000.json"
    content, text = shard.read_bytes(), index.read_text()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(StageError, match=r"shard-000000\.tar is truncated"):
        find_songs([output])
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(
        AudioError, match=r"song a song\.v2, drums: cannot read .*shard-000000\.tar/000000-a_song_v2\.drums"
    ):
        dataset(output)[0]
    shard.unlink()
    with pytest.raises(StageError, match=r"cannot read .*shard-000000\.tar · No such file"):
        find_songs([output])
    shard.write_bytes(content)
    for damaged in ("{", "[]", text[: len(text) // 2]):
        index.write_text(damaged)
        with pytest.raises(StageError, match=r"shard-000000\.json is damaged"):
            find_songs([output])
    index.unlink()
    with pytest.raises(StageError, match=r"cannot read .*shard-000000\.json"):
        find_songs([output])
    (output / "shards.json").write_text('{"version": 9}')
    with pytest.raises(StageError, match="version 9, not 1"):
        find_songs([output])


def test_songs_that_cannot_be_written(root, tmp_path):
    with pytest.raises(UsageError, match="holds the songs themselves"):
        write_shards([root], root)
    (root / "c" / "bass" / "0.wav").write_bytes(b"hello")
    with pytest.raises(AudioError, match="song c, bass: cannot read"):
        write_shards([root], tmp_path / "shards", sample_rate=RATE)
    (root / "c" / "bass" / "0.wav").unlink()
    with pytest.raises(AudioError, match=r"song c: cannot read .*0\.wav · No such file"):
        write_shards([root], tmp_path / "shards")


class TestParts:
    """A set that several machines write together."""

    def write(self, root: Path, output: Path, index: int, count: int) -> None:
        songs = [song.place.parent for song in find_songs([root])]
        write_shards(Shard(index, count).take(songs), output, part=Shard(index, count))

    def test_together_they_are_the_whole_set(self, root: Path, tmp_path: Path) -> None:
        for index in (1, 2):
            self.write(root, tmp_path / "shards", index, 2)
        whole, parts = find_songs([root]), find_songs([tmp_path / "shards"])
        assert [song.id for song in parts] == [song.id for song in whole]
        assert {song.place.parent.name for song in parts} == {"part-1-of-2", "part-2-of-2"}
        one, other = dataset(root)[5], dataset(tmp_path / "shards")[5]
        np.testing.assert_array_equal(one.target, other.target)

    def test_a_part_without_songs_is_whole(self, root: Path, tmp_path: Path) -> None:
        for index in range(1, 6):
            self.write(root, tmp_path / "shards", index, 5)
        assert len(find_songs([tmp_path / "shards"])) == 3

    def test_a_missing_part_is_told(self, root: Path, tmp_path: Path) -> None:
        for index in (1, 3):
            self.write(root, tmp_path / "shards", index, 3)
        with pytest.raises(StageError, match=r"2 of 3 parts are whole, number 2 is not .* `shard` 2/3 `shards` .*"):
            find_songs([tmp_path / "shards"])

    def test_two_divisions_do_not_mix(self, root: Path, tmp_path: Path) -> None:
        output = tmp_path / "shards"
        self.write(root, output, 1, 2)
        with pytest.raises(UsageError, match="holds shards of another division · they are one of 2 parts"):
            self.write(root, output, 1, 3)
        with pytest.raises(UsageError, match="another division"):
            write_shards([root], output)
        self.write(root, tmp_path / "elsewhere", 3, 3)
        (tmp_path / "elsewhere" / "part-3-of-3").rename(output / "part-3-of-3")
        with pytest.raises(UsageError, match="parts of two divisions"):
            find_songs([output])
        write_shards([root], tmp_path / "whole")
        with pytest.raises(UsageError, match="another division · they are a whole set"):
            self.write(root, tmp_path / "whole", 1, 2)

    def test_songs_in_folders_that_are_called_parts(self, root: Path, tmp_path: Path) -> None:
        root.rename(tmp_path / "part-1-of-2")
        assert len(find_songs([tmp_path])) == 3


def test_shards_of_something_else_are_not_replaced(root, tmp_path):
    output = tmp_path / "shards"
    write_shards([root / "train"], output)
    before = digests(output)
    write_song(tmp_path / "other" / "another", seconds=3)
    with pytest.raises(UsageError, match="holds shards of other songs · such as b · name another folder, or delete"):
        write_shards([tmp_path / "other"], output)
    with pytest.raises(UsageError, match="of another rate · files as they were there, 16000 Hz here"):
        write_shards([root], output, sample_rate=16_000)
    assert digests(output) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="it is a file"):
        write_shards([root], tmp_path / "file")
    with pytest.raises(UsageError, match="holds the songs themselves"):
        write_shards([root], tmp_path)
