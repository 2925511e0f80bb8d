"""Where essentia has no wheels: librosa finds beats and keys, and it is told. In this process, and in others."""

import json
import os
import subprocess
import sys

import mir_eval
import numpy as np
import pytest
import soundfile

from data.songs import compose
from stage_cli.core.data.settings import PrepareSettings
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.music import default_tracker, detection, key_finder, rhythm
from stage_cli.errors import StageError


@pytest.fixture
def without(monkeypatch):
    """Hide packages, as if they were not installed."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        for cached in (rhythm.essentia_algorithms, rhythm._librosa, rhythm._beat_extractor, rhythm.tracker):
            cached.cache_clear()

    yield hide
    for cached in (rhythm.essentia_algorithms, rhythm._librosa):
        cached.cache_clear()


@pytest.mark.parametrize(("bpm", "meter", "tonic", "scale"), [(96.0, 4, 2, "major"), (127.3, 4, 9, "minor")])
def test_librosa_finds_beats_bars_and_key(without, bpm, meter, tonic, scale):
    without("essentia", "beat_this")
    song = compose(1, bpm=bpm, beats_per_bar=meter, tonic=tonic, scale=scale, seconds=20)
    mix = np.sum(list(song.stems.values()), axis=0)
    pitched = np.sum([audio for stem, audio in song.stems.items() if stem != "drums"], axis=0)
    found = detection.track_beats(mix, song.sample_rate)
    assert found.source == "librosa"
    assert found.bpm == pytest.approx(bpm, rel=0.01)
    assert mir_eval.beat.f_measure(song.beats, np.array(found.beats)) > 0.9
    key = detection.find_key(pitched, song.sample_rate)
    assert key is not None
    assert (key.tonic, key.scale, key.source) == (song.tonic, song.scale, "librosa")
    assert 0.5 < key.strength <= 1


def test_silence_has_neither_beats_nor_a_key(without):
    without("essentia", "beat_this")
    silence = np.zeros(5 * rhythm.RATE, dtype=np.float32)
    assert rhythm.track_rhythm(silence, silence).beats == ()
    assert rhythm.find_key(silence) is None


def test_the_default_is_the_first_that_is_installed(without):
    without("beat_this")
    assert (default_tracker(), key_finder()) == ("essentia", "essentia")
    assert "keys" not in PrepareSettings().fingerprint  # what was prepared stays prepared
    without("essentia")
    assert (default_tracker(), key_finder()) == ("librosa", "librosa")
    assert PrepareSettings().beats == EvaluationConfig(out="x", models=("m",), metronome_set=True).tracker == "librosa"
    assert PrepareSettings().fingerprint == "beats=librosa;keys=librosa;tags=none"
    without("librosa")
    assert default_tracker() == "essentia"
    with pytest.raises(StageError, match="need the package essentia, which is not installed"):
        rhythm.load_tracker(default_tracker())


def test_beat_this_goes_before_librosa(without, monkeypatch):
    without("essentia")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "essentia" else object())
    assert default_tracker() == "beat-this"


@pytest.mark.slow  # librosa compiles what it runs
def test_prepare_data_in_a_process_without_essentia(tmp_path):
    """Workers are other processes: `sitecustomize` hides the packages in each."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\nfor name in ('essentia', 'beat_this', 'python_stretch'):\n    sys.modules[name] = None\n",
        encoding="utf-8",
    )
    clicks = np.zeros(6 * 16_000, dtype=np.float32)
    for beat in np.arange(0.2, 5.9, 0.5):
        clicks[round(beat * 16_000) :][:400] = (
            0.5 * np.random.default_rng(0).standard_normal(400) * np.exp(-np.arange(400) / 80)
        )
    tone = (0.1 * np.sin(2 * np.pi * 220 * np.arange(len(clicks)) / 16_000)).astype(np.float32)
    for stem, audio in {"drums": clicks, "bass": tone}.items():
        (tmp_path / "set/song" / stem).mkdir(parents=True)
        soundfile.write(tmp_path / "set/song" / stem / f"{stem}.wav", audio, 16_000)
    command = [sys.executable, "-m", "stage_cli", "prepare-data", str(tmp_path / "set"), "--layout", "folders"]
    environment = os.environ | {"PYTHONPATH": str(hidden), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Beats: librosa. Keys: librosa." in done.stderr + done.stdout
    features = json.loads((tmp_path / "set/song/features.json").read_text(encoding="utf-8"))
    assert features["rhythm"]["source"] == "librosa"
    assert features["rhythm"]["bpm"] == pytest.approx(120, rel=0.02)
    assert features["key"]["source"] == "librosa"
