"""`stage prepare-data --shards` end to end: items from the shards are those from the folders."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from data.layout_sets import noise, write, write_musdb

from cli.conftest import Refused, Stage, snapshot
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.data.index import find_songs

NAMES = ("drums", "bass", "other", "vocals")


def write_set(folder: Path, count: int, seconds: float = 1.5) -> list[Path]:
    return [
        write_musdb(folder / f"Artist - Song {index}", {name: noise(index, seconds) for name in NAMES})
        for index in range(count)
    ]


def items(root: Path, **changes: Any) -> list[Any]:
    config = DataConfig((str(root),), chunk_seconds=0.5, context_seconds=(0.2, 0.5), context="mix", **changes)
    dataset = StemDataset(config, 32_000, seed=1, items_per_song=2)
    return [dataset[index] for index in range(len(dataset))]


def check_same(folders: Path, shards: Path, tolerance: float = 0.0) -> None:
    """The same items, bit for bit, or with noise of at most a share `tolerance` of their RMS."""
    share = 0.0 if tolerance else 0.5
    expected, found = (items(root, speed_probability=share, pitch_probability=share) for root in (folders, shards))
    assert len(expected) == len(found) > 0
    for one, other in zip(expected, found, strict=True):
        assert (one.song, one.start, one.context_stems) == (other.song, other.start, other.context_stems)
        for found_audio, audio in ((other.target, one.target), (other.context, one.context)):
            assert found_audio.shape == audio.shape
            assert np.square(found_audio - audio).mean() <= tolerance**2 * np.square(audio).mean()


def test_items_are_those_of_the_folders(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3)
    before = snapshot(tmp_path / "set")
    outcome = stage("prepare-data", "set", "--shards", "shards", "--jobs", 1)
    assert outcome.code == 0, outcome.stderr
    head, row = (line.split("\t") for line in outcome.stdout.splitlines()[-2:])
    assert head == ["shards", "songs", "written", "kept", "GB"]
    assert row[:4] == ["shards", "3", "1", "0"]
    assert before.items() <= snapshot(tmp_path / "set").items()
    check_same(tmp_path / "set", tmp_path / "shards")
    # The folders are not needed any more.
    (tmp_path / "set").rename(tmp_path / "gone")
    check_same(tmp_path / "gone", tmp_path / "shards")


def test_songs_that_are_prepared_elsewhere(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 2)
    assert stage("prepare-data", "set", "-o", "out", "--shards", "shards", "--jobs", 1).code == 0
    check_same(tmp_path / "out", tmp_path / "shards")


def test_one_rate(stage: Stage, refused: Refused, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 2)
    outcome = stage("prepare-data", "set", "--shards", "shards", "--shards-rate", 32000, "--jobs", 1, "--json")
    assert outcome.code == 0, outcome.stderr
    report = outcome.results[-1]
    assert report.pop("bytes") == (tmp_path / "shards" / "shard-000000.tar").stat().st_size
    assert report == {"shards": "shards", "songs": 2, "written": 1, "kept": 0}
    assert {song.sample_rate for song in find_songs([tmp_path / "shards"])} == {32000}
    # White noise ends where filters begin: one is that of a whole file, the other that of a chunk.
    check_same(tmp_path / "set", tmp_path / "shards", tolerance=0.03)
    refused("prepare-data", "set", "--shards", "shards", code=2, match="another rate.*32000 Hz there, files as they")


def test_again_only_what_has_changed(stage: Stage, tmp_path: Path) -> None:
    songs = write_set(tmp_path / "set", 2)
    stage("prepare-data", "set", "--shards", "shards", "--jobs", 1)
    before = snapshot(tmp_path / "shards")
    outcome = stage("prepare-data", "set", "--shards", "shards", "--jobs", 1, "--json")
    assert [result.get("kept") for result in outcome.results] == [None, None, 1]
    assert snapshot(tmp_path / "shards") == before
    write(songs[1] / "bass.wav", noise(50, 1.5))
    outcome = stage("prepare-data", "set", "--shards", "shards", "--jobs", 1, "--json")
    assert [result.get("written") for result in outcome.results] == [None, None, 1]
    check_same(tmp_path / "set", tmp_path / "shards")


def test_bad_songs_are_left_out(stage: Stage, tmp_path: Path) -> None:
    songs = write_set(tmp_path / "set", 3)
    assert stage("prepare-data", songs[1], "--jobs", 1).code == 0
    (songs[1] / "vocals.wav").write_bytes(b"RIFF")  # prepared once, and broken since
    outcome = stage("prepare-data", "set", "--shards", "shards", "--jobs", 1)
    assert outcome.code == 1
    assert "The shards will lack 1 songs, which failed." in outcome.stderr
    assert [song.id[-1] for song in find_songs([tmp_path / "shards"])] == ["0", "2"]
    for song in songs:
        (song / "vocals.wav").write_bytes(b"RIFF")
    assert stage("prepare-data", "set", "--shards", "none", "--jobs", 1).code == 1
    assert not (tmp_path / "none").exists()


def test_several_machines(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3)
    for index in (1, 2, 3, 4):
        outcome = stage("prepare-data", "set", "--shard", f"{index}/4", "--shards", "shards", "--jobs", 1, "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.results[-1]["shards"] == f"shards/part-{index}-of-4"
        assert outcome.results[-1]["songs"] == (1 if index < 4 else 0)
    check_same(tmp_path / "set", tmp_path / "shards")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--shards", "set"], "set holds the songs themselves"),
        (["--shards", "."], "holds the songs themselves"),
        (["--shards", "file"], "cannot write shards to file.*it is a file"),
        (["--shards", "2/8"], "--shards 2/8 names a folder.*--shard 2/8 prepares a part"),
        (["--shards", "x", "--check"], "--shards does not go with --check"),
        (["--shards", "x", "--plot", "y"], "--shards does not go with --plot"),
        (["--shards-rate", "32000"], "--shards-rate needs --shards"),
        (["--shards", "x", "--shards-rate", "12"], "--shards-rate cannot be 12.*8000 to 192000"),
    ],
)
def test_wrong_use(refused: Refused, tmp_path: Path, arguments: list[str], match: str) -> None:
    write_set(tmp_path / "set", 1, seconds=0.4)
    (tmp_path / "file").write_text("x")
    refused("prepare-data", "set", *arguments, code=2, match=match)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_leaves_no_half_of_a_set(stage: Stage, tmp_path: Path, number: signal.Signals) -> None:
    write_set(tmp_path / "set", 2, seconds=60)
    options = ["--beats", "annotations", "--shards", "shards", "--shards-rate", "44100", "--jobs", "1"]
    for song in (tmp_path / "set").iterdir():  # without an analysis, which is another test's subject
        data = {"stems": [{"stemName": name, "tracks": [{"id": name}]} for name in NAMES]}
        for name in NAMES:
            (song / name).mkdir()
            (song / f"{name}.wav").rename(song / name / f"{name}.wav")
        (song / "mixture.wav").unlink()
        data["annotations"] = {"bpm": 120, "beats": [0.5, 1.0], "key": {"tonic": "C", "scale": "major"}}
        (song / "data.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "stage_cli", "prepare-data", "set", *options]
    process = forked.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "shards").glob(".shard-000000.tar.*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert "Traceback" not in errors
    left = [path.name for path in (tmp_path / "shards").iterdir()]
    assert "shards.json" not in left
    if number is signal.SIGINT:
        assert left == []
    assert stage("prepare-data", "set", *options).code == 0
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "shard-000000.json", "shard-000000.tar", "shards.json"
    ]  # fmt: skip
    assert len(find_songs([tmp_path / "shards"])) == 2
