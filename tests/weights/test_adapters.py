"""Adapters: what loading makes of them, where their base is found, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from hub_server import HubServer
from random_adapters import ALL, ALPHA, ATTENTION, RANK, expected_state, result_config, save_random_adapter
from random_weights import randomise
from safetensors.torch import load_file, save_file
from torch import Tensor

from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.adapter_config import AdapterConfig, read_adapter_config
from stage_cli.core.weights.adapters import sample
from stage_cli.core.weights.checkpoint import codec_of_directory
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.importing import import_checkpoint
from stage_cli.errors import HubError, WeightsError


def load(directory: Path | str, precision: str = "float32") -> StageModel:
    return StageModel.from_pretrained(str(directory), device="cpu", precision=precision)


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "adapter.safetensors")


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny STAGE model, which lies elsewhere."""
    save_random_adapter(tmp_path / "run" / "model", tiny_model_dir)
    return tmp_path / "run" / "model"


@pytest.fixture
def grown(musicgen_dir: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny plain MusicGen, with text: it adds the separator."""
    save_random_adapter(tmp_path / "grown", musicgen_dir, targets=ALL)
    return tmp_path / "grown"


# What loading makes of it


def assert_state(model: StageModel, expected: dict[str, Tensor], changed: set[str]) -> None:
    """Changed tensors are close to the closed form, in fp32; all others have the base's very bits."""
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert changed <= state.keys()
    for name, tensor in state.items():
        if name in changed:
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)
        else:
            assert torch.equal(tensor, expected[name]), name


def test_a_stage_model_with_its_adapter(adapter: Path, tiny_model_dir: Path, tiny_model: StageModel) -> None:
    model, expected = load(adapter), expected_state(tiny_model_dir, tensors_of(adapter))
    changed = {f"lm.layers.{layer}.{target}.weight" for layer in range(2) for target in ATTENTION}
    assert_state(model, expected, changed)
    for name in (*changed, "lm.embeddings"):  # the adapter does change them, by much
        before = tiny_model.state_dict()[name]
        assert (expected[name] - before).norm() > 0.05 * before.norm(), name
    assert (model.config.stem, model.config.lm) == ("drums", tiny_model.config.lm)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_grown_musicgen_with_its_adapter(grown: Path, musicgen_dir: Path) -> None:
    model = load(grown)
    changed = {f"lm.layers.{layer}.{target}.weight" for layer in range(3) for target in ALL}
    assert_state(model, expected_state(musicgen_dir, tensors_of(grown)), changed)
    assert model.config.lm.separator
    assert (model.lm.embeddings[:, 32] == 0).all()  # the pad
    assert torch.equal(model.lm.embeddings[:, 33], tensors_of(grown)["lm.embeddings.separator"])


def test_a_trained_text_projection_takes_the_bases_place(musicgen_dir: Path, tmp_path: Path) -> None:
    projection = {"text_projection.weight": torch.randn(48, 32), "text_projection.bias": torch.randn(48)}
    save_random_adapter(tmp_path / "adapter", musicgen_dir, more=projection)
    model = load(tmp_path / "adapter")
    for name, tensor in projection.items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_it_is_applied_before_rounding(adapter: Path, precision: str) -> None:
    exact, model = load(adapter).state_dict(), load(adapter, precision)
    rough = model.state_dict()
    for layer in range(2):
        name = f"lm.layers.{layer}.attention_qkv"
        if precision == "int8":
            weight, scale = Int8Linear.quantize(exact[f"{name}.weight"])
            kept, its_scale = model.get_submodule(name).weights
            assert torch.equal(kept, weight)
            assert torch.equal(its_scale, scale)
        else:
            assert torch.equal(rough[f"{name}.weight"], exact[f"{name}.weight"].bfloat16())
    embeddings = exact["lm.embeddings"]
    assert torch.equal(rough["lm.embeddings"], embeddings if precision == "int8" else embeddings.bfloat16())


def test_an_adapter_on_an_adapter(adapter: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    save_random_adapter(tmp_path / "second", adapter.parent, targets=("attention_qkv", "feed_forward_in"), seed=1)
    first, second = tensors_of(adapter), tensors_of(tmp_path / "second")
    weight = load(tiny_model_dir).state_dict()["lm.layers.1.attention_qkv.weight"].double()
    for tensors in (first, second):
        a, b = (tensors[f"lm.layers.1.attention_qkv.lora_{part}"].double() for part in "ab")
        weight = weight + ALPHA / RANK * b @ a
    state = load(tmp_path / "second").state_dict()
    torch.testing.assert_close(state["lm.layers.1.attention_qkv.weight"], weight.float(), atol=1e-5, rtol=1e-5)
    # What only the first one changes, and what only the second one does.
    assert torch.equal(
        state["lm.layers.0.attention_out.weight"], load(adapter).state_dict()["lm.layers.0.attention_out.weight"]
    )
    assert not torch.equal(
        state["lm.layers.0.feed_forward_in.weight"], load(adapter).state_dict()["lm.layers.0.feed_forward_in.weight"]
    )
    assert torch.equal(state["lm.embeddings"][:, 33], second["lm.embeddings.separator"])


def test_loading_needs_no_peft(adapter: Path) -> None:
    script = (
        "import sys\nfrom stage_cli import StageModel\n"
        "model = StageModel.from_pretrained(sys.argv[1], device='cpu')\n"
        "print(model.config.stem, 'peft' in sys.modules, 'transformers' in sys.modules)\n"
    )
    done = forked.run([sys.executable, "-c", script, adapter], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["drums", "False", "False"]


def test_the_codec_of_an_adapter_is_its_bases(adapter: Path, tiny_model: StageModel) -> None:
    part = codec_of_directory(adapter)
    assert part is not None
    assert part.config == tiny_model.config.codec
    for name, tensor in part.source.tensors():
        assert torch.equal(tensor, tiny_model.state_dict()[name]), name


def test_the_text_encoder_inside_the_base(grown: Path, musicgen_dir: Path) -> None:
    adapter = read_adapter_config(grown)
    assert adapter is not None
    assert adapter.model.text_encoder == "."
    model, base = load(grown), load(musicgen_dir)
    assert torch.equal(model.encode_description("genre: jazz."), base.encode_description("genre: jazz."))


# Training runs


def test_the_folder_of_a_run_stands_for_its_model(adapter: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "config.toml").touch()
    assert resolve(str(run)) == adapter
    expected = load(adapter).state_dict()
    for name, tensor in load(run).state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    shutil.copytree(tiny_model_dir, tmp_path / "whole" / "model")
    assert resolve(str(tmp_path / "whole")) == tmp_path / "whole" / "model"


def test_a_run_in_the_models_folder(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_MODELS", str(tmp_path))
    assert resolve("run") == adapter


def test_a_model_with_a_folder_called_model_is_itself(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "outer")
    shutil.copytree(tiny_model_dir, tmp_path / "outer" / "model")
    assert resolve(str(tmp_path / "outer")) == tmp_path / "outer"


def test_a_run_without_a_model_yet(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "model").mkdir()
    with pytest.raises(WeightsError, match=r"has not made a model yet .* stage train --config … --resume"):
        load(tmp_path)


# Where the base is found


@pytest.fixture
def project(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a base and a run, trained from within it with `base = "models/base"`."""
    folder = tmp_path / "project"
    shutil.copytree(tiny_model_dir, folder / "models" / "base")
    monkeypatch.chdir(folder)
    save_random_adapter(folder / "runs" / "lora" / "model", "models/base")
    monkeypatch.chdir(tmp_path)
    return folder


def test_from_another_working_directory(project: Path) -> None:
    load(project / "runs" / "lora")


def test_both_moved_together(project: Path, tmp_path: Path) -> None:
    moved = project.rename(tmp_path / "moved")
    load(moved / "runs" / "lora")


def test_the_adapter_moved_alone(project: Path, tmp_path: Path) -> None:
    load((project / "runs" / "lora" / "model").rename(tmp_path / "deep"))


def test_the_base_is_gone(project: Path) -> None:
    (project / "models" / "base").rename(project / "models" / "other")
    with pytest.raises(WeightsError, match=r"is not here: .*project/models/base") as caught:
        load(project / "runs" / "lora")
    assert "no directory at" in caught.value.why
    assert "stage models merge" in caught.value.next_step
    assert "--base" in caught.value.next_step


def test_a_base_by_a_name_that_is_gone(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_MODELS", str(tmp_path / "own"))
    shutil.copytree(tiny_model_dir, tmp_path / "own" / "mine")
    save_random_adapter(tmp_path / "adapter", "mine")
    load(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(WeightsError, match=r"is not here: mine · There is no model 'mine'"):
        load(tmp_path / "adapter")


def test_a_base_that_is_the_adapter_itself(adapter: Path) -> None:
    change_config(adapter, lambda values: values.update(base=str(adapter), base_nearby="."))
    with pytest.raises(WeightsError, match="is its own base"):
        load(adapter)


def test_adapter_and_base_on_the_hub(hub: HubServer, musicgen_dir: Path, tmp_path: Path) -> None:
    hub.add_repo("facebook/musicgen-small", musicgen_dir)
    save_random_adapter(tmp_path / "adapter", musicgen_dir, named="musicgen-small", targets=ALL)
    (tmp_path / "adapter" / "README.md").write_text("# Mine\n")
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"not ours")
    hub.add_repo("someone/adapter", tmp_path / "adapter")
    with pytest.raises(HubError, match="someone/adapter is not on this machine"):
        StageModel.from_pretrained("someone/adapter", device="cpu", offline=True)
    resolve("someone/adapter")
    assert set(hub.fetched("someone/adapter")) == {"config.json", "README.md", "adapter.safetensors"}
    with pytest.raises(HubError, match=r"facebook/musicgen-small is not on this machine.*stage models pull"):
        StageModel.from_pretrained("someone/adapter", device="cpu", offline=True)
    online = load("someone/adapter")
    hub.requests.clear()
    offline = StageModel.from_pretrained("someone/adapter", device="cpu", offline=True)
    # The base's own text encoder, by the base's lasting name.
    assert offline.config.text_encoder == "facebook/musicgen-small"
    assert torch.equal(offline.encode_description("sad"), load(musicgen_dir).encode_description("sad"))
    assert hub.requests == []
    for name, tensor in online.state_dict().items():
        assert torch.equal(tensor, offline.state_dict()[name]), name


# Another base


def test_another_base_of_the_same_shape(adapter: Path, tiny_config: StageConfig, tmp_path: Path) -> None:
    other = StageModel(tiny_config)
    randomise(other, seed=1)
    other.save_pretrained(tmp_path / "other")
    change_config(adapter, lambda values: values.update(base=str(tmp_path / "other")))
    with pytest.raises(WeightsError, match=r"other is not the base of the adapter .*run/model") as caught:
        load(adapter)
    assert caught.value.why == (
        "its lm.layers.1.attention_qkv.weight holds other numbers than the one it was trained on"
    )


@pytest.mark.parametrize(
    ("name", "amount", "refused"),
    [
        ("lm.layers.1.attention_qkv.weight", 0.02, True),
        ("lm.layers.1.feed_forward_out.weight", 0.02, True),
        ("lm.layers.1.feed_forward_out.weight", 0.001, False),
    ],
)
def test_a_base_that_was_trained_further(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path, name: str, amount: float, refused: bool
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "trained")
    state = load_file(tmp_path / "trained" / "model.safetensors")
    noise = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(5))
    state[name] += amount * state[name].std() * noise
    save_file(state, tmp_path / "trained" / "model.safetensors")
    change_config(adapter, lambda values: values.update(base=str(tmp_path / "trained")))
    if refused:
        with pytest.raises(WeightsError, match=f"its {name} holds other numbers"):
            load(adapter)
    else:
        load(adapter)


def test_the_base_in_another_format_or_precision(grown: Path, musicgen_dir: Path, tmp_path: Path) -> None:
    import_checkpoint(musicgen_dir, tmp_path / "imported", stem=None)
    load(musicgen_dir, "bfloat16").save_pretrained(tmp_path / "rounded")
    expected = load(grown).state_dict()
    for name, tolerance in (("imported", 0.0), ("rounded", 0.02)):
        change_config(grown, lambda values, name=name: values.update(base=str(tmp_path / name)))
        for tensor_name, tensor in load(grown).state_dict().items():
            torch.testing.assert_close(tensor, expected[tensor_name], atol=tolerance, rtol=tolerance)


def test_a_base_of_other_sizes(adapter: Path, musicgen_dir: Path) -> None:
    change_config(adapter, lambda values: values.update(base=str(musicgen_dir)))
    with pytest.raises(WeightsError, match="is not the base of the adapter") as caught:
        load(adapter)
    assert caught.value.why == (
        "it is a plain MusicGen of 3 layers, 48 and 96 wide, 4 heads, text 32 wide; "
        "the adapter's is a STAGE model of 2 layers, 64 and 128 wide, 2 heads, no text"
    )


def test_samples_come_from_all_over_a_matrix() -> None:
    for rows, columns in ((1024, 4096), (2048, 2048), (48, 48), (3, 5), (256, 3), (511, 2)):
        matrix = torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)
        found = sample(matrix).long()
        assert len(found) == min(256, rows * columns)
        assert len(set(found.tolist())) == len(found)
        assert len(set((found % columns).tolist())) >= min(columns, 256) // 4
        assert len(set((found // columns).tolist())) >= min(rows, 256) // 4
        assert sample(matrix).dtype == torch.float32


# Damage


def change_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((directory / "config.json").read_text())
    change(values)
    (directory / "config.json").write_text(json.dumps(values))


def change_tensors(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = tensors_of(directory)
    change(state)
    save_file(state, directory / "adapter.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_adapter(adapter: Path, share: float) -> None:
    data = (adapter / "adapter.safetensors").read_bytes()
    (adapter / "adapter.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"adapter\.safetensors is truncated, damaged, or not a checkpoint"):
        load(adapter)


def test_an_adapter_without_tensors(adapter: Path) -> None:
    (adapter / "adapter.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"Cannot read .*adapter\.safetensors"):
        load(adapter)


def test_all_that_does_not_fit_is_listed(adapter: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["lm.layers.0.attention_qkv.lora_a"], state["base.lm.layers.1.attention_out.weight"]
        state["lm.layers.7.attention_qkv.lora_a"] = torch.zeros(3, 64)
        state["lm.embeddings.separator"] = torch.zeros(4, 63)

    change_tensors(adapter, change)
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
        load(adapter)
    assert caught.value.why == (
        "2 missing: base.lm.layers.1.attention_out.weight, lm.layers.0.attention_qkv.lora_a; "
        "1 unknown: lm.layers.7.attention_qkv.lora_a; "
        "1 misshapen: lm.embeddings.separator: [4, 63] instead of [4, 64]"
    )


def test_a_rank_that_is_not_the_tensors(adapter: Path) -> None:
    change_config(adapter, lambda values: values.update(rank=4))
    with pytest.raises(WeightsError, match=r"attention_out\.lora_a: \[3, 64\] instead of \[4, 64\]"):
        load(adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["lm.layers.1.attention_out.lora_b", "lm.embeddings.separator", "base.lm.layers.1.attention_out.weight"]
)
def test_numbers_that_are_not_finite(adapter: Path, name: str, value: float) -> None:
    change_tensors(adapter, lambda state: state[name].view(-1)[2:3].fill_(value))
    with pytest.raises(WeightsError, match=rf"weights are broken: {name} holds NaN or infinite numbers"):
        load(adapter)


Change = Callable[[dict[str, Any]], object]
CONFIGS: dict[str, tuple[Change, str]] = {
    "a newer version": (lambda v: v.update(format_version=2), "adapter has format version 2; .* update stage-cli"),
    "no version": (lambda v: v.pop("format_version"), "format version None"),
    "an unknown key": (lambda v: v.update(colour="red"), "adapter's config.json has an unknown key 'colour'"),
    "no rank": (lambda v: v.pop("rank"), "adapter's config.json has no 'rank'"),
    "a rank of 0": (lambda v: v.update(rank=0), "rank = 0 in the adapter's config"),
    "a rank that is true": (lambda v: v.update(rank=True), "rank = True"),
    "an endless alpha": (lambda v: v.update(alpha=1e999), "alpha = inf"),
    "an alpha as text": (lambda v: v.update(alpha="2"), "alpha = '2'"),
    "no targets": (lambda v: v.update(targets=[]), r"targets = \(\)"),
    "targets that are no list": (lambda v: v.update(targets="attention_qkv"), "a key of another type"),
    "targets that are numbers": (lambda v: v.update(targets=[7]), r"targets = \(7,\)"),
    "a target that is none": (lambda v: v.update(targets=["attention"]), "a target that the model has not: attention"),
    "a base that is no text": (lambda v: v.update(base=7), "base = 7"),
    "an empty base": (lambda v: v.update(base=""), "base = ''"),
    "a place that is no text": (lambda v: v.update(base_nearby=7), "base_nearby = 7"),
    "no model": (lambda v: v.update(model=None), "a key of another type"),
    "a broken model": (lambda v: v["model"]["lm"].update(heads=0), r"lm\.heads = 0"),
    "a newer model": (lambda v: v["model"].update(format_version=9), "The model has format version 9"),
    "a base without a separator": (lambda v: v["model"]["lm"].update(separator=False), "is not the base"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_cannot_be_used(adapter: Path, case: str) -> None:
    change, message = CONFIGS[case]
    change_config(adapter, change)
    with pytest.raises(WeightsError, match=message):
        load(adapter)


def test_configs_round_trip(tiny_config: StageConfig) -> None:
    for base, nearby in (("facebook/musicgen-small", None), ("/models/base", "../base")):
        adapter = AdapterConfig(result_config(tiny_config, "x"), base, nearby, 16, 32.0, ATTENTION)
        assert AdapterConfig.from_dict(json.loads(json.dumps(adapter.to_dict()))) == adapter
    assert adapter.scale == 2.0


def test_a_model_is_not_an_adapter(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert read_adapter_config(tiny_model_dir) is None
    assert read_adapter_config(tmp_path) is None
    with pytest.raises(WeightsError, match="for a model of type 'stage', not 'stage-adapter'"):
        AdapterConfig.from_dict(json.loads((tiny_model_dir / "config.json").read_text()))
