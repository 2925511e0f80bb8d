"""`stage prepare-data` end to end: small data sets in, what was written read back, stops and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile
from data.layout_sets import UUIDS, noise, write, write_moisesdb, write_musdb, write_slakh
from data.songs import compose
from matplotlib.image import imread

from cli.conftest import Refused, Stage, snapshot
from stage_cli.core.data.song import read_features

NAMES = ("drums", "bass", "other", "vocals")


def write_set(folder: Path, count: int, seconds: float = 0.4) -> list[Path]:
    return [
        write_musdb(folder / f"Artist - Song {index}", {name: noise(index, seconds) for name in NAMES})
        for index in range(count)
    ]


@pytest.mark.parametrize("command", ["prepare-data", "prepare"])
def test_a_set(stage: Stage, tmp_path: Path, command: str) -> None:
    song = compose(0, bpm=105, tonic=2, scale="major", seconds=14)
    kick, rest = 0.6 * song.stems["drums"], 0.4 * song.stems["drums"]
    stems = [("drums", [("kick drum", kick), ("overheads", rest)]), ("bass", [("bass guitar", song.stems["bass"])])]
    stems.append(("piano", [("grand piano", song.stems["piano"])]))
    files = write_moisesdb(tmp_path / "set" / UUIDS[0], stems, subtype="FLOAT", genre="rock")
    outcome = stage(command, "set", "--jobs", 1)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[1].split("\t") == ["prepared", "1", "0.00"]
    mixed, rate = soundfile.read(tmp_path / "set" / UUIDS[0] / "drums_mixed" / "drums.wav")
    expected = sum(soundfile.read(path)[0] for path in files["drums"])
    assert rate == 44100
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-4)
    features = read_features(tmp_path / "set" / UUIDS[0] / "features.json")
    assert features.rhythm.bpm == pytest.approx(105, rel=0.01)
    assert features.key is not None
    assert (features.key.tonic, features.key.scale) == ("D", "major")
    assert features.genres == ("Rock",)


def test_json(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 2)
    (tmp_path / "set" / "Artist - Song 1" / "bass.wav").write_bytes(b"")
    outcome = stage("prepare-data", "set", "--jobs", 1, "--json")
    assert outcome.code == 1
    assert outcome.stderr == ""
    good, bad = outcome.results
    assert (good["song"], good["status"]) == ("Artist - Song 0", "prepared")
    assert good["tracks"] == dict.fromkeys(NAMES, 1)
    assert good["seconds"] == pytest.approx(0.4)
    assert (good["bpm"], good["genres"], good["moods"]) == (None, [], [])
    assert (bad["song"], bad["status"]) == ("Artist - Song 1", "failed")
    assert "bass.wav" in bad["error"]
    assert bad["why"]


def test_a_bad_song_is_reported_and_skipped(stage: Stage, tmp_path: Path) -> None:
    songs = write_set(tmp_path / "set", 3)
    (songs[1] / "vocals.wav").write_bytes(b"RIFF")
    outcome = stage("prepare-data", "set", "--jobs", 1)
    assert outcome.code == 1
    assert "Error: Artist - Song 1: cannot read " in outcome.stderr
    rows = {row.split("\t")[0]: row.split("\t")[1] for row in outcome.stdout.splitlines()}
    assert (rows["prepared"], rows["failed"]) == ("2", "1")
    assert not (songs[1] / "features.json").exists()
    # Repaired, it alone is prepared.
    write(songs[1] / "vocals.wav", noise(5, 0.4))
    outcome = stage("prepare-data", "set", "--jobs", 1, "--json")
    assert outcome.code == 0
    assert [song["status"] for song in outcome.results] == ["unchanged", "prepared", "unchanged"]


def test_a_second_run_writes_nothing(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 2)
    assert stage("prepare-data", "set", "--jobs", 1).code == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    outcome = stage("prepare-data", "set", "--jobs", 1)
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[1].startswith("unchanged\t2")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == times


def test_check_only_reports(stage: Stage, tmp_path: Path) -> None:
    songs = write_set(tmp_path / "set", 3)
    stage("prepare-data", songs[0], "--jobs", 1)
    (songs[2] / "bass.wav").write_bytes(b"")
    before = snapshot(tmp_path)
    outcome = stage("prepare-data", "set", "--check", "--jobs", 1)
    assert outcome.code == 1
    assert snapshot(tmp_path) == before
    rows = [row.split("\t") for row in outcome.stdout.splitlines()[1:]]
    assert [row[2].split(":")[0] for row in rows] == ["prepared", "to be prepared", "failed"]
    assert rows[1][1] == "drums, bass, other, vocals"


def test_strict_skips_known_errors(stage: Stage, tmp_path: Path) -> None:
    write_musdb(tmp_path / "set" / "test" / "PR - Oh No")
    write_musdb(tmp_path / "set" / "test" / "Zeno - Signs")
    outcome = stage("prepare-data", "set", "--check", "--json", "--jobs", 1)
    assert [song["known_error"] is not None for song in outcome.results] == [True, False]
    outcome = stage("prepare-data", "set", "--strict", "--jobs", 1)
    assert outcome.code == 0
    assert "PR - Oh No: the stems do not add up to the mix in the left channel – skipped" in outcome.stderr
    assert (tmp_path / "set" / "test" / "Zeno - Signs" / "features.json").exists()
    assert not (tmp_path / "set" / "test" / "PR - Oh No" / "features.json").exists()


def test_shards_share_the_work(stage: Stage, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 5)
    seen = []
    for index in (1, 2):
        outcome = stage("prepare-data", "set", "--shard", f"{index}/2", "--jobs", 1, "--json")
        seen.append([song["song"][-1] for song in outcome.results])
        assert {song["status"] for song in outcome.results} == {"prepared"}
    assert seen == [["0", "2", "4"], ["1", "3"]]


def test_output_leaves_the_set_alone(stage: Stage, tmp_path: Path) -> None:
    write_slakh(tmp_path / "set" / "train" / "Track00001", {"S00": ("Drums", 128, True, True)})
    before = snapshot(tmp_path / "set")
    assert stage("prepare-data", "set", "--output", "out/deep", "--jobs", 1).code == 0
    assert snapshot(tmp_path / "set") == before
    assert read_features(tmp_path / "out" / "deep" / "train" / "Track00001" / "features.json").layout == "slakh"


def test_processes(stage: Stage, tmp_path: Path) -> None:
    songs = write_set(tmp_path / "set", 3)
    (songs[1] / "bass.wav").write_bytes(b"")
    outcome = stage("prepare-data", "set", "--jobs", 2, "--json")
    assert outcome.code == 1
    assert sorted((song["song"][-1], song["status"]) for song in outcome.results) == [
        ("0", "prepared"), ("1", "failed"), ("2", "prepared")
    ]  # fmt: skip


class TestPlot:
    def test_a_song_of_a_set(self, stage: Stage, tmp_path: Path) -> None:
        songs = write_set(tmp_path / "set", 2)
        outcome = stage("prepare-data", "set", "--plot", "Artist - Song 1")
        assert outcome.code == 0, outcome.stderr
        assert Path(outcome.stdout.strip()) == Path("set") / "Artist - Song 1" / "features.png"
        assert imread(songs[1] / "features.png").std() > 0.05
        assert not (songs[0] / "features.json").exists()

    def test_a_folder_and_what_lies_elsewhere(self, stage: Stage, tmp_path: Path) -> None:
        (song,) = write_set(tmp_path / "set", 1)
        assert stage("prepare-data", "--plot", song).code == 0
        stage("prepare-data", "set", "--output", "out", "--jobs", 1)
        outcome = stage("prepare-data", "--plot", "out/Artist - Song 0", "--json")
        assert outcome.result == {"plot": "out/Artist - Song 0/features.png"}

    def test_names_that_are_none(self, refused: Refused, tmp_path: Path) -> None:
        write_set(tmp_path / "set", 2)
        refused("prepare-data", "set", "--plot", "x", code=2, match="--plot takes one song, 'x' names none.*Song 0")
        refused("prepare-data", "--plot", "nowhere", code=2, match="no such folder")
        refused("prepare-data", "set", "--plot", "x", "--check", code=2, match="--check writes nothing")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "DIR is missing"),
        (["nowhere"], "cannot use nowhere.*there is no such folder"),
        (["file"], "cannot use file.*it is not a folder"),
        (["empty"], "no songs in empty"),
        (["set", "--layout", "dsd100"], "--layout cannot be 'dsd100'.*moisesdb"),
        (["set", "--layout", "slakh"], "nothing in it looks like slakh"),
        (["set", "--beats", "madmom"], "--beats cannot be 'madmom'.*essentia, beat-this, librosa, annotations"),
        (["set", "--jobs", "0"], "--jobs cannot be 0"),
        (["set", "--jobs", "x"], "'x' is not a valid int"),
        (["set", "--shard", "3/2"], "--shard cannot be '3/2'.*for example 2/8"),
        (["set", "--tags", "nowhere"], "--tags: there is no folder nowhere"),
        (["set", "--output", "file"], "--output file is not a folder"),
    ],
)
def test_wrong_use(refused: Refused, tmp_path: Path, arguments: list[str], match: str) -> None:
    write_set(tmp_path / "set", 1)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    refused("prepare-data", *arguments, code=2, match=match)


@pytest.mark.parametrize(
    ("arguments", "package", "match"),
    [
        (["--beats", "beat-this"], "beat_this", 'needs the package beat-this.*pip install "stage-cli.beat-this."'),
        (["--tags", "models"], "onnxruntime", 'needs onnxruntime.*pip install "stage-cli.tags."'),
        (["--tags", "empty"], "onnxruntime", r"empty lacks discogs-effnet-bsdynamic-1\.onnx"),
    ],
)
def test_missing_packages_and_models(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], package: str, match: str
) -> None:
    write_set(tmp_path / "set", 1)
    for name in ("discogs-effnet-bsdynamic-1.onnx", "genre_discogs400-discogs-effnet-1.onnx"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.setitem(sys.modules, package, None)
    refused("prepare-data", "set", *arguments, code=1, match=match)


class TestStops:
    def start(self, folder: Path, *arguments: str) -> forked.Popen:
        command = [sys.executable, "-m", "stage_cli", "prepare-data", str(folder), *arguments]
        return forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, folder: Path, pattern: str, process: forked.Popen, limit: float = 60) -> None:
        end = time.monotonic() + limit
        while not any(folder.rglob(pattern)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.002)

    def check_whole(self, folder: Path) -> None:
        """What has its name is whole."""
        for path in folder.rglob("features.json"):
            read_features(path)
        for path in folder.rglob("drums_mixed/drums.wav"):
            assert soundfile.info(path).frames == soundfile.info(path.parents[1] / "drums.wav").frames

    def finish(self, folder: Path, stage: Stage, count: int) -> None:
        outcome = stage("prepare-data", folder, "--jobs", 1, "--json")
        assert outcome.code == 0
        assert len(outcome.results) == count
        assert list(folder.rglob("*.part")) == []
        for path in folder.rglob("drums_mixed/drums.wav"):
            np.testing.assert_allclose(
                soundfile.read(path)[0], soundfile.read(path.parents[1] / "drums.wav")[0], rtol=0, atol=1e-6
            )

    @pytest.mark.parametrize(
        "at", ["*.part", *(pytest.param(at, marks=pytest.mark.slow) for at in ("drums.wav", "features.json"))]
    )
    def test_killed(self, tmp_path: Path, stage: Stage, at: str) -> None:
        folder = tmp_path / "set"
        write_set(folder, 4, seconds=6)
        process = self.start(folder, "--jobs", "1")
        self.wait_for(folder, f"drums_mixed/{at}" if at != "features.json" else at, process)
        process.kill()
        process.communicate()
        self.check_whole(folder)
        assert len(list(folder.rglob("features.json"))) < 4, "killed too late to test anything"
        self.finish(folder, stage, 4)

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
    @pytest.mark.parametrize(
        "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT]
    )
    def test_no_process_is_left(self, tmp_path: Path, stage: Stage, number: signal.Signals) -> None:
        folder = tmp_path / "set"
        write_set(folder, 5, seconds=6)
        process = self.start(folder, "--jobs", "2")
        self.wait_for(folder, "*.part", process)
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        assert "Traceback" not in stderr
        end = time.monotonic() + 30
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < end, "a worker works on"
            time.sleep(0.05)
        self.check_whole(folder)
        if number != signal.SIGKILL:  # who is killed cannot tidy up: the next run does
            assert list(folder.rglob("*.part")) == []
        self.finish(folder, stage, 5)

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
    def test_a_killed_worker(self, tmp_path: Path, stage: Stage) -> None:
        folder = tmp_path / "set"
        write_set(folder, 6, seconds=6)
        process = self.start(folder, "--jobs", "2")
        self.wait_for(folder, "*.part", process)
        for worker in children(process.pid):
            if "spawn_main" in Path(f"/proc/{worker}/cmdline").read_text():
                os.kill(worker, signal.SIGKILL)
                break
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "a process of --jobs was killed" in stderr
        assert "fewer --jobs" in stderr
        self.finish(folder, stage, 6)


def children(process: int) -> list[int]:
    """Ids of the processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == process:
            found.append(int(path.parent.name))
    return found


def test_features_are_plain_json(stage: Stage, tmp_path: Path) -> None:
    write(tmp_path / "set" / "Ünïcode $ong" / "bass.wav", noise(1))
    assert stage("prepare-data", "set").code == 0
    data = json.loads((tmp_path / "set" / "Ünïcode $ong" / "features.json").read_text(encoding="utf-8"))
    assert data["song"] == data["title"] == "Ünïcode $ong"
    assert data["stems"]["bass"]["files"] == ["bass.wav"]
    assert stage("prepare-data", "set", "--plot", "Ünïcode $ong").code == 0
