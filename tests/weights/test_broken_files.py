"""Files that are not what they should be: one clear error each, and nothing of them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from audiocraft_reference import save_audiocraft
from safetensors.torch import load_file, save_file
from torch import Tensor

from stage_cli.core.model import StageModel
from stage_cli.core.weights.checkpoint import find_language_model, plan_directory
from stage_cli.core.weights.tensors import open_checkpoint
from stage_cli.errors import StageError, WeightsError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def own(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to spoil."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "own"))


@pytest.fixture
def musicgen(musicgen_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny MusicGen, to spoil."""
    return Path(shutil.copytree(musicgen_dir, tmp_path / "musicgen"))


def _load(directory: Path) -> StageModel:
    return StageModel.from_pretrained(str(directory), device="cpu", precision="float32")


def _change_tensors(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors")


def _change_config(directory: Path, change: Change) -> None:
    values = json.loads((directory / "config.json").read_text())
    change(values)
    (directory / "config.json").write_text(json.dumps(values))


def test_all_that_does_not_fit_is_listed_in_one_error(own: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["lm.norm.bias"], state["codec.encoder.input.weight"]
        state["surprise.weight"] = torch.zeros(1)
        state["lm.norm.weight"] = torch.zeros(7)

    _change_tensors(own, change)
    with pytest.raises(WeightsError, match="does not fit the model") as error:
        _load(own)
    assert error.value.why == (
        "2 missing: codec.encoder.input.weight, lm.norm.bias; 1 unknown: surprise.weight; "
        "1 misshapen: lm.norm.weight: [7] instead of [64]"
    )


def test_the_same_for_a_published_checkpoint(musicgen: Path) -> None:
    decoder = "decoder.model.decoder"

    def change(state: dict[str, Tensor]) -> None:
        del state[f"{decoder}.layers.1.fc1.weight"]
        state[f"{decoder}.layers.0.self_attn.q_proj.weight"] = torch.zeros(48, 47)
        state[f"{decoder}.layers.0.self_attn.q_proj.bias"] = torch.zeros(48)

    _change_tensors(musicgen, change)
    with pytest.raises(WeightsError, match="does not fit the model") as error:
        _load(musicgen)
    assert f"1 missing: {decoder}.layers.1.fc1.weight" in error.value.why
    assert f"1 unknown: {decoder}.layers.0.self_attn.q_proj.bias" in error.value.why
    assert f"1 misshapen: {decoder}.layers.0.self_attn.q_proj.weight" in error.value.why


def test_an_incomplete_codec_of_a_published_checkpoint(musicgen: Path) -> None:
    _change_tensors(musicgen, lambda state: state.pop("audio_encoder.decoder.layers.3.conv.bias"))
    with pytest.raises(WeightsError, match=r"1 missing: audio_encoder\.decoder\.layers\.3\.conv\.bias"):
        _load(musicgen)


def test_a_long_list_is_cut(own: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state.update({f"extra.{number:02}": torch.zeros(1) for number in range(20)})

    _change_tensors(own, change)
    with pytest.raises(WeightsError, match=r"20 unknown: extra\.00, .*extra\.07 and 12 more"):
        _load(own)


def test_a_musicgen_without_a_codec(musicgen: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("audio_encoder.")]:
            del state[name]

    _change_tensors(musicgen, change)
    with pytest.raises(WeightsError, match=r"has no codec \(audio_encoder"):
        _load(musicgen)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["lm.layers.1.feed_forward_in.weight", "codec.quantizer.codebooks"])
def test_numbers_that_are_not_finite(own: Path, name: str, value: float) -> None:
    _change_tensors(own, lambda state: state[name].view(-1)[3:4].fill_(value))
    with pytest.raises(WeightsError, match=rf"weights are broken: {name} holds NaN or infinite numbers"):
        _load(own)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors(own: Path, share: float) -> None:
    data = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"is truncated, damaged, or not a checkpoint .* download or copy it again"):
        _load(own)


def test_a_missing_weights_file(own: Path) -> None:
    (own / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"Cannot read .*model\.safetensors .* No such file"):
        _load(own)


def test_a_missing_shard(musicgen: Path) -> None:
    (musicgen / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (musicgen / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model-00001-of-00002\.safetensors"):
        _load(musicgen)


@pytest.mark.parametrize("shard", ["../../etc/model.safetensors", "/etc/model.safetensors", "state.bin", "..", 7])
def test_shards_outside_the_folder_are_refused(musicgen: Path, shard: object) -> None:
    (musicgen / "model.safetensors").unlink()
    (musicgen / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match="names a shard that is not a safetensors file of its own folder"):
        _load(musicgen)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": [1]}}', "7"])
def test_indices_that_are_none(musicgen: Path, text: str) -> None:
    (musicgen / "model.safetensors").unlink()
    (musicgen / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json is not a list of shards"):
        _load(musicgen)


class _Touch:
    """A pickle that makes a file when it is loaded by one who trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", ["torch", "plain"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, protocol: str) -> None:
    path, trace = tmp_path / "state_dict.bin", tmp_path / "it-ran"
    content = {"best_state": {"emb.0.weight": torch.zeros(2)}, "payload": _Touch(trace)}
    if protocol == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError, match="was refused: it is a pickle that wants to run code"):
        open_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if protocol == "torch" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the trap was live


@pytest.fixture
def audiocraft(musicgen_dir: Path, tmp_path: Path) -> Path:
    save_audiocraft(tmp_path / "audiocraft", load_file(musicgen_dir / "model.safetensors"), heads=4, layers=3)
    return tmp_path / "audiocraft"


@pytest.mark.parametrize("file", ["state_dict.bin", "compression_state_dict.bin"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_pickles(audiocraft: Path, file: str, share: float) -> None:
    data = (audiocraft / file).read_bytes()
    (audiocraft / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=f"{file} is truncated, damaged, or not a checkpoint"):
        _load(audiocraft)


@pytest.mark.parametrize("content", [[1, 2], "text", 7, {"best_state": [1]}, {"best_state": None}])
def test_pickles_without_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "state_dict.bin")
    with pytest.raises(WeightsError, match=r"holds no named tensors|holds no language model"):
        find_language_model(tmp_path / "state_dict.bin")


@pytest.mark.parametrize("name", ["notes.txt", "model.ckpt", "model.safetensors", "model.bin"])
@pytest.mark.parametrize("data", [b"hello, this is no checkpoint at all", b"\x00" * 100, b"PK\x03\x04 zip?"])
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError, match=r"is truncated, damaged, or not a checkpoint|was refused"):
        open_checkpoint(tmp_path / name)


def test_tensors_of_something_else(tmp_path: Path) -> None:
    save_file({"bert.weight": torch.zeros(2)}, tmp_path / "bert.safetensors")
    with pytest.raises(WeightsError, match=r"holds no language model of a known format .*audiocraft"):
        find_language_model(tmp_path / "bert.safetensors")


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is not a model that stage-cli can read .*stage models import"):
        plan_directory(tmp_path)


CONFIGS: dict[str, tuple[Change, str]] = {
    "an unknown key": (lambda v: v.update(colour="red"), "a key or a type that is not known .*colour"),
    "an unknown key of the model": (lambda v: v["lm"].update(colour=1), r"Unknown key lm\.colour"),
    "an unknown key of the codec": (lambda v: v["codec"].update(colour=1), "unknown key 'colour'"),
    "no model": (lambda v: v.pop("lm"), "config.json has no 'lm'"),
    "a model that is no object": (lambda v: v.update(lm=[1, 2]), "config.json|lm"),
    "a codec that is no object": (lambda v: v.update(codec=7), "config.json|codec"),
    "a newer version": (lambda v: v.update(format_version=2), "format version 2; this stage-cli reads up to 1"),
    "no version": (lambda v: v.pop("format_version"), "format version None"),
    "a version that is no number": (lambda v: v.update(format_version="1"), "format version '1'"),
    "no heads": (lambda v: v["lm"].update(heads=0), r"lm\.heads = 0"),
    "heads that do not divide": (lambda v: v["lm"].update(heads=3), r"lm\.dimension = 64 with lm\.heads = 3"),
    "a fraction of layers": (lambda v: v["lm"].update(layers=2.5), r"lm\.layers = 2\.5"),
    "a width as text": (lambda v: v["lm"].update(dimension="64"), r"lm\.dimension = '64'"),
    "a text width of 0": (lambda v: v["lm"].update(text_dimension=0), r"lm\.text_dimension = 0"),
    "a text width that is true": (lambda v: v["lm"].update(text_dimension=True), r"lm\.text_dimension = True"),
    "a separator that is no boolean": (lambda v: v["lm"].update(separator=1), r"lm\.separator = 1"),
    "codebooks that differ": (lambda v: v["lm"].update(codebooks=3), "The codec has 4 codebooks of 32"),
    "an empty window": (lambda v: v.update(window_seconds=0), "window_seconds = 0"),
    "an endless window": (lambda v: v.update(window_seconds=1e999), "window_seconds = inf"),
    "a window that is no number": (lambda v: v.update(window_seconds=None), "window_seconds = None"),
    "a stem that is none": (lambda v: v.update(stem="kazoo"), "stem = 'kazoo'"),
    "a stem that is no text": (lambda v: v.update(stem=7), "stem = 7"),
    "a text encoder that is no text": (lambda v: v.update(text_encoder=7), "text_encoder = 7"),
    "a licence that is no text": (lambda v: v.update(licence=["MIT"]), r"licence = \['MIT'\]"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_of_ours(own: Path, case: str) -> None:
    change, message = CONFIGS[case]
    _change_config(own, change)
    with pytest.raises(WeightsError, match=message):
        _load(own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ("\xff\xfe", "is not valid JSON|not a JSON"),
    ],
)
def test_configs_that_are_no_json_object(own: Path, text: str, message: str) -> None:
    (own / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=message):
        _load(own)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(decoder=None),
        lambda v: v.update(decoder=[]),
        lambda v: v.update(audio_encoder=None),
        lambda v: v["audio_encoder"].update(sampling_rate="fast"),
        lambda v: v["decoder"].update(num_attention_heads=5),
        lambda v: v["decoder"].update(num_attention_heads=-4),
    ],
)
def test_a_musicgens_config_that_is_odd(musicgen: Path, change: Change) -> None:
    _change_config(musicgen, change)
    with pytest.raises(StageError, match=r"config|codec|heads|wide"):
        _load(musicgen)


def test_a_model_of_another_type(own: Path) -> None:
    _change_config(own, lambda values: values.update(model_type="bert"))
    with pytest.raises(WeightsError, match="is not a model that stage-cli can read"):
        _load(own)
