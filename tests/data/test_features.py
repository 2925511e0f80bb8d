"""Levels, beats, bars, key and the front end of tags, against known truth and other libraries."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from pathlib import Path

import mir_eval
import numpy as np
import pyloudnorm
import pytest
import soxr

from data.songs import Truth, compose
from stage_cli.core.audio import spectra
from stage_cli.core.audio.loudness import StemLevels
from stage_cli.core.music import rhythm as rhythm_module
from stage_cli.core.music import tags
from stage_cli.core.music.rhythm import (
    RATE,
    AccentTrack,
    Rhythm,
    best_beats,
    delay,
    essentia_algorithms,
    find_bars,
    find_key,
    onset_strength,
    sounding_range,
    tempo,
    track_rhythm,
)
from stage_cli.errors import StageError


def mixes(song: Truth) -> tuple[np.ndarray, np.ndarray]:
    """What has pitch, and the drums, at 44.1 kHz."""
    harmonic = np.sum([audio for stem, audio in song.stems.items() if stem != "drums"], axis=0)
    return resampled(harmonic, song.sample_rate), resampled(song.stems["drums"], song.sample_rate)


def resampled(audio: np.ndarray, rate: int, target: int = RATE) -> np.ndarray:
    return soxr.resample(audio, rate, target).astype(np.float32)


@pytest.fixture(scope="module")
def songs() -> list[Truth]:
    settings = [(96.0, 4, 2, "major"), (127.3, 4, 9, "minor"), (112.0, 3, 4, "minor"), (158.0, 4, 7, "major")]
    return [
        compose(seed, bpm=bpm, beats_per_bar=meter, tonic=tonic, scale=scale, seconds=24)
        for seed, (bpm, meter, tonic, scale) in enumerate(settings)
    ]


@pytest.fixture(scope="module")
def rhythms(songs: list[Truth]) -> list[Rhythm]:
    return [track_rhythm(*mixes(song)) for song in songs]


def test_tempo(songs: list[Truth], rhythms: list[Rhythm]) -> None:
    assert [rhythm.bpm for rhythm in rhythms] == [pytest.approx(song.bpm, rel=0.005) for song in songs]


def test_beats(songs: list[Truth], rhythms: list[Rhythm]) -> None:
    for song, rhythm in zip(songs, rhythms, strict=True):
        assert mir_eval.beat.f_measure(song.beats, np.array(rhythm.beats), f_measure_threshold=0.07) > 0.95
        assert rhythm.source == "essentia"
        assert 0.5 < rhythm.confidence <= 1


def test_bars(songs: list[Truth], rhythms: list[Rhythm]) -> None:
    for song, rhythm in zip(songs, rhythms, strict=True):
        assert rhythm.beats_per_bar == song.beats_per_bar
        assert mir_eval.beat.f_measure(song.downbeats, np.array(rhythm.downbeats)) > 0.9
        assert set(rhythm.downbeats) <= set(rhythm.beats)
        assert rhythm.bars_confidence > 0.9


def test_keys(songs: list[Truth]) -> None:
    keys = [find_key(mixes(song)[0]) for song in songs]
    assert [key and (key.tonic, key.scale) for key in keys] == [(song.tonic, song.scale) for song in songs]
    assert all(key is not None and 0.5 < key.strength <= 1 for key in keys)


def test_a_song_at_16_kilohertz() -> None:
    song = compose(2, bpm=104, tonic=0, scale="major", seconds=20, sample_rate=16000)
    harmonic, drums = mixes(song)
    rhythm, key = track_rhythm(harmonic, drums), find_key(harmonic)
    assert rhythm.bpm == pytest.approx(104, rel=0.01)
    assert mir_eval.beat.f_measure(song.beats, np.array(rhythm.beats)) > 0.95
    assert key is not None
    assert (key.tonic, key.scale) == ("C", "major")


def test_silence_around_a_song_has_no_beats(songs: list[Truth]) -> None:
    harmonic, drums = mixes(songs[0])
    padding = (10 * RATE, 7 * RATE)
    rhythm = track_rhythm(np.pad(harmonic, padding), np.pad(drums, padding))
    assert mir_eval.beat.f_measure(songs[0].beats + 10, np.array(rhythm.beats)) > 0.95
    assert rhythm.beats[0] > 9.9
    assert rhythm.beats[-1] < len(drums) / RATE + 10


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(np.zeros(0), id="nothing"),
        pytest.param(np.zeros(30 * RATE), id="silence"),
        pytest.param(1e-4 * np.random.default_rng(0).standard_normal(5 * RATE), id="noise-floor"),
        pytest.param(np.random.default_rng(0).standard_normal(RATE // 5), id="short"),
        pytest.param(np.eye(1, 20 * RATE)[0], id="one-click"),
    ],
)
def test_no_rhythm(audio: np.ndarray) -> None:
    rhythm = track_rhythm(np.zeros(len(audio), dtype=np.float32), audio.astype(np.float32))
    assert (rhythm.bpm, rhythm.beats, rhythm.downbeats, rhythm.beats_per_bar) == (None, (), (), None)
    assert (rhythm.confidence, rhythm.bars_confidence) == (0, 0)


def test_no_key() -> None:
    assert find_key(np.zeros(5 * RATE, dtype=np.float32)) is None
    assert find_key(np.ones(100, dtype=np.float32)) is None


def test_tempo_ignores_the_grid_of_the_tracker_and_gaps() -> None:
    exact = np.arange(0, 60, 60 / 175)
    on_grid = np.rint(exact * RATE / 512) * 512 / RATE
    with_a_gap = np.delete(on_grid, slice(50, 60))
    assert tempo(with_a_gap) == pytest.approx(175, rel=2e-3)
    assert abs(60 / np.median(np.diff(on_grid)) - 175) > 1, "the grid is what is tested"
    assert tempo([1.0]) is None


def test_tempo_of_a_tracker_that_runs_fast_and_catches_up() -> None:
    """All beats within 70 ms, and yet most intervals 3 % short."""
    exact = np.arange(0, 60, 60 / 82.6)
    fast = np.mod(np.arange(len(exact)), 6) * -0.02 + 0.05
    assert np.abs(fast).max() <= 0.07
    assert abs(60 / np.median(np.diff(exact + fast)) / 82.6 - 1) > 0.02
    assert tempo(exact + fast) == pytest.approx(82.6, rel=1e-2)


def test_tempo_leaves_out_what_is_no_whole_number_of_beats() -> None:
    steady = np.arange(20) * 0.5
    assert tempo(np.concatenate([steady, steady + 20.2])) == pytest.approx(120, rel=1e-3)
    assert tempo(np.concatenate([steady, steady + 20.45])) == pytest.approx(120, rel=3e-3)


def test_range_that_sounds() -> None:
    audio = np.zeros(1000, dtype=np.float32)
    assert sounding_range(audio) == (0, 0)
    audio[[100, 899]] = -0.5, 0.001
    assert sounding_range(audio) == (100, 900)


def test_onsets_lie_where_the_clicks_are() -> None:
    audio = np.zeros(4 * RATE, dtype=np.float32)
    clicks = np.array([0.5, 1.25, 3.1])
    audio[(clicks * RATE).astype(int)] = 1
    strength = onset_strength(audio).sum(axis=1)
    peaks = np.flatnonzero(strength > 0.5 * strength.max()) * 512 / RATE
    assert all(np.abs(peaks - click).min() < 0.03 for click in clicks)
    assert all(np.abs(clicks - peak).min() < 0.03 for peak in peaks)


class TestBeats:
    """What is put right after the tracker."""

    @pytest.mark.parametrize("late", [1 / 3, 1 / 2, 2 / 3])
    def test_beats_between_the_beats(self, songs: list[Truth], late: float) -> None:
        song = songs[0]
        found = best_beats(AccentTrack(*mixes(song)), song.beats[:-1] + late * 60 / song.bpm)
        assert mir_eval.beat.f_measure(song.beats, found) > 0.9

    def test_every_other_beat(self) -> None:
        """Kick and snare take turns: beats that meet only kicks are every other beat."""
        beats = np.arange(0.2, 24, 60 / 150)
        time = np.arange(round(0.15 * RATE)) / RATE
        kick = np.sin(2 * np.pi * 60 * time) * np.exp(-20 * time)
        snare = np.random.default_rng(0).standard_normal(len(time)) * np.exp(-30 * time)
        drums = np.zeros(25 * RATE, dtype=np.float32)
        for index, beat in enumerate(beats):
            drums[round(beat * RATE) :][: len(time)] += 0.3 * (snare if index % 2 else kick)
        track = AccentTrack(np.zeros_like(drums), drums)
        assert best_beats(track, beats[::2]) == pytest.approx(beats, abs=1e-6)
        assert best_beats(track, beats).tolist() == beats.tolist()

    def test_right_beats_stay(self, songs: list[Truth]) -> None:
        for song in songs:
            assert best_beats(AccentTrack(*mixes(song)), song.beats).tolist() == song.beats.tolist()

    @pytest.mark.parametrize("late", [-0.04, -0.011, 0.0, 0.025, 0.05])
    def test_delay(self, songs: list[Truth], late: float) -> None:
        strength = onset_strength(np.sum(mixes(songs[1]), axis=0))
        assert delay(strength, songs[1].beats[1:-1] + late) == pytest.approx(-late, abs=0.005)

    def test_times_are_exact_to_some_milliseconds(self, songs: list[Truth], rhythms: list[Rhythm]) -> None:
        for song, rhythm in zip(songs, rhythms, strict=True):
            found = np.array(rhythm.beats)
            errors = [found[np.abs(found - beat).argmin()] - beat for beat in song.beats]
            assert abs(np.median(errors)) < 0.006


class TestBars:
    @pytest.mark.parametrize("meter", [2, 3, 4, 6])
    @pytest.mark.parametrize("phase", [0, 1])
    def test_clear_accents(self, meter: int, phase: int) -> None:
        noise = 0.2 * np.random.default_rng(0).standard_normal(96)
        bars = find_bars((np.arange(96) % meter == phase) + noise)
        assert bars.beats_per_bar == meter
        assert bars.downbeats == tuple(range(phase, 96, meter))
        assert bars.confidence > 0.9

    def test_a_lost_beat_moves_the_bars(self) -> None:
        accents = (np.arange(96) % 4 == 0).astype(float)
        bars = find_bars(np.delete(accents, 42))
        assert set(range(0, 40, 4)) <= set(bars.downbeats)
        assert set(range(47, 95, 4)) <= set(bars.downbeats)

    def test_uncertainty_shows(self) -> None:
        generator = np.random.default_rng(3)
        assert find_bars(generator.standard_normal(64)).confidence < 0.7
        clear = (np.arange(64) % 4 == 0) + 0.1 * generator.standard_normal(64)
        assert find_bars(clear).confidence > 0.95

    @pytest.mark.parametrize("accents", [np.zeros(0), np.ones(3), np.ones(50)])
    def test_no_accents_no_bars(self, accents: np.ndarray) -> None:
        bars = find_bars(accents)
        assert (bars.downbeats, bars.beats_per_bar, bars.confidence) == ((), None, 0)


class TestLevels:
    def test_loudness_as_pyloudnorm(self) -> None:
        audio = 0.1 * np.random.default_rng(0).standard_normal((5 * 48000, 2)).astype(np.float32)
        levels = StemLevels(48000, 2, 4800)
        for first in range(0, len(audio), 16 * 4800):
            levels.push(audio[first : first + 16 * 4800])
        assert levels.loudness == pytest.approx(pyloudnorm.Meter(48000).integrated_loudness(audio), abs=0.05)
        assert levels.active == 5

    def test_active_time(self) -> None:
        audio = np.zeros((10_500, 1), dtype=np.float32)
        audio[1000:2000] = 0.5  # 0.1 s of 1 s hops
        audio[5000] = 0.009  # below −40 dBFS
        audio[10_400] = -0.011  # in the last hop, half as long
        levels = StemLevels(10_000, 1, 1000)
        levels.push(audio)
        assert levels.active == pytest.approx(0.15)

    def test_silence_has_no_loudness(self) -> None:
        levels = StemLevels(44100, 2, 4410)
        levels.push(np.zeros((44100, 2), dtype=np.float32))
        assert (levels.loudness, levels.active) == (None, 0)


class TestMelBands:
    @pytest.mark.parametrize("samples", [1, 255, 256, 257, 513, 16_000, 40_001])
    def test_as_essentia(self, samples: int) -> None:
        audio = (0.2 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
        algorithms = essentia_algorithms()
        reference = algorithms.TensorflowInputMusiCNN()
        frames = algorithms.FrameGenerator(audio, frameSize=512, hopSize=256)
        np.testing.assert_allclose(spectra.mel_bands(audio), [reference(frame) for frame in frames], rtol=0, atol=2e-4)

    def test_music_as_essentia(self, songs: list[Truth]) -> None:
        audio = resampled(mixes(songs[1])[0], RATE, 16_000)
        algorithms = essentia_algorithms()
        reference = algorithms.TensorflowInputMusiCNN()
        frames = algorithms.FrameGenerator(audio, frameSize=512, hopSize=256)
        np.testing.assert_allclose(spectra.mel_bands(audio), [reference(frame) for frame in frames], rtol=0, atol=2e-3)

    def test_filters_have_the_area_of_one(self) -> None:
        width = spectra.RATE / spectra.FRAME
        filters = spectra.mel_filters(
            sample_rate=spectra.RATE, fft=spectra.FRAME, bands=spectra.BANDS, low=0.0, high=8000.0, scale="slaney"
        )
        assert filters.sum(axis=0)[30:] * width == pytest.approx(1, abs=0.1)


class TestBeatThis:
    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch, songs: list[Truth]) -> None:
        monkeypatch.setitem(sys.modules, "beat_this", None)
        rhythm_module.tracker.cache_clear()
        with pytest.raises(StageError, match=r"needs the package beat-this.*pip install \"stage-cli\[beat-this\]\""):
            rhythm_module.track_with_beat_this(mixes(songs[0])[0])

    def install(self, monkeypatch: pytest.MonkeyPatch, home: Path, tracker: type) -> Path:
        """Stand in for the package; return where torch keeps its weights."""
        monkeypatch.setenv("TORCH_HOME", str(home))
        monkeypatch.setitem(sys.modules, "beat_this", types.ModuleType("beat_this"))
        module = types.ModuleType("beat_this.inference")
        module.Audio2Beats = tracker  # ty: ignore[unresolved-attribute]
        module.CHECKPOINT_URL = (home / "server").as_uri()  # ty: ignore[unresolved-attribute]
        monkeypatch.setitem(sys.modules, "beat_this.inference", module)
        rhythm_module.tracker.cache_clear()
        return home / "hub" / "checkpoints" / "beat_this-final0.ckpt"

    def test_what_the_tracker_finds(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        calls = []

        class Audio2Beats:
            def __init__(self, checkpoint_path: str, device: str, dbn: bool) -> None:
                calls.append((checkpoint_path, device, dbn))

            def __call__(self, audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
                calls.append((audio.dtype, rate))
                return np.arange(0.5, 9, 0.5), np.array([0.52, 2.5, 4.5, 6.5])

        weights = self.install(monkeypatch, tmp_path, Audio2Beats)
        (tmp_path / "server").mkdir()
        (tmp_path / "server" / "final0.ckpt").write_bytes(b"weights")
        rhythm = rhythm_module.track_with_beat_this(np.ones(10 * RATE, dtype=np.float32))
        rhythm_module.tracker.cache_clear()
        # A local file: the package loads it with weights_only=True, what it fetches itself without.
        assert calls == [(str(weights), "cpu", False), (np.float32, RATE)]
        assert weights.read_bytes() == b"weights"
        assert (rhythm.bpm, rhythm.beats_per_bar, rhythm.source) == (120, 4, "beat-this")
        assert rhythm.downbeats == (0.5, 2.5, 4.5, 6.5)
        (tmp_path / "server" / "final0.ckpt").unlink()
        rhythm_module.tracker()  # it is fetched once
        rhythm_module.tracker.cache_clear()

    def test_weights_that_cannot_be_fetched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        weights = self.install(monkeypatch, tmp_path, object)
        with pytest.raises(StageError, match=r"weights 'final0'.*cannot be loaded.*No such file.*fetched once"):
            rhythm_module.tracker()
        assert not weights.exists()

    @pytest.mark.parametrize("error", [pickle.UnpicklingError, RuntimeError])
    def test_weights_that_are_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception]
    ) -> None:
        class Audio2Beats:
            def __init__(self, **_: object) -> None:
                raise error("Weights only load failed\nand much more")

        weights = self.install(monkeypatch, tmp_path, Audio2Beats)
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"<html>")
        with pytest.raises(StageError, match=r"weights 'final0'.*Weights only load failed · they are fetched once"):
            rhythm_module.tracker()


class TestTags:
    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(StageError, match=r"`tags` needs onnxruntime.*pip install \"stage-cli\[tags\]\""):
            tags.require_onnxruntime()

    def test_missing_models(self, tmp_path: Path) -> None:
        with pytest.raises(StageError, match=r"lacks discogs-effnet-bsdynamic-1\.onnx and genre_discogs400"):
            tags.Tagger(tmp_path)

    def test_other_models_have_another_fingerprint(self, tmp_path: Path) -> None:
        (tmp_path / tags.EMBEDDING_MODEL).write_bytes(b"one")
        one = tags.fingerprint(tmp_path)
        (tmp_path / tags.EMBEDDING_MODEL).write_bytes(b"two")
        assert tags.fingerprint(tmp_path) != one

    def test_damaged_model(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        for name in (tags.EMBEDDING_MODEL, f"{tags.GENRE_MODEL}.onnx"):
            (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(StageError, match=r"cannot load .*discogs-effnet-bsdynamic-1\.onnx"):
            tags.Tagger(tmp_path)

    def test_tiny_models(self, tmp_path: Path) -> None:
        """Models of the published form: patches [B, 128, 96] → embeddings; embeddings → activations."""
        pytest.importorskip("onnxruntime")
        write_tiny_models(tmp_path)
        audio = (0.2 * np.random.default_rng(0).standard_normal(5 * 16_000)).astype(np.float32)
        found = tags.Tagger(tmp_path)(audio)
        # The tiny embedding is the mean of the bands; the classifiers weigh it by class.
        assert found.genres == ("Indie Rock", "Deep House")
        assert found.moods == ("happy",)
        assert tags.Tagger(tmp_path)(audio[:16_000]) == tags.Tags((), ())
        (tmp_path / f"{tags.MOOD_MODEL}.json").write_text('{"classes": ["sad", "happy", "wild"]}')
        with pytest.raises(StageError, match=r"a model has 2 classes, its \.json names 3"):
            tags.Tagger(tmp_path)(audio)
        # A classifier in place of the embedding takes no patches.
        genre = (tmp_path / f"{tags.GENRE_MODEL}.onnx").read_bytes()
        (tmp_path / tags.EMBEDDING_MODEL).write_bytes(genre)
        with pytest.raises(StageError, match=r"a model cannot take the song · .* · take the models that docs"):
            tags.Tagger(tmp_path)(audio)


def write_tiny_models(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, float32 = importlib.import_module("onnx.helper"), onnx.TensorProto.FLOAT

    def save(name: str, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
        constants = [onnx.numpy_helper.from_array(value, key) for key, value in weights.items()]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())

    def value(name: str, *shape: str | int) -> object:
        return helper.make_tensor_value_info(name, float32, shape)

    save(
        tags.EMBEDDING_MODEL.removesuffix(".onnx"),
        [
            helper.make_node("ReduceMean", ["melspectrogram"], ["embeddings"], axes=[1], keepdims=0),
            helper.make_node("Sigmoid", ["embeddings"], ["activations"]),
        ],
        [value("melspectrogram", "B", 128, 96)],
        [value("activations", "B", 96), value("embeddings", "B", 96)],
        {},
    )
    for name, biases, classes in (
        (tags.GENRE_MODEL, [0.0, 2.0, -9.0, -9.0], ["Electronic---Deep House", "Rock---Indie Rock", "A---B", "C---D"]),
        (tags.MOOD_MODEL, [-9.0, 1.0], ["sad", "happy"]),
    ):
        save(
            name,
            [
                helper.make_node("Gemm", ["embeddings", "weights", "biases"], ["logits"]),
                helper.make_node("Sigmoid", ["logits"], ["predictions"]),
            ],
            [value("embeddings", "B", 96)],
            [value("predictions", "B", len(classes))],
            {
                "weights": np.full((96, len(classes)), 1e-4, dtype=np.float32),
                "biases": np.array(biases, dtype=np.float32),
            },
        )
        (folder / f"{name}.json").write_text(f'{{"classes": {classes!r}}}'.replace("'", '"'))
