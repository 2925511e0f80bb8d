"""COCOLA: features against librosa, the network against efficientnet_pytorch's names and numbers, safe reading."""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import pathlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import save_file
from torch import Tensor

from stage_cli.core.evaluation.cocola import (
    MODES,
    SAMPLES,
    Cocola,
    CocolaNetwork,
    CocolaScore,
    EfficientNet,
    features,
    load_network,
    magnitudes,
    masked,
    mean_score,
    pair_anchor,
    published_name,
    published_names,
    separate,
)
from stage_cli.errors import WeightsError

RATE = 16_000
DIMENSION = 8


def music(seed: int = 0, seconds: float = 5.0) -> np.ndarray:
    """Tones under clicks, in a tempo and a key of the seed's."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in generator.uniform(80, 2000, 4))
    clicks = np.exp(-200 * (time % generator.uniform(0.2, 0.5))) * generator.standard_normal(len(time))
    return (tones + 0.3 * clicks).astype(np.float32)


def tamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors numbers that follow from their names alone: any library can make the same."""
    filled = {}
    for index, (name, tensor) in enumerate(sorted(state.items())):
        if not tensor.is_floating_point():
            filled[name] = tensor
            continue
        wave = torch.cos(torch.arange(tensor.numel(), dtype=torch.float64) * 0.37 + index).reshape(tensor.shape)
        if "running_var" in name:
            wave = 1 + 0.5 * wave
        elif tensor.ndim == 1:
            wave = (1 if name.endswith("weight") else 0) + 0.1 * wave
        else:
            wave = wave * 2 / tensor[0].numel() ** 0.5
        filled[name] = wave
    return filled


def by_published_names(network: EfficientNet) -> dict[str, Tensor]:
    return {published_name(name): tensor for name, tensor in network.state_dict().items()}


class TestFeatures:
    @pytest.mark.parametrize("kind", ["music", "noise", "half silent", "silent", "other length"])
    def test_they_are_librosas(self, kind: str) -> None:
        """The published code's calls, on windows that differ in how much of them is at the floor."""
        audio = {
            "music": music(),
            "noise": np.random.default_rng(0).standard_normal(SAMPLES) * 0.1,
            "half silent": np.concatenate([np.zeros(SAMPLES // 2), music()[: SAMPLES // 2]]),
            "silent": np.zeros(SAMPLES),
            "other length": music(seconds=1.23),
        }[kind].astype(np.float32)
        spectrum = librosa.stft(audio, n_fft=1024, win_length=400, hop_length=160)
        expected = [
            librosa.power_to_db(
                librosa.feature.melspectrogram(S=np.abs(part) ** 2, sr=RATE, fmin=60.0, fmax=7800.0, n_mels=64),
                ref=np.max,
            )
            for part in librosa.decompose.hpss(spectrum)
        ]
        found = features(audio)
        assert found.shape == (2, 64, 1 + len(audio) // 160)
        np.testing.assert_allclose(found, np.stack(expected), atol=2e-3)
        assert found.max() <= 0

    def test_the_parts_are_librosas(self) -> None:
        spectrum = magnitudes(music(seconds=1.0))
        harmonic, percussive = librosa.decompose.hpss(spectrum)
        ours = separate(spectrum)
        np.testing.assert_allclose(ours[0], harmonic, atol=1e-9)
        np.testing.assert_allclose(ours[1], percussive, atol=1e-9)
        np.testing.assert_allclose(ours[0] + ours[1], spectrum, atol=1e-9)

    def test_tones_are_harmonic_and_clicks_percussive(self) -> None:
        time = np.arange(SAMPLES) / RATE
        tone, clicks = np.sin(2 * np.pi * 440 * time), np.where(np.arange(SAMPLES) % 4000 == 2000, 1.0, 0.0)
        for audio, louder in ((tone, 0), (clicks, 1)):
            powers = [float(np.square(part).sum()) for part in separate(magnitudes(audio))]
            assert powers[louder] > 20 * powers[1 - louder]

    def test_loudness_does_not_count(self) -> None:
        audio = np.random.default_rng(0).standard_normal(SAMPLES)
        np.testing.assert_allclose(features(audio), features(0.1 * audio), atol=1e-3)


class TestEfficientNet:
    def test_its_layout_is_that_of_efficientnet_pytorch(self) -> None:
        """Names and shapes of release 0.7.1's EfficientNet-B0 without classifier and with two input channels."""
        lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in by_published_names(EfficientNet(2)).items())
        assert len(lines) == 358
        assert "_blocks.4._depthwise_conv.weight (240, 1, 5, 5)" in lines
        assert "_blocks.0._se_reduce.bias (8,)" in lines
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        assert digest == "88f41c288593c95b4b8f1932b62f132ede56f21c2ddd074146fb7adfb72c1ff5"

    def test_its_size_is_the_published_one(self) -> None:
        """5 288 548 weights with the classifier of 1000 classes, for pictures in colour."""
        assert sum(weight.numel() for weight in EfficientNet(3).parameters()) == 5_288_548 - 1281 * 1000

    def test_its_numbers_are_those_of_efficientnet_pytorch(self) -> None:
        """Every 160th output of release 0.7.1 in double precision, for weights and a picture that are formulas.
        An even number of zeros on both sides, or padding by the picture's own size, gives others."""
        network = EfficientNet(2).double().eval()
        state = tamed(by_published_names(network))
        network.load_state_dict({name: state[published_name(name)] for name in network.state_dict()})
        picture = torch.sin(torch.arange(2 * 64 * 501, dtype=torch.float64) * 0.011).reshape(1, 2, 64, 501)
        with torch.inference_mode():
            found = network(picture)[0]
        expected = [
            -0.25704844480237216,
            -0.2756242541776694,
            -0.2570896005498625,
            -0.1528727726070003,
            -0.06105806346981006,
            0.5194590714126924,
            0.5841027479909237,
            1.024839212515626,
        ]
        np.testing.assert_allclose(found[::160].numpy(), expected, rtol=1e-8)
        assert float(found.norm()) == pytest.approx(42.51036327240701, rel=1e-9)

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="is not a tensor of an EfficientNet"):
            published_name("nothing")


@functools.cache
def trained_look_alike() -> CocolaNetwork:
    """A network of random weights whose batch norms know the features: as after training, nothing explodes in it."""
    network = CocolaNetwork(DIMENSION)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        else:
            noise = 0.1 * torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + (0 if name.endswith(("bias", "mean")) else 1))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean
    pictures = torch.from_numpy(np.stack([features(music(seed)) for seed in (11, 12, 13)]))
    with torch.no_grad():
        for mode in MODES:
            network(pictures, mode)
    return network.eval()


def published_state() -> dict[str, Tensor]:
    """Make the `state_dict` of a COCOLA checkpoint, with the published names."""
    network = trained_look_alike()
    state = network.state_dict()
    return {theirs: state[ours].clone() for ours, theirs in published_names(network).items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cocola") / "cocola.safetensors"
    save_file(published_state(), path)
    return path


@pytest.fixture(scope="module")
def cocola(checkpoint: Path) -> Cocola:
    return Cocola.load(checkpoint)


class TestNetwork:
    def test_shapes_and_formula(self, checkpoint: Path) -> None:
        network = load_network(checkpoint)
        state = published_state()
        pictures = torch.randn(3, 2, 64, 101, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            vectors = network(pictures)
            hidden = network.backbone(pictures)
            projected = hidden @ state["encoder.projection.weight"].T + state["encoder.projection.bias"]
            centred = projected - projected.mean(dim=1, keepdim=True)
            normal = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
            expected = torch.tanh(normal * state["layer_norm.weight"] + state["layer_norm.bias"])
            assert hidden.shape == (3, 1280)
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
            scores = network.score(vectors, vectors.flip(0))
        by_hand = [float(vectors[i] @ state["similarity.w"] @ vectors[2 - i]) for i in range(3)]
        np.testing.assert_allclose(scores.numpy(), by_hand, rtol=1e-4)
        assert abs(by_hand[0] - by_hand[2]) > 1e-3  # the order of a pair matters

    def test_modes_mask_one_channel(self, checkpoint: Path) -> None:
        network = load_network(checkpoint)
        generator = torch.Generator().manual_seed(2)
        pictures = torch.randn(2, 2, 64, 101, generator=generator)
        kept = pictures.clone()
        harmonic, percussive = pictures.clone(), pictures.clone()
        harmonic[:, 1], percussive[:, 0] = 0, 0
        with torch.inference_mode():
            made = {mode: network(pictures, mode) for mode in MODES}
            assert torch.equal(made["harmonic"], network(harmonic))
            assert torch.equal(made["percussive"], network(percussive))
            # What is masked cannot be heard, what is not can.
            other = pictures.clone()
            other[:, 1] = torch.randn(2, 64, 101, generator=generator)
            assert torch.equal(network(other, "harmonic"), made["harmonic"])
            assert not torch.allclose(network(other, "percussive"), made["percussive"], atol=1e-3)
            assert not torch.allclose(made["harmonic"], made["both"], atol=1e-3)
        assert torch.equal(pictures, kept)
        with pytest.raises(ValueError, match="one of both, harmonic, percussive, not 'melodic'"):
            masked(pictures, "melodic")  # ty: ignore[invalid-argument-type]


class TestScore:
    def test_the_mean_over_the_windows(self, cocola: Cocola, checkpoint: Path) -> None:
        network = load_network(checkpoint)
        context, stem = music(1, 9.9), music(2, 7.5)
        scores: dict[str, list[float]] = {mode: [] for mode in MODES}
        for first in (0, 40_000):
            pair = [torch.from_numpy(features(audio[first : first + SAMPLES]))[None] for audio in (context, stem)]
            for mode in MODES:
                with torch.inference_mode():
                    a, b = (network(picture, mode)[0] for picture in pair)
                    scores[mode].append(float(a @ network.bilinear @ b))
        found = cocola.score(context, stem, RATE)
        expected = CocolaScore(*(float(np.mean(scores[mode])) for mode in MODES))
        np.testing.assert_allclose(list(found.metrics().values()), list(vars(expected).values()), atol=5e-3)
        assert list(found.metrics()) == ["cocola", "cocola_harmonic", "cocola_percussive"]
        assert len({round(value, 3) for value in found.metrics().values()}) == 3

    @pytest.fixture
    def one_thread(self) -> Iterator[None]:
        """Sums that do not depend on the batch: these random weights make rounding on AVX2 0.015 of a score."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @pytest.mark.usefixtures("one_thread")
    def test_silent_windows_are_left_out(self, cocola: Cocola) -> None:
        context, stem = music(1, 7.5), music(2, 7.5)
        stem[SAMPLES // 2 :] = 0  # all of the second window, and half of the first
        vectors = cocola.vectors(stem, RATE)
        assert vectors.sounds.tolist() == [True, False]
        both = cocola.vectors(context, RATE)
        found, first = cocola.compare(both, vectors), cocola.score(context[:SAMPLES], stem[:SAMPLES], RATE)
        np.testing.assert_allclose(list(vars(found).values()), list(vars(first).values()), atol=5e-3)
        vectors.sounds[1] = True
        assert abs(cocola.compare(both, vectors).both - first.both) > 0.02

    @pytest.mark.parametrize("seconds", [0.0, 4.9])
    def test_short_audio_is_nan(self, cocola: Cocola, seconds: float) -> None:
        assert all(math.isnan(value) for value in cocola.score(music(1), music(2, seconds), RATE).metrics().values())

    def test_silence_is_nan(self, cocola: Cocola) -> None:
        found = cocola.score(music(1), np.zeros(SAMPLES), RATE)
        assert all(math.isnan(value) for value in found.metrics().values())

    def test_other_sample_rates(self, cocola: Cocola) -> None:
        audio = music(1).repeat(2)
        found, expected = cocola.vectors(audio, 32_000), cocola.vectors(soxr.resample(audio, 32_000, RATE), RATE)
        assert len(found.sounds) == 1
        assert all(torch.equal(found.vectors[mode], expected.vectors[mode]) for mode in MODES)

    @pytest.mark.parametrize(("audio", "message"), [(np.zeros((2, 9)), "mono"), (np.array([np.inf]), "finite")])
    def test_bad_audio_is_refused(self, cocola: Cocola, audio: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            cocola.vectors(audio, RATE)

    def test_true_and_shuffled_pairs(self, cocola: Cocola) -> None:
        """A network that hears nothing but whether both sides are one: contexts and stems of a song are the same."""
        vectors = [cocola.vectors(music(seed), RATE) for seed in range(6)]
        songs = ["a", "a", "b", "b", "c", "c"]
        network = CocolaNetwork(DIMENSION)
        network.load_state_dict(cocola._network.state_dict())
        with torch.no_grad():
            network.bilinear.copy_(torch.eye(DIMENSION))
        found = pair_anchor(Cocola(network), vectors, vectors, songs, seed=0)
        for mode in MODES:
            expected = np.mean([float(item.vectors[mode].square().sum()) for item in vectors])
            assert getattr(found.true, mode) == pytest.approx(expected, rel=1e-4)
            assert getattr(found.shuffled, mode) < getattr(found.true, mode)
        assert pair_anchor(Cocola(network), vectors, vectors, songs, seed=0) == found
        with pytest.raises(ValueError, match="6 contexts, 5 stems and 6 songs"):
            pair_anchor(cocola, vectors, vectors[:5], songs, seed=0)
        with pytest.raises(ValueError, match="at least two songs"):
            pair_anchor(cocola, vectors, vectors, ["a"] * 6, seed=0)

    def test_means_leave_nan_out(self) -> None:
        nan = CocolaScore(math.nan, math.nan, math.nan)
        assert mean_score([CocolaScore(1, 2, 3), nan, CocolaScore(3, 2, 1)]) == CocolaScore(2, 2, 2)
        assert all(math.isnan(value) for value in mean_score([nan]).metrics().values())
        assert all(math.isnan(value) for value in mean_score([]).metrics().values())


class _LooksUp:
    """Pickles as `getattr(class, name)`, as the enumerations of Python 3.11's first releases do."""

    def __init__(self, owner: type, name: str) -> None:
        self.found = (owner, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.found


class _Runs:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.fixture
def authors_settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings as Lightning keeps them, made with a look-alike of the authors' module, which the reader has not."""
    module = types.ModuleType("contrastive_model.constants")

    class EmbeddingMode(enum.Enum):
        RANDOM = "random"

    EmbeddingMode.__module__, EmbeddingMode.__qualname__ = module.__name__, "EmbeddingMode"
    module.EmbeddingMode = EmbeddingMode  # ty: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, "contrastive_model", types.ModuleType("contrastive_model"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return {
        "learning_rate": 0.001,
        "embedding_mode": EmbeddingMode.RANDOM,
        "input_type": _LooksUp(EmbeddingMode, "RANDOM"),
        "root_dir": pathlib.PurePosixPath("/disk1/music"),
    }


class TestCheckpoint:
    def test_lightnings(
        self, checkpoint: Path, authors_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "COCOLA_HP_v1.ckpt"
        content = {
            "epoch": 87,
            "pytorch-lightning_version": "2.2.1",
            "state_dict": published_state(),
            "hyper_parameters": authors_settings,
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        }
        torch.save(content, path)
        monkeypatch.delitem(sys.modules, "contrastive_model.constants")
        monkeypatch.delitem(sys.modules, "contrastive_model")
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(path, weights_only=True)  # what it takes to read this file
        trusted = torch.serialization.get_safe_globals()
        found, expected = load_network(path).state_dict(), load_network(checkpoint).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert torch.serialization.get_safe_globals() == trusted

    def test_plain_pickles(self, checkpoint: Path, tmp_path: Path) -> None:
        path = tmp_path / "plain.ckpt"
        torch.save({"state_dict": published_state()}, path)
        found, expected = load_network(path).state_dict(), load_network(checkpoint).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    @pytest.mark.parametrize("with_settings", [False, True])
    def test_code_is_never_run(self, authors_settings: dict[str, Any], tmp_path: Path, with_settings: bool) -> None:
        path, trace = tmp_path / "evil.ckpt", tmp_path / "was_run"
        evil = {"state_dict": published_state(), "more": _Runs(exec, f"open({str(trace)!r}, 'w')")}
        torch.save(evil | ({"hyper_parameters": authors_settings} if with_settings else {}), path)
        with pytest.raises(WeightsError, match="was refused: it is a pickle that wants to run code"):
            load_network(path)
        assert not trace.exists()

    def test_the_stand_in_looks_nothing_up(self, tmp_path: Path) -> None:
        """getattr is let through by name; it must not lead to anything, whatever it is asked for."""
        path = tmp_path / "looks.ckpt"
        torch.save({"state_dict": published_state(), "more": _LooksUp(pathlib.PurePosixPath, "cwd")}, path)
        assert load_network(path).projection.out_features == DIMENSION
        torch.save({"state_dict": _LooksUp(pathlib.PurePosixPath, "cwd")}, path)
        with pytest.raises(WeightsError, match="has no state_dict"):
            load_network(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("one channel", r"hears 1 channel\(s\), not harmonic and percussive"),
            ("no projection", r"has no encoder\.projection\.weight"),
            ("no norm", r"1 tensors are missing, unknown or misshapen, such as layer_norm\.bias"),
            ("another tensor", r"such as temperature"),
            ("misshapen", r"such as similarity\.w"),
            ("nothing", r"has no encoder\.encoder\.model\.0\._conv_stem\.weight"),
            ("nan", "holds NaN or infinite numbers"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tmp_path: Path, change: str, message: str) -> None:
        state = published_state()
        stem = "encoder.encoder.model.0._conv_stem.weight"
        if change == "one channel":
            state[stem] = state[stem][:, :1].clone()
        elif change == "no projection":
            state.pop("encoder.projection.weight")
        elif change == "no norm":
            state.pop("layer_norm.bias")
        elif change == "another tensor":
            state["temperature"] = torch.zeros(1)
        elif change == "misshapen":
            state["similarity.w"] = torch.zeros(3, 3)
        elif change == "nan":
            state["similarity.w"][0, 0] = math.nan
        else:
            state = {"weight": torch.zeros(2)}
        path = tmp_path / "other.safetensors"
        save_file(state, path)
        with pytest.raises(WeightsError, match=message):
            load_network(path)

    def test_broken_files(self, tmp_path: Path) -> None:
        path = tmp_path / "cocola.ckpt"
        with pytest.raises(WeightsError, match="Cannot read"):
            load_network(path)
        path.write_bytes(b"not a checkpoint at all")
        with pytest.raises(WeightsError, match="truncated, damaged, or not a checkpoint"):
            load_network(path)
        torch.save({"state_dict": published_state()}, path)
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(WeightsError, match="truncated, damaged, or not a checkpoint"):
            load_network(path)
