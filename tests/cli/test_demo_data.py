"""`stage demo-data` end to end: what it writes is read back with other libraries."""

from __future__ import annotations

import ctypes.util
import importlib.machinery
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
from data.midi_songs import band_tracks, write_drummers, write_midi_file

from cli.conftest import Outcome, Refused, Stage, snapshot
from stage_cli.core.band import soundfont
from stage_cli.core.band.demo_data import compose_and_render, write_demo_data
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.band.sounds import resolve
from stage_cli.core.stems import STEMS
from stage_cli.errors import StageError

SMALL = ("--songs", 3, "--seconds", 4, "--seed", 5, "--sounds", "synth")


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "songs"
    assert all(song.written for song in write_demo_data(folder, DemoSettings(3, 4.0, 5, "synth")))
    return folder


@pytest.fixture
def written(stage: Stage, small_set: Path, tmp_path: Path) -> Outcome:
    """A small set in `songs`, and what the command says of it."""
    shutil.copytree(small_set, tmp_path / "songs")
    outcome = stage("demo-data", "songs", *SMALL, "--json")
    assert outcome.code == 0, outcome.stderr
    return outcome


def read_data(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "data.json").read_text())


def test_layout_is_that_of_moisesdb(written: Outcome, tmp_path: Path) -> None:
    assert len(written.results) == 3
    assert sorted(path.name for path in (tmp_path / "songs").iterdir()) == sorted(
        Path(song["path"]).name for song in written.results
    )
    for song in written.results:
        folder = tmp_path / song["path"]
        assert str(uuid.UUID(folder.name)) == folder.name
        data = read_data(folder)
        assert {"song", "artist", "genre", "stems", "annotations"} <= data.keys()
        listed = set()
        for stem in data["stems"]:
            assert stem["stemName"] in STEMS
            uuid.UUID(stem["id"])
            for track in stem["tracks"]:
                assert track.keys() == {"id", "trackType", "extension", "has_bleed"}
                assert (track["extension"], track["has_bleed"]) == ("wav", False)
                path = folder / stem["stemName"] / f"{track['id']}.wav"
                info = soundfile.info(path)
                assert (info.samplerate, info.channels, info.subtype) == (44100, 2, "PCM_16")
                assert info.frames == 4 * 44100
                listed.add(path)
        assert {path for path in folder.rglob("*") if path.is_file()} == {folder / "data.json", *listed}
        names = [stem["stemName"] for stem in data["stems"]]
        assert len(names) == len(set(names))
        assert {"drums", "bass"} <= set(names)
        drums = next(stem for stem in data["stems"] if stem["stemName"] == "drums")
        assert len(drums["tracks"]) >= 3


def test_annotations_are_exact(written: Outcome, tmp_path: Path) -> None:
    for song in written.results:
        known = read_data(tmp_path / song["path"])["annotations"]
        beats = known["beats"]
        assert all(0 <= before < after < 4 for before, after in pairwise(beats))
        assert known["downbeats"] == beats[:: known["beats_per_bar"]]
        assert known["bpm"] == pytest.approx(60 / np.median(np.diff(beats)), rel=1e-4)
        assert known["bpm"] == song["bpm"]
        assert known["time_signature"] in ("4/4", "3/4", "6/8")
        assert known["key"]["scale"] in ("major", "minor")
        assert known["key"]["tonic"] in ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
        assert known["sections"][0]["start"] == beats[0] == known["chords"][0]["start"]
        for before, after in pairwise(known["chords"]):
            assert before["end"] == after["start"]


def test_files_are_what_is_rendered_in_memory(written: Outcome, tmp_path: Path) -> None:
    song = written.results[1]
    stems = compose_and_render(5, song["index"], 4.0)
    data = read_data(tmp_path / song["path"])
    assert {stem["stemName"] for stem in data["stems"]} == stems.keys()
    mix = np.zeros((4 * 44100, 2))
    for stem in data["stems"]:
        folder = tmp_path / song["path"] / stem["stemName"]
        audio = sum(soundfile.read(folder / f"{track['id']}.wav")[0] for track in stem["tracks"])
        assert np.abs(audio - stems[stem["stemName"]]).max() < 0.6 * len(stem["tracks"]) / 32767 + 3e-5
        mix += audio
    assert np.abs(mix).max() <= 1.0


def test_processes_and_number_of_songs_change_nothing(written: Outcome, stage: Stage, tmp_path: Path) -> None:
    first = snapshot(tmp_path / "songs")
    outcome = stage(
        "demo-data", "more", "--songs", 4, "--seconds", 4, "--seed", 5, "--sounds", "synth", "--jobs", 2, "--json"
    )
    assert outcome.code == 0, outcome.stderr
    assert sorted(song["index"] for song in outcome.results) == [0, 1, 2, 3]
    more = snapshot(tmp_path / "more")
    assert {name: content for name, content in more.items() if name in first} == first
    assert len(more) > len(first)


def test_what_is_there_is_kept_and_what_is_missing_is_made(written: Outcome, stage: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "songs")
    gone = tmp_path / written.results[2]["path"]
    next(gone.glob("drums/*.wav")).write_bytes(b"cut short")
    # What a killed run leaves.
    (gone.parent / f".{gone.name}.part" / "drums").mkdir(parents=True)
    stamp = (tmp_path / written.results[0]["path"] / "data.json").stat().st_mtime_ns
    outcome = stage("demo-data", "songs", *SMALL, "--json")
    assert outcome.code == 0
    assert {song["index"]: song["written"] for song in outcome.results} == {0: False, 1: False, 2: True}
    assert (tmp_path / written.results[0]["path"] / "data.json").stat().st_mtime_ns == stamp
    assert snapshot(tmp_path / "songs") == before


def test_other_settings_need_overwrite(written: Outcome, stage: Stage, refused: Refused, tmp_path: Path) -> None:
    other = ("demo-data", "songs", "--songs", 2, "--seconds", 3, "--seed", 5, "--sounds", "synth")
    refused(*other, code=2, match=r"songs of other settings.*seconds is 4.0 there, 3.0 here.*--overwrite")
    outcome = stage(*other, "--overwrite", "--json")
    assert outcome.code == 0
    assert all(song["written"] and song["seconds"] == 3 for song in outcome.results)
    audio = next((tmp_path / written.results[0]["path"]).glob("drums/*.wav"))
    assert soundfile.info(audio).frames == 3 * 44100
    assert not [path for path in (tmp_path / "songs").iterdir() if path.name.startswith(".")]


def test_another_seed_adds_other_songs(written: Outcome, stage: Stage, tmp_path: Path) -> None:
    assert stage("demo-data", "songs", *SMALL[:5], 6, *SMALL[6:], "--json").code == 0
    assert len(list((tmp_path / "songs").iterdir())) == 6


def test_summary_goes_to_stdout_and_progress_to_stderr(stage: Stage) -> None:
    outcome = stage("demo-data", "songs", "--songs", 1, "--seconds", 2, "--sounds", "synth")
    assert outcome.code == 0
    head, row = (line.split("\t") for line in outcome.stdout.splitlines())
    assert head == ["folder", "written", "kept", "seconds each", "× real time"]
    assert row[:4] == ["songs", "1", "0", "2"]
    assert "built-in synthesizer" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--songs", 0), r"--songs cannot be 0.*allowed: 1 to"),
        (("--songs", 10**9), r"--songs cannot be 1000000000"),
        (("--seconds", 0.01), r"--duration cannot be 0.01.*1 to 600"),
        (("--seconds", "nan"), r"--duration cannot be nan"),
        (("--seconds", "inf"), r"--duration cannot be inf"),
        (("--seconds", 1e7), r"--duration cannot be 1e\+07"),
        (("--seed", -1), r"--seed cannot be -1"),
        (("--jobs", 0), r"--jobs cannot be 0"),
        (("--sounds", "orchestra"), r"--sounds cannot be 'orchestra'.*auto, synth, soundfont, mixed"),
        (("--tempo-changes", "often"), r"--tempo-changes cannot be 'often'.*never, some, always"),
        (("--soundfont", "missing.sf2"), r"cannot read the soundfont missing.sf2.*No such file"),
        (("--sounds", "synth", "--soundfont", "x.sf2"), r"--sounds synth needs no --soundfont"),
        (("--arrangement-share", 1.5), r"--arrangement-share cannot be 1.5.*allowed: 0 to 1"),
        (("--drummers", "missing"), r"cannot read drummers from missing.*it is no folder"),
        (("--kits", "missing"), r"cannot read kits from missing.*it is no folder"),
        (("--arrangements", "."), r"cannot read arrangements from \..*it holds no MIDI files"),
    ],
)
def test_bad_input_is_refused(refused: Refused, options: tuple[object, ...], match: str) -> None:
    refused("demo-data", "songs", *options, code=2, match=match)


def test_drummers_and_arrangements(stage: Stage, refused: Refused, tmp_path: Path) -> None:
    write_drummers(tmp_path / "groove", tempos=(84, 100, 118, 138, 160))
    write_midi_file(tmp_path / "midi" / "piece.mid", band_tracks(16))
    (tmp_path / "midi" / "text.mid").write_text("not MIDI")
    options = ["--songs", 10, "--seconds", 2, "--seed", 5, "--sounds", "synth"]
    learned = ["--drummers", "groove", "--arrangements", "midi", "--arrangement-share", 0.4]
    outcome = stage("demo-data", "songs", *options, *learned, "--json")
    assert outcome.code == 0
    assert "Skipped in midi: text.mid: it is no MIDI file." in outcome.stderr
    known = [read_data(tmp_path / song["path"])["annotations"] for song in outcome.results]
    assert {data["drummer"].split("/")[0] for data in known if "drummer" in data} == {"drummer1"}
    pieces = [song for song in outcome.results if song["style"] == "arrangement"]
    assert pieces
    for song in pieces:
        data = read_data(tmp_path / song["path"])
        assert (song["title"], song["key"]) == ("piece", "")
        assert {"drums", "bass", "guitar"} <= {stem["stemName"] for stem in data["stems"]}
        assert (data["annotations"]["key"], data["annotations"]["sections"]) == (None, [])
    # The same again, with processes; the order of the songs does not matter.
    first = snapshot(tmp_path / "songs")
    assert stage("demo-data", "again", *options, *learned, "--jobs", 2).code == 0
    assert snapshot(tmp_path / "again") == first
    # A recipe names the folders' content.
    refused(
        "demo-data",
        "songs",
        *options,
        code=2,
        match=r"songs of other settings.*drummers is groove \d+ .*, nothing here",
    )


def test_a_file_that_is_no_soundfont(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "song.sf2").write_bytes(b"RIFF0000WAVEfmt ")
    refused("demo-data", "songs", "--soundfont", "song.sf2", code=2, match=r"song.sf2 is no soundfont")


def test_a_soundfont_without_fluidsynth(
    refused: Refused, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.sf2").write_bytes(b"RIFF0000sfbkLIST")
    monkeypatch.setattr(soundfont, "is_available", lambda: False)
    refused(
        "demo-data", "songs", "--soundfont", "small.sf2", code=1, match=r"not installed.*\"stage-cli\[soundfont\]\""
    )
    # "auto" takes what there is.
    outcome = stage("demo-data", "songs", "--songs", 1, "--seconds", 1)
    assert outcome.code == 0
    assert "Sounds: the built-in synthesizer." in outcome.stderr


@pytest.mark.parametrize("missing", ["pyfluidsynth", "FluidSynth"])
def test_what_a_soundfont_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    """With or without them on this machine."""
    (tmp_path / "font.sf2").write_bytes(b"RIFF0000sfbkLIST")
    monkeypatch.setattr(soundfont, "DEBIAN_SOUNDFONTS", (tmp_path / "font.sf2",))
    module = types.ModuleType("fluidsynth")
    module.__spec__ = importlib.machinery.ModuleSpec("fluidsynth", None)
    monkeypatch.setitem(sys.modules, "fluidsynth", module)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name)
    assert resolve(DemoSettings()).sounds == "soundfont"
    if missing == "pyfluidsynth":
        monkeypatch.setitem(sys.modules, "fluidsynth", None)
    else:
        monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    assert resolve(DemoSettings()).sounds == "synth"
    with pytest.raises(StageError, match=r"soundfonts need FluidSynth .* pip install \"stage-cli\[soundfont\]\""):
        resolve(DemoSettings(sounds="soundfont"))


def test_no_soundfont_at_all(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfont, "DEBIAN_SOUNDFONTS", ())
    refused("demo-data", "songs", "--sounds", "mixed", code=2, match=r"no soundfont was found.*--soundfont FILE")


def test_folders_of_others_are_left_alone(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose this")
    refused("demo-data", "mine", *SMALL, code=2, match=r"mine holds other files.*thesis.txt")
    refused("demo-data", "mine", *SMALL, "--overwrite", code=2, match=r"mine holds other files")
    refused("demo-data", "mine/thesis.txt", *SMALL, code=2, match=r"it is a file.*name a folder")
    refused("demo-data", "mine/thesis.txt/songs", *SMALL, code=1, match=r"cannot write to .*Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused("demo-data", "locked", *SMALL, code=1, match=r"cannot write to locked.*Permission denied")


def test_a_full_disk_leaves_nothing_half_written(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stage_cli.core.band import demo_data

    real = demo_data._write_wav
    left = 4

    def fail(path: Path, audio: np.ndarray) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device", str(path))
        real(path, audio)

    monkeypatch.setattr(demo_data, "_write_wav", fail)
    outcome = stage("demo-data", "songs", *SMALL)
    assert outcome.code == 1
    assert "No space left" in outcome.stderr
    assert list((tmp_path / "songs").iterdir()) == []


@pytest.mark.parametrize(
    ("end", "jobs"),
    [
        (signal.SIGINT, 1),
        (signal.SIGTERM, 1),
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_is_resumed(tmp_path: Path, stage: Stage, end: signal.Signals, jobs: int) -> None:
    options = ["songs", "--songs", "5", "--seconds", "5", "--sounds", "synth", "--jobs", str(jobs)]
    command = [sys.executable, "-m", "stage_cli", "demo-data", *options]
    process = forked.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "songs").glob("[!.]*/data.json")):  # a hidden folder is a song that is not finished
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(end)  # workers end with their parent, or stderr would stay open
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[end]
    assert "Traceback" not in errors
    folders = list((tmp_path / "songs").iterdir())
    assert all((folder / "data.json").is_file() for folder in folders if not folder.name.startswith("."))
    if end is not signal.SIGKILL:
        assert not [folder for folder in folders if folder.name.startswith(".")]
    outcome = stage("demo-data", *options, "--json")
    assert outcome.code == 0
    assert len(outcome.results) == 5
    assert any(not song["written"] for song in outcome.results)
    assert len(list((tmp_path / "songs").iterdir())) == 5
