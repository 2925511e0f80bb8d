"""The four formats of docs/dev/model.md give the same model."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from audiocraft_reference import codec_state, save_audiocraft
from hub_server import HubServer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers_reference import make_codec, make_musicgen

from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights import saving
from stage_cli.core.weights.checkpoint import codec_of_directory
from stage_cli.core.weights.tensors import open_checkpoint
from stage_cli.errors import WeightsError


def load(directory: Path, precision: str = "float32") -> StageModel:
    return StageModel.from_pretrained(str(directory), device="cpu", precision=precision)


def assert_same(one: StageModel, other: StageModel, *, part: str = "") -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if name.startswith(part):
            assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def half_precision(musicgen_dir: Path) -> dict[str, Tensor]:
    """The tiny MusicGen's tensors, those outside the codec rounded to what fp16 can hold."""
    state = load_file(musicgen_dir / "model.safetensors")
    return {
        name: tensor if name.startswith("audio_encoder.") else tensor.half().float() for name, tensor in state.items()
    }


@pytest.fixture(scope="module")
def transformers_dir(
    half_precision: dict[str, Tensor], musicgen_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "transformers"
    folder.mkdir()
    save_file(half_precision, folder / "model.safetensors")
    shutil.copy(musicgen_dir / "config.json", folder)
    return folder


@pytest.fixture(scope="module")
def audiocraft_dir(half_precision: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "audiocraft"
    save_audiocraft(folder, half_precision, heads=4, layers=3)
    return folder


def test_audiocraft_equals_transformers(audiocraft_dir: Path, transformers_dir: Path) -> None:
    audiocraft, transformers = load(audiocraft_dir), load(transformers_dir)
    assert audiocraft.config.lm == transformers.config.lm
    # audiocraft's codec is known to run at 32 kHz; the tiny one's 8 kHz stand in transformers' config only.
    assert dataclasses.replace(audiocraft.config.codec, sample_rate=8000) == transformers.config.codec
    assert_same(audiocraft, transformers)


def test_audiocraft_exports_nested_once_more(audiocraft_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(audiocraft_dir, tmp_path / "nested")
    content = torch.load(audiocraft_dir / "state_dict.bin", weights_only=True)
    torch.save(content | {"best_state": {"model": content["best_state"]}}, tmp_path / "nested" / "state_dict.bin")
    assert_same(load(tmp_path / "nested"), load(audiocraft_dir))


def test_audiocraft_heads_without_settings_are_64_wide(audiocraft_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(audiocraft_dir, tmp_path / "bare")
    content = torch.load(audiocraft_dir / "state_dict.bin", weights_only=True)
    torch.save({"best_state": content["best_state"]}, tmp_path / "bare" / "state_dict.bin")
    with pytest.raises(WeightsError, match=r"A model 48 wide .* heads are not known to be 64 wide"):
        load(tmp_path / "bare")


def _with_published_codec(audiocraft_dir: Path, directory: Path, name: str) -> Path:
    shutil.copytree(audiocraft_dir, directory)
    torch.save({"pretrained": name, "exported": True, "version": "1.0"}, directory / "compression_state_dict.bin")
    return directory


def test_audiocraft_that_names_a_published_codec(
    hub: HubServer, audiocraft_dir: Path, transformers_dir: Path, tmp_path: Path
) -> None:
    make_codec().save_pretrained(tmp_path / "encodec")
    hub.add_repo("facebook/encodec_32khz", tmp_path / "encodec")
    directory = _with_published_codec(audiocraft_dir, tmp_path / "model", "facebook/encodec_32khz")
    model = load(directory)
    assert_same(model, load(transformers_dir))
    assert model.config.codec.sample_rate == 8000  # from the published codec's own config
    assert set(hub.fetched("facebook/encodec_32khz")) == {"config.json", "model.safetensors"}


def test_a_codec_named_by_a_path_is_refused(hub: HubServer, audiocraft_dir: Path, tmp_path: Path) -> None:
    directory = _with_published_codec(audiocraft_dir, tmp_path / "model", "/etc/../etc/codec")
    with pytest.raises(WeightsError, match=r"names a codec that is not on the Hub .*/etc/\.\./etc/codec"):
        load(directory)
    assert hub.requests == []


def test_audiocraft_without_a_codec(audiocraft_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(audiocraft_dir, tmp_path / "model")
    (tmp_path / "model" / "compression_state_dict.bin").unlink()
    with pytest.raises(WeightsError, match=r"has no compression_state_dict\.bin with a codec"):
        load(tmp_path / "model")


def test_shards_equal_the_whole(musicgen_dir: Path, tmp_path: Path) -> None:
    make_musicgen().save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    sharded, whole = load(tmp_path), load(musicgen_dir)
    assert dataclasses.replace(sharded.config, base=None) == dataclasses.replace(whole.config, base=None)
    assert_same(sharded, whole)


def test_our_own_format_round_trip(musicgen_dir: Path, tmp_path: Path) -> None:
    model = load(musicgen_dir)
    model.save_pretrained(tmp_path / "own")
    again = load(tmp_path / "own")
    assert again.config == model.config
    assert_same(again, model)
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["config.json", "model.safetensors"]
    again.save_pretrained(tmp_path / "own")  # over itself, while its file is mapped
    assert_same(load(tmp_path / "own"), model)


def test_half_precision_round_trip(musicgen_dir: Path, tmp_path: Path) -> None:
    model = load(musicgen_dir, "bfloat16")
    assert model.lm.embeddings.dtype == torch.bfloat16
    assert model.codec.quantizer.codebooks.dtype == torch.float32  # the codec is never rounded
    model.save_pretrained(tmp_path / "own")
    stored = load_file(tmp_path / "own" / "model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name.startswith("lm.")} == {torch.bfloat16}
    assert_same(load(tmp_path / "own", "bfloat16"), model)


def test_an_int8_model_is_not_saved(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="loaded as int8 cannot be saved"):
        load(tiny_model_dir, "int8").save_pretrained(tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_failed_save_leaves_the_old_model(
    tiny_model: StageModel, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(state: dict[str, Tensor], path: Path, **_: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shutil.copytree(tiny_model_dir, tmp_path / "own")
    before = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    monkeypatch.setattr(saving, "save_file", fill_the_disk)
    with pytest.raises(WeightsError, match=r"Cannot write the model to .*No space left on device"):
        tiny_model.save_pretrained(tmp_path / "own")
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == before


@pytest.mark.parametrize("spelling", ["weight_g / weight_v", "parametrizations"])
def test_both_spellings_of_weight_normalisation(spelling: str, tmp_path: Path) -> None:
    codec: Any = make_codec()
    state = dict(codec.state_dict())
    if spelling.startswith("weight_g"):  # as in the published files, which older versions of torch wrote
        for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
            state = {name.replace(f"parametrizations.weight.{old}", new): tensor for name, tensor in state.items()}
    assert any(name.endswith("weight_g") for name in state) == spelling.startswith("weight_g")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "encodec", "sampling_rate": 8000}))
    part = codec_of_directory(tmp_path)
    assert part is not None
    assert (part.config.sample_rate, part.config.ratios) == (8000, (8, 5, 4))
    ours = dict(part.source.tensors())
    # The reference's own effective weights, normalisation applied by torch.
    convolution = codec.encoder.layers[0].conv
    torch.testing.assert_close(ours["codec.encoder.input.weight"], convolution.weight, atol=1e-6, rtol=0)
    assert torch.equal(ours["codec.quantizer.codebooks"][2], codec.quantizer.layers[2].codebook.embed)


def test_a_codec_in_audiocrafts_names(tmp_path: Path) -> None:
    codec = make_codec()
    torch.save({"best_state": codec_state(dict(codec.state_dict()))}, tmp_path / "compression_state_dict.bin")
    codec.save_pretrained(tmp_path / "transformers")
    audiocraft, transformers = (codec_of_directory(path) for path in (tmp_path, tmp_path / "transformers"))
    assert audiocraft is not None
    assert transformers is not None
    theirs = dict(transformers.source.tensors())
    ours = dict(audiocraft.source.tensors())
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_codec_of_our_own_model(tiny_model_dir: Path, tiny_model: StageModel) -> None:
    part = codec_of_directory(tiny_model_dir)
    assert part is not None
    assert part.config == tiny_model.config.codec
    for name, tensor in part.source.tensors():
        assert torch.equal(tensor, tiny_model.state_dict()[name]), name


def test_a_directory_without_a_codec(tmp_path: Path) -> None:
    assert codec_of_directory(tmp_path) is None


def test_heads_come_from_the_config(musicgen_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(musicgen_dir, tmp_path / "model")
    values = json.loads((musicgen_dir / "config.json").read_text())
    values["decoder"]["num_attention_heads"] = 6
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    assert load(tmp_path / "model").config.lm.heads == 6


def test_stereo_and_melody_models_are_refused(musicgen_dir: Path, tmp_path: Path) -> None:
    # Their layouts are not those of model.md: eight codebooks for two channels; a chroma conditioner.
    shutil.copytree(musicgen_dir, tmp_path / "model")
    state = load_file(musicgen_dir / "model.safetensors")
    for k in range(4, 8):
        for name in ("decoder.model.decoder.embed_tokens", "decoder.lm_heads"):
            state[f"{name}.{k}.weight"] = state[f"{name}.0.weight"].clone()
    save_file(state, tmp_path / "model" / "model.safetensors")
    with pytest.raises(WeightsError, match="The codec has 4 codebooks of 32, the language model 8 of 32"):
        load(tmp_path / "model")


def test_configs_round_trip(tiny_config: StageConfig, musicgen_dir: Path) -> None:
    for config in (tiny_config, load(musicgen_dir).config, StageConfig(), StageConfig(stem="bass", base="x")):
        assert StageConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_reading_is_mapped_and_named(musicgen_dir: Path) -> None:
    file = open_checkpoint(musicgen_dir / "model.safetensors")
    reference = load_file(musicgen_dir / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in reference.items()} == file.shapes
    for name, tensor in reference.items():
        assert torch.equal(file.read(name), tensor)
