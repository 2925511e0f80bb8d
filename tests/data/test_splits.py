"""Which songs train and which validate: the published split, stable fractions, files, and twins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage_cli.core.audio.chunks import AudioFile
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.index import IndexedSong, StemAudio
from stage_cli.core.data.splits import identities, split_songs
from stage_cli.errors import UsageError


def song(id: str, *, stems=("bass", "drums"), artist="", title="") -> IndexedSong:
    audio = {stem: StemAudio((AudioFile(Path(f"{stem}.wav")),), 100.0) for stem in stems}
    beats = np.arange(0, 100, 0.5)
    return IndexedSong(id, Path(id), title, artist, audio, 44_100, 100.0, beats, beats[::4], (), ())


def ids(songs):
    return [song.id for song in songs]


def config(**changes: Any) -> DataConfig:
    return DataConfig(("x",), **changes)


def test_as_published_the_last_24_by_name_that_have_the_stem_validate():
    songs = [
        song(f"{number:03d}", stems=("drums", "bass") if number % 3 else ("vocals", "bass")) for number in range(150)
    ]
    shuffled = [songs[number] for number in np.random.default_rng(0).permutation(150)]
    split = split_songs(shuffled, config())
    drummed = [f"{number:03d}" for number in range(150) if number % 3]
    assert ids(split.validation) == drummed[-24:]
    assert ids(split.training) == drummed[:-24]
    assert not split.left_out


@pytest.mark.parametrize(("songs", "validating"), [(2, 1), (7, 1), (20, 4), (24, 4), (25, 24), (60, 24)])
def test_few_songs_leave_some_for_the_training(songs: int, validating: int) -> None:
    split = split_songs([song(f"{number:02d}") for number in range(songs)], config())
    assert len(split.validation) == validating
    assert len(split.training) == songs - validating


def test_a_set_that_is_too_small_says_what_to_change():
    with pytest.raises(UsageError, match=r"no song is left for the training .* data\.validation_songs = 24 takes 1"):
        split_songs([song("1")], config())
    with pytest.raises(UsageError, match=r"no song is left for the validation .*fraction"):
        split_songs([song("1")], config(split="fraction", validation_fraction=1e-9))


def test_a_fraction_is_stable_when_songs_are_added_and_moves_with_the_seed():
    songs = [song(f"song {number}") for number in range(2000)]
    settings = config(split="fraction", validation_fraction=0.2)
    few, many = (split_songs(part, settings) for part in (songs[:1000], songs))
    assert len(many.validation) / 2000 == pytest.approx(0.2, abs=0.03)
    assert set(ids(few.validation)) == set(ids(many.validation)) & set(ids(songs[:1000]))
    assert not set(ids(many.training)) & set(ids(many.validation))
    assert len(many.training) + len(many.validation) == 2000
    other = split_songs(songs, config(split="fraction", validation_fraction=0.2, split_seed=1))
    shared = len(set(ids(other.validation)) & set(ids(many.validation)))
    assert shared / 2000 == pytest.approx(0.04, abs=0.02)  # as chance would have it


def test_a_larger_fraction_keeps_the_songs_of_a_smaller_one():
    songs = [song(f"song {number}") for number in range(300)]
    small, large = (split_songs(songs, config(split="fraction", validation_fraction=part)) for part in (0.1, 0.3))
    assert set(ids(small.validation)) < set(ids(large.validation))


def test_a_file_lists_the_validation(tmp_path):
    path = tmp_path / "validation.txt"
    path.write_text("# ours\n\nc\n  a  \nno drums\n", encoding="utf-8")
    songs = [*map(song, "abcd"), song("no drums", stems=("bass", "vocals"))]
    split = split_songs(songs, config(split="file", validation_file=str(path)))
    assert (ids(split.validation), ids(split.training)) == (["a", "c"], ["b", "d"])
    path.write_text("a\nno drumss\n")
    with pytest.raises(UsageError, match=r"lists 'no drumss', which is no song .* did you mean 'no drums'\?"):
        split_songs(songs, config(split="file", validation_file=str(path)))
    with pytest.raises(UsageError, match=r"data\.validation_file: cannot read .*none\.txt · No such file"):
        split_songs(songs, config(split="file", validation_file=str(tmp_path / "none.txt")))


def test_no_split():
    split = split_songs([song("b"), song("a")], config(split="none"))
    assert (ids(split.training), ids(split.validation)) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (song("AClassicEducation_NightOwl"), song("A Classic Education - NightOwl")),
        (song("PortStWillow_StayEven"), song("Port St Willow - Stay Even")),
        (song("0a1b-uuid", artist="A Classic Education", title="NightOwl"), song("A Classic Education - NightOwl")),
        (song("1", artist="Björk", title="Jóga"), song("2", artist="BJORK", title="Joga!")),
        (song("Track 1"), song("track_1")),
    ],
)
def test_twins_share_an_identity(one, other):
    assert identities(one) & identities(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (song("A - B"), song("A - C")),
        (song("1", title="Intro"), song("2", title="Intro")),  # a title alone says little
        (song("1", artist="A", title="Intro"), song("2", artist="B", title="Intro")),
        (song("米津"), song("宇多田")),
        (song("!!!"), song("???")),
    ],
)
def test_others_do_not(one, other):
    assert not identities(one) & identities(other)


@pytest.mark.parametrize("split", ["last", "fraction", "file"])
def test_a_twin_of_a_validation_song_never_trains(split, tmp_path):
    medley = [song(f"Artist{number}_SomeSong") for number in range(60)]
    musdb = [song(f"Artist {number} - Some Song") for number in range(60)]
    path = tmp_path / "validation.txt"
    path.write_text("Artist 7 - Some Song\nArtist9_SomeSong\n")
    songs = medley + musdb
    result = split_songs(songs, config(split=split, validation_fraction=0.3, validation_file=str(path)))
    heard = {name for song in result.validation for name in identities(song)}
    assert result.validation
    assert not any(identities(song) & heard for song in result.training)
    assert len(result.training) + len(result.validation) + len(result.left_out) == 120
    if split == "file":
        assert set(ids(result.left_out)) == {"Artist7_SomeSong", "Artist 9 - Some Song"}
    if split == "fraction":
        assert not result.left_out  # twins hash alike and go together


def test_songs_can_be_excluded():
    split = split_songs([song("a"), song("b"), song("c")], config(split="none", exclude=("b",)))
    assert ids(split.training) == ["a", "c"]
    with pytest.raises(UsageError, match=r"data\.exclude names 'z'"):
        split_songs([song("a")], config(split="none", exclude=("z",)))
