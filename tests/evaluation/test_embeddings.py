"""Embeddings against the libraries that define them, and CLAP's text score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import librosa
import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import save_file
from scipy.signal import get_window, stft
from torch.nn import functional as F

from stage_cli.core.audio.spectra import mel_filters
from stage_cli.core.evaluation.embeddings import EMBEDDINGS, Embedding, load_embedding, pieces
from stage_cli.core.evaluation.pretrained import (
    ClapEmbedding,
    CodecEmbedding,
    MertEmbedding,
    VGGish,
    VggishEmbedding,
    cosine,
    log_mel_examples,
    text_score,
)
from stage_cli.core.model import StageModel
from stage_cli.core.weights.checkpoint import load_codec
from stage_cli.errors import HubError, UsageError, WeightsError

if TYPE_CHECKING:
    from hub_server import HubServer

RATE = 8000  # of the tiny networks


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    audio = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (0.1 * audio).astype(np.float32)


class _Levels(Embedding):
    name, sample_rate, width = "levels", 1000, 2

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.array([[clip.min(), clip.max()]], dtype=np.float64) for clip in clips]


class TestEveryEmbedding:
    def test_a_new_one_is_one_small_class(self) -> None:
        found = _Levels().embed(np.array([0.5, -1.0, 0.25]), 1000)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [[-1, 0.5]])

    def test_audio_comes_at_the_networks_own_rate(self) -> None:
        analysis: list[np.ndarray] = []

        class Analysis(_Levels):
            def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
                analysis.extend(clips)
                return super().vectors(clips)

        audio = noise(0.5, rate=4000)
        Analysis().embed_batch([audio, audio[:100]], 4000)
        np.testing.assert_allclose(analysis[0], soxr.resample(audio, 4000, 1000, quality="HQ"), atol=1e-7)
        assert [len(clip) for clip in analysis] == [500, 25]
        assert Analysis().embed_batch([], 4000) == []

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (np.zeros(0), "not empty"),
            (np.zeros((2, 9)), "must be mono"),
            (np.array([0.0, np.nan]), "must be finite"),
        ],
    )
    def test_bad_audio_is_refused(self, audio: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _Levels().embed(audio, 1000)

    @pytest.mark.parametrize(
        ("samples", "lengths"), [(1, [1]), (10, [10]), (14, [10]), (15, [10, 5]), (29, [10, 10, 9]), (3, [3])]
    )
    def test_pieces(self, samples: int, lengths: list[int]) -> None:
        clip = np.arange(samples)
        cut = pieces(clip, 10)
        assert [len(piece) for piece in cut] == lengths
        np.testing.assert_array_equal(np.concatenate(cut), clip[: sum(lengths)])


class TestCodec:
    def test_latents_of_the_model(self, tiny_model: StageModel) -> None:
        embedding = load_embedding("codec", model=tiny_model)
        audio = noise(0.73)
        found = embedding.embed(audio, RATE)
        expected = tiny_model.codec.latents(torch.from_numpy(audio)[None, None])[0].T
        np.testing.assert_array_equal(found, expected.numpy())
        assert found.shape == (37, tiny_model.config.codec.dimension)
        assert (embedding.name, embedding.sample_rate, embedding.width) == ("codec", RATE, 16)

    def test_from_a_directory(self, tiny_model: StageModel, tiny_model_dir: Path) -> None:
        audio = noise(0.4)
        found = load_embedding(f"codec={tiny_model_dir}").embed(audio, RATE)
        np.testing.assert_array_equal(found, CodecEmbedding(tiny_model.codec).embed(audio, RATE))

    def test_a_published_codec_is_that_of_transformers(self, musicgen_dir: Path) -> None:
        from transformers import MusicgenForConditionalGeneration

        published: Any = MusicgenForConditionalGeneration.from_pretrained(musicgen_dir).audio_encoder
        codec = load_codec(str(musicgen_dir))
        embedding = CodecEmbedding(codec)
        audio = noise(0.3, rate=embedding.sample_rate)
        with torch.inference_mode():
            expected = published.encoder(torch.from_numpy(audio)[None, None])[0].T.numpy()
        np.testing.assert_allclose(embedding.embed(audio, embedding.sample_rate), expected, atol=1e-4)

    def test_there_must_be_a_codec(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="'codec' needs a codec"):
            load_embedding("codec")
        with pytest.raises(WeightsError, match="holds no codec"):
            load_codec(str(tmp_path))


def save_clap(folder: Path, *, fusion: bool = False) -> None:
    """Write a tiny CLAP of the transformers library with random weights, its features and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "funky", "sad", "drums", "bass"]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    config = ClapConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 12,
            "projection_dim": 8,
        },
        audio_config={
            "spec_size": 64,
            "num_mel_bins": 16,
            "window_size": 4,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [2, 2],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "projection_dim": 8,
            "enable_fusion": fusion,
        },
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = ClapModel(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("weight") and tensor.ndim > 1:
            tensor.mul_(8)  # the library's first weights are so small that all audio sounds alike
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=RATE,
        hop_length=80,
        max_length_s=1,
        fft_window_size=256,
        frequency_min=50,
        frequency_max=3500,
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def clap_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clap") / "tiny"
    save_clap(folder)
    return folder


class TestClap:
    def test_the_text_score_is_the_cosine_of_transformers(self, clap_dir: Path) -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        clap = ClapEmbedding(str(clap_dir))
        model = ClapModel.from_pretrained(clap_dir).eval()
        features = ClapFeatureExtractor.from_pretrained(clap_dir)
        tokenizer: Any = AutoTokenizer.from_pretrained(clap_dir)
        audio = noise(2.8)
        scores = []
        with torch.inference_mode():
            text = model.get_text_features(**tokenizer(["funky drums"], return_tensors="pt")).pooler_output
            for piece in (audio[:RATE], audio[RATE : 2 * RATE], audio[2 * RATE :]):
                analysis = model.get_audio_features(**features(piece, sampling_rate=RATE, return_tensors="pt"))
                scores.append(float(F.cosine_similarity(analysis.pooler_output, text)))
        assert text_score(clap, audio, RATE, "funky drums") == pytest.approx(np.mean(scores), abs=1e-5)
        assert np.ptp(scores) > 1e-3  # the pieces differ, and so do the descriptions
        assert abs(text_score(clap, audio, RATE, "sad bass") - np.mean(scores)) > 1e-3

    def test_one_vector_for_each_piece(self, clap_dir: Path) -> None:
        clap = ClapEmbedding(str(clap_dir))
        found = clap.embed_batch([noise(0.3), noise(2.8, 1), noise(2.2, 2)], RATE)
        assert [rows.shape for rows in found] == [(1, 8), (3, 8), (2, 8)]
        np.testing.assert_allclose(np.linalg.norm(np.concatenate(found), axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(found[1][1:2], clap.embed(noise(2.8, 1)[RATE : 2 * RATE], RATE), atol=1e-5)
        np.testing.assert_allclose(found[1], clap.embed(noise(2.8, 1), RATE), atol=1e-5)
        assert (clap.name, clap.sample_rate, clap.width) == ("clap", RATE, 8)

    def test_descriptions_in_a_batch_and_long_ones(self, clap_dir: Path) -> None:
        clap = ClapEmbedding(str(clap_dir))
        both = clap.embed_text(["sad", "funky drums bass"])
        np.testing.assert_allclose(both[:1], clap.embed_text(["sad"]), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
        long = clap.embed_text(["drums " * 100])
        np.testing.assert_allclose(long, clap.embed_text(["drums " * 10]), atol=1e-6)

    def test_nothing_to_compare_is_nan(self, clap_dir: Path) -> None:
        clap = ClapEmbedding(str(clap_dir))
        assert np.isnan(text_score(clap, noise(1), RATE, "  "))
        assert np.isnan(text_score(clap, np.zeros(RATE), RATE, "drums"))
        with pytest.raises(ValueError, match="must not be empty"):
            clap.embed_text(["drums", " "])

    def test_a_fused_model_gives_the_same_every_time(self, tmp_path: Path) -> None:
        """Its feature extractor marks a clip at random as longer than it is."""
        save_clap(tmp_path / "fused", fusion=True)
        clap = ClapEmbedding(str(tmp_path / "fused"))
        audio = [noise(1.0, seed) for seed in range(4)]
        first = np.concatenate(clap.embed_batch(audio, RATE))
        for _ in range(6):
            np.testing.assert_allclose(np.concatenate(clap.embed_batch(audio, RATE)), first, atol=1e-6)

    def test_it_comes_from_the_hub(self, hub: HubServer, clap_dir: Path) -> None:
        hub.add_repo("someone/clap", clap_dir)
        audio = noise(1.0)
        expected = ClapEmbedding(str(clap_dir)).embed(audio, RATE)
        np.testing.assert_array_equal(load_embedding("clap=someone/clap").embed(audio, RATE), expected)
        hub.requests.clear()
        np.testing.assert_array_equal(load_embedding("clap=someone/clap", offline=True).embed(audio, RATE), expected)
        assert hub.requests == []
        with pytest.raises(HubError, match="is not on this machine"):
            load_embedding("clap", offline=True)

    def test_loading_is_silent(self, clap_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
        state = torch.get_rng_state()
        ClapEmbedding(str(clap_dir))
        assert capfd.readouterr() == ("", "")
        assert torch.equal(state, torch.get_rng_state())

    def test_what_is_no_clap_is_refused(self, clap_dir: Path, musicgen_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is not a CLAP"):
            ClapEmbedding(str(musicgen_dir))
        for missing in ("preprocessor_config.json", "tokenizer.json"):
            broken = tmp_path / missing
            shutil.copytree(clap_dir, broken)
            (broken / missing).unlink()
            with pytest.raises(WeightsError, match=f"has no {missing}"):
                ClapEmbedding(str(broken))
        other = tmp_path / "other"
        shutil.copytree(clap_dir, other)
        save_file({"text_model.pooler.dense.bias": torch.zeros(16)}, other / "model.safetensors")
        with pytest.raises(WeightsError, match="does not fit a ClapModel"):
            ClapEmbedding(str(other))

    def test_cosine(self) -> None:
        first, second = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 3]])
        assert cosine(first, second) == pytest.approx(np.sqrt(0.5))
        assert cosine(first, -second) == pytest.approx(-np.sqrt(0.5))


@pytest.fixture(scope="module")
def mert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A tiny MERT as its repository lays it out, with code that must not run; and the HuBERT that it is."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    folder = tmp_path_factory.mktemp("mert") / "tiny"
    folder.mkdir()
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 3, 2),
        conv_stride=(5, 2, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = HubertModel(config).eval()
    values = config.to_dict() | {
        "model_type": "mert_model",
        "architectures": ["MERTModel"],
        "auto_map": {"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
        "feature_extractor_cqt": False,
        "feature_extractor_cqt_bins": 336,
        "attention_relax": -1.0,
        "deepnorm": False,
        "sample_rate": RATE,
    }
    (folder / "config.json").write_text(json.dumps(values))
    for code in ("configuration_MERT.py", "modeling_MERT.py"):
        (folder / code).write_text("raise RuntimeError('code from elsewhere was run')\n")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, published in names.items():
            name = name.replace(ours, published)
        state[name] = tensor
    torch.save(state, folder / "pytorch_model.bin")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(folder)
    return folder, model


class TestMert:
    def test_it_is_a_hubert(self, mert: tuple[Path, Any]) -> None:
        folder, model = mert
        embedding = MertEmbedding(str(folder))
        audio = noise(1.3) + 0.05
        normal = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
        with torch.inference_mode():
            expected = model(torch.from_numpy(normal)[None]).last_hidden_state[0].numpy()
        np.testing.assert_allclose(embedding.embed(audio, RATE), expected, atol=1e-5)
        assert (embedding.name, embedding.sample_rate, embedding.width) == ("mert", RATE, 16)

    def test_the_shortest_audio_makes_a_frame(self, mert: tuple[Path, Any]) -> None:
        assert MertEmbedding(str(mert[0])).embed(np.ones(1, dtype=np.float32), RATE).shape == (1, 16)

    def test_long_audio_is_heard_in_pieces(self, mert: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stage_cli.core.evaluation.pretrained._SECONDS", 1)
        embedding = MertEmbedding(str(mert[0]))
        audio = noise(1.7)
        expected = [embedding.embed(audio[:RATE], RATE), embedding.embed(audio[RATE:], RATE)]
        np.testing.assert_allclose(embedding.embed(audio, RATE), np.concatenate(expected), atol=1e-6)

    def test_from_the_hub_without_its_code(self, hub: HubServer, mert: tuple[Path, Any]) -> None:
        hub.add_repo("m-a-p/MERT-v1-95M", mert[0])
        found = load_embedding("mert").embed(noise(0.5), RATE)
        np.testing.assert_array_equal(found, MertEmbedding(str(mert[0])).embed(noise(0.5), RATE))
        fetched = set(hub.fetched("m-a-p/MERT-v1-95M"))
        assert fetched == {"config.json", "preprocessor_config.json", "pytorch_model.bin"}

    @pytest.mark.parametrize("setting", ["feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm"])
    def test_one_that_needs_its_own_code_is_refused(self, mert: tuple[Path, Any], tmp_path: Path, setting: str) -> None:
        folder = tmp_path / "mert"
        shutil.copytree(mert[0], folder)
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {setting: True}))
        with pytest.raises(WeightsError, match=f"asks for {setting}, and code from elsewhere is never executed"):
            MertEmbedding(str(folder))

    def test_what_is_no_mert_is_refused(self, mert: tuple[Path, Any], clap_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is not a MERT"):
            MertEmbedding(str(clap_dir))
        folder = tmp_path / "mert"
        shutil.copytree(mert[0], folder)
        (folder / "pytorch_model.bin").unlink()
        with pytest.raises(WeightsError, match="holds no weights"):
            MertEmbedding(str(folder))
        (mert[0] / "preprocessor_config.json").rename(tmp_path / "kept")
        try:
            with pytest.raises(WeightsError, match="has no preprocessor_config"):
                MertEmbedding(str(mert[0]))
        finally:
            (tmp_path / "kept").rename(mert[0] / "preprocessor_config.json")


class TestVggish:
    def test_the_front_end_is_scipys_and_htks(self) -> None:
        """Spectra by SciPy, mel bands in plain loops."""
        audio = noise(2.2, rate=16_000)
        window = get_window("hann", 400)
        *_, spectra = stft(
            audio, window=window, nperseg=400, noverlap=240, nfft=512, boundary=None, padded=False, scaling="spectrum"
        )
        spectra = np.abs(spectra).T * window.sum()

        def mel(hertz: float) -> float:
            return 2595 * np.log10(1 + hertz / 700)

        edges = np.linspace(mel(125), mel(7500), 66)
        filters = np.zeros((257, 64))
        for number in range(1, 257):
            for band in range(64):
                low, middle, high = edges[band : band + 3]
                here = mel(number * 16_000 / 512)
                filters[number, band] = max(0.0, min((here - low) / (middle - low), (high - here) / (high - middle)))
        expected = np.log(spectra @ filters + 0.01)
        found = log_mel_examples(audio)
        assert found.shape == (2, 96, 64)
        np.testing.assert_allclose(found.reshape(192, 64), expected[:192], atol=2e-4)

    @pytest.mark.parametrize(("samples", "examples"), [(1, 1), (15_600, 1), (30_959, 1), (30_960, 2), (160_000, 10)])
    def test_examples(self, samples: int, examples: int) -> None:
        assert log_mel_examples(np.zeros(samples)).shape == (examples, 96, 64)
        np.testing.assert_allclose(log_mel_examples(np.zeros(samples)), np.log(0.01), rtol=1e-6)

    def test_slaneys_filters_are_librosas(self) -> None:
        found = mel_filters(sample_rate=16_000, fft=1024, bands=64, low=60.0, high=7800.0, scale="slaney")
        expected = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=60.0, fmax=7800.0).T
        np.testing.assert_allclose(found, expected, atol=1e-7)

    def test_the_network(self, tmp_path: Path) -> None:
        """Names and sizes of the public port, in a file with PCA tensors; the network step by step."""
        generator = torch.Generator().manual_seed(0)
        sizes = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
        linear = {0: (12_288, 4096), 2: (4096, 4096), 4: (4096, 128)}
        state = {}
        for number, (inputs, outputs) in sizes.items():
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
            state[f"features.{number}.weight"] = weight.half()
            state[f"features.{number}.bias"] = torch.full((outputs,), 0.1).half()
        pattern = torch.randn(65_536, generator=generator)
        for number, (inputs, outputs) in linear.items():
            weight = pattern.repeat(-(-inputs * outputs // 65_536))[: inputs * outputs].view(outputs, inputs)
            state[f"embeddings.{number}.weight"] = (weight * (2 / inputs) ** 0.5).half()
            state[f"embeddings.{number}.bias"] = torch.full((outputs,), 0.1).half()
        path = tmp_path / "vggish.safetensors"
        save_file(state | {"pproc.pca_means": torch.zeros(128, 1)}, path)
        audio = noise(1.0, rate=16_000)
        found = load_embedding(f"vggish={path}").embed(audio, 16_000)

        hidden = torch.from_numpy(log_mel_examples(audio))[:, None]
        with torch.inference_mode():
            for number in sizes:
                weight, bias = (state[f"features.{number}.{name}"].float() for name in ("weight", "bias"))
                hidden = F.relu(F.conv2d(hidden, weight, bias, padding=1))
                if number not in (6, 11):
                    hidden = F.max_pool2d(hidden, 2)
            assert hidden.shape == (1, 512, 6, 4)
            hidden = hidden.movedim(1, 3).reshape(1, -1)
            for number in linear:
                weight, bias = (state[f"embeddings.{number}.{name}"].float() for name in ("weight", "bias"))
                hidden = F.linear(hidden if number == 0 else F.relu(hidden), weight, bias)
        np.testing.assert_allclose(found, hidden.numpy(), rtol=1e-3, atol=1e-4)
        assert found.shape == (1, 128)

        state["features.0.weight"] = state["features.0.weight"][:, :, :1].clone()
        save_file(state, path)
        with pytest.raises(WeightsError, match=r"holds no VGGish.*features\.0\.weight"):
            VggishEmbedding(path)

    def test_its_size_is_the_published_one(self) -> None:
        with torch.device("meta"):
            assert sum(weight.numel() for weight in VGGish().parameters()) == 72_141_184


class TestRegistry:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("openl3", "There is no embedding 'openl3'"),
            ("vggish", "needs its weights"),
            ("", "There is no embedding ''"),
        ],
    )
    def test_unknown_names(self, spec: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_embedding(spec)

    def test_all_names_are_known(self, tiny_model: StageModel, hub: HubServer, tmp_path: Path) -> None:
        """Each leads to its own class, or to its own complaint about what is missing."""
        assert hub.requests == []
        errors: dict[str, str] = {}
        for name in EMBEDDINGS:
            try:
                load_embedding(f"{name}={tmp_path}" if name != "codec" else name, model=tiny_model)
            except (WeightsError, UsageError) as error:
                errors[name] = str(error)
        assert set(errors) == {"clap", "mert", "vggish"}
        assert not any("There is no embedding" in error for error in errors.values())
