"""Recorded kits beside the synthesizer: some songs are played on them, and what they lack is the synthesizer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from stage_cli.core.band.demo_data import make_song
from stage_cli.core.band.instruments import CRASH, DRUM_TRACKS, KICK, LOW_TOM, SAMPLE_RATE, SNARE
from stage_cli.core.band.randomness import generator
from stage_cli.core.band.recorded import RecordedBank, Recordings
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.band.sounds import SynthBank, recipe
from stage_cli.errors import UsageError

HERTZ = {"kick": 35, "snare": 200, "closed hat": 7000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of falling sines, each of its own frequency, and a folder that is no kit."""
    folder = tmp_path_factory.mktemp("kits")
    (folder / "sines").mkdir()
    (folder / "papers").mkdir()
    (folder / "papers" / "notes.txt").write_text("no sound")
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    for name, hertz in HERTZ.items():
        sound = 0.8 * np.cos(2 * np.pi * hertz * time) * np.exp(-time * 12)
        soundfile.write(folder / "sines" / f"{name}.wav", sound, SAMPLE_RATE)
    return folder


def strongest(sound: np.ndarray) -> float:
    """Hz of the strongest part of a sound."""
    return float(np.abs(np.fft.rfft(sound, 1 << 16)).argmax() * SAMPLE_RATE / (1 << 16))


def test_kits_are_found_and_other_folders_named(folder: Path) -> None:
    found = Recordings.open(folder)
    assert [kit.name for kit in found.kits] == ["sines"]
    assert found.instruments == ()
    assert [line.split(":")[0] for line in found.skipped] == ["papers"]
    assert Recordings.open(folder).fingerprint == found.fingerprint


def test_some_songs_are_played_on_it(folder: Path) -> None:
    """Four of ten, by the song; the kit's own sounds where it has some, another's where nothing stands in."""
    bank = RecordedBank(Recordings.open(folder), SynthBank())
    recorded = 0
    for song in range(60):
        strokes = bank.kit("rock", generator(song, "kit"))
        assert {key for keys in DRUM_TRACKS.values() for key in keys} <= strokes.keys()
        if abs(strongest(strokes[KICK](0.8, generator(1))) - 35) > 2:
            continue
        recorded += 1
        assert strongest(strokes[SNARE](0.8, generator(1))) == pytest.approx(200, abs=2)
        np.testing.assert_array_equal(strokes[KICK](0.8, generator(2)), strokes[KICK](0.8, generator(2)))
        assert len(strokes[CRASH](0.8, generator(1)))
        assert len(strokes[LOW_TOM](0.8, generator(1)))
    assert 14 <= recorded <= 34


def test_machines_stay_machines(folder: Path) -> None:
    bank = RecordedBank(Recordings.open(folder), SynthBank())
    for song in range(12):
        own, synth = (
            bank.kit("electronic", generator(song, "kit")),
            SynthBank().kit("electronic", generator(song, "kit")),
        )
        np.testing.assert_array_equal(own[KICK](0.8, generator(1)), synth[KICK](0.8, generator(1)))


def test_songs_on_recorded_kits_are_reproducible(folder: Path) -> None:
    settings = DemoSettings(seconds=2.0, seed=2, sounds="synth", kits=folder)
    plain = DemoSettings(seconds=2.0, seed=2, sounds="synth")
    changed = 0
    for index in range(6):
        one, other = make_song(settings, index).stems(), make_song(settings, index).stems()
        assert all(np.array_equal(one[stem], other[stem]) for stem in one)
        changed += not np.array_equal(one["drums"], make_song(plain, index).stems()["drums"])
        assert np.abs(sum(one.values())).max() <= 1.0
    assert 1 <= changed < 6
    assert recipe(settings, 0)["kits"].startswith("kits")
    assert "kits" not in recipe(plain, 0)


def test_folders_without_kits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is no folder"):
        Recordings.open(tmp_path / "missing")
    with pytest.raises(UsageError, match="it holds no folders of samples"):
        Recordings.open(tmp_path)
    (tmp_path / "no kick").mkdir()
    soundfile.write(tmp_path / "no kick" / "snare.wav", np.hanning(4000), SAMPLE_RATE)
    with pytest.raises(UsageError, match="no kick: every drum kit needs one"):
        Recordings.open(tmp_path)
