"""Small files: int8 with a scale a row, a codec that several models share, and the names of the bundled models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.linear import Int8Linear, multiplies_bytes
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights import hub
from stage_cli.core.weights.checkpoint import codec_of_directory, load_codec, plan_directory
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.inspection import list_models, own_config
from stage_cli.core.weights.saving import pack_codec, pack_model, quantize_rows
from stage_cli.core.weights.tensors import SCALE_SUFFIX
from stage_cli.errors import UsageError, WeightsError


@pytest.fixture(scope="module")
def packed(tiny_model: StageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the package's assets: `codec` and `drums`."""
    folder = tmp_path_factory.mktemp("packed")
    tiny_model.save_pretrained(folder / "whole")
    plan = plan_directory(folder / "whole")
    sampling, metronome = {"guidance": 4.0, "top_k": 40}, {"guidance": 2.0}
    config = replace(plan.config, stem="drums", sampling=sampling, metronome_sampling=metronome, note="It sleeps.")
    pack_codec(folder / "codec", config, plan.sources, packing="float16")
    pack_model(folder / "drums", config, plan.sources, packing="int8", codec="../codec")
    return folder


@pytest.fixture
def assets(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hub, "ASSETS", packed)
    monkeypatch.setattr("stage_cli.core.weights.inspection.ASSETS", packed)
    (packed / "whole" / "config.json").unlink(missing_ok=True)
    return packed


def test_int8_rounds_each_row_by_its_own_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(3, 5, 64, generator=generator) * 10 ** torch.linspace(-3, 3, 15).view(3, 5, 1)
    rounded, scale = quantize_rows(tensor)
    assert (rounded.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float16, (3, 5))
    back = rounded.float() * scale.float()[..., None]
    largest = tensor.abs().amax(dim=-1, keepdim=True)
    assert ((back - tensor).abs() <= largest / 127 * 0.502 + largest * 2**-11).all()
    zeros, scale = quantize_rows(torch.zeros(2, 4))
    assert not zeros.any()
    assert not scale.any()


def test_a_codec_with_a_rounded_decoder_makes_the_same_tokens(tiny_model: StageModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "whole")
    plan = plan_directory(tmp_path / "whole")
    made = {}
    for packing in ("float16", "int8-decoder"):
        pack_codec(tmp_path / packing, plan.config, plan.sources, packing=packing)
        made[packing] = load_codec(str(tmp_path / packing)).state_dict()
    moved = {name for name, tensor in made["float16"].items() if not torch.equal(tensor, made["int8-decoder"][name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)
    assert weights_size(tmp_path / "int8-decoder") < 0.9 * weights_size(tmp_path / "float16")


def weights_size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_a_packed_model_is_the_model_rounded(packed: Path, tiny_model: StageModel) -> None:
    model = StageModel.from_pretrained(str(packed / "drums"), device="cpu", precision="float32")
    theirs, ours = tiny_model.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        largest = theirs[name].abs().max().item()
        step = 1 / 127 if name.startswith(("lm.", "text_projection")) else 2**-11
        assert (tensor - theirs[name]).abs().max().item() <= largest * step, name
    assert model.config.stem == "drums"
    assert model.config.note == "It sleeps."
    assert model.config.sampling_for(metronome=False) == {"guidance": 4.0, "top_k": 40}
    assert model.config.sampling_for(metronome=True) == {"guidance": 2.0, "top_k": 40}
    stored = load_file(packed / "drums" / "model.safetensors")
    assert not [name for name in stored if name.startswith("codec.")]
    assert stored["lm.output_heads.weight"].dtype == torch.int8
    assert stored["lm.norm.weight"].dtype == torch.float16


def test_what_is_stored_as_int8_runs_as_int8(packed: Path, tiny_model: StageModel, tmp_path: Path) -> None:
    """Where processors multiply bytes: rounding it changes nothing, and other small models are not to be rounded."""
    tiny_model.save_pretrained(tmp_path / "floats")
    for folder, rounded in ((packed / "drums", True), (tmp_path / "floats", False)):
        assert plan_directory(folder).rounded == rounded
        model = StageModel.from_pretrained(str(folder), device="cpu")
        assert model.runtime.precision == ("int8" if rounded and multiplies_bytes() else "float32")
    stored = load_file(packed / "drums" / "model.safetensors")
    model = StageModel.from_pretrained(str(packed / "drums"), device="cpu", precision="int8")
    for name, module in model.lm.named_modules():
        if isinstance(module, Int8Linear):
            assert torch.equal(module.weights[0], stored[f"lm.{name}.weight"]), name


def test_models_that_are_stored_as_int8_only_in_part_are_not_rounded(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "packed")
    folder = tmp_path / "packed" / "drums"
    stored = load_file(folder / "model.safetensors")
    stored["lm.output_heads.weight"] = stored["lm.output_heads.weight"].float() * 1e-3
    del stored["lm.output_heads.weight" + SCALE_SUFFIX]
    save_file(stored, folder / "model.safetensors")
    assert not plan_directory(folder).rounded
    with pytest.raises(WeightsError, match="loaded as int8 cannot be saved"):
        StageModel.from_pretrained(str(folder), device="cpu", precision="int8").save_pretrained(folder)


def test_what_is_stored_as_int8_can_be_saved_as_it_runs(packed: Path, tmp_path: Path) -> None:
    models = {
        precision: StageModel.from_pretrained(str(packed / "drums"), device="cpu", precision=precision)
        for precision in ("int8", "float32")
    }
    saved = {}
    for precision, model in models.items():
        model.save_pretrained(tmp_path / precision)
        saved[precision] = load_file(tmp_path / precision / "model.safetensors")
    assert saved["int8"].keys() == saved["float32"].keys()
    for name, tensor in saved["int8"].items():
        torch.testing.assert_close(tensor, saved["float32"][name], rtol=1e-6, atol=0)


def test_the_shared_codec_is_found_by_all_who_ask(packed: Path) -> None:
    part = codec_of_directory(packed / "drums")
    alone = codec_of_directory(packed / "codec")
    assert part is not None
    assert alone is not None
    assert part.config == alone.config == own_config(packed / "drums").codec
    assert part.source.recipes.keys() == alone.source.recipes.keys()


@pytest.mark.parametrize("name", ["/codec", "../../codec", "~/codec", "a/b", "..", ""])
def test_a_codec_elsewhere_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    values = json.loads((packed / "drums" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "codec": name}))
    with pytest.raises(WeightsError, match="codec = "):
        plan_directory(tmp_path)


def test_a_codec_that_is_not_there(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "model" / file).write_bytes((packed / "drums" / file).read_bytes())
    with pytest.raises(WeightsError, match=r"codec"):
        plan_directory(tmp_path / "model")


def test_scales_that_fit_nothing_are_damage(packed: Path, tmp_path: Path) -> None:
    tensors = load_file(packed / "drums" / "model.safetensors")
    tensors["lm.output_heads.weight.int8_scale"] = torch.ones(3)
    (tmp_path / "drums").mkdir()
    (tmp_path / "drums" / "config.json").write_bytes((packed / "drums" / "config.json").read_bytes())
    (tmp_path / "codec").symlink_to(packed / "codec")
    save_file(tensors, tmp_path / "drums" / "model.safetensors")
    with pytest.raises(WeightsError, match="not a scale for each row"):
        plan_directory(tmp_path / "drums")


def test_names(assets: Path) -> None:
    assert hub.bundled_stems() == ("drums",)
    assert hub.bundled_name("drums") == "bundled-drums"
    assert hub.bundled_name("bass") is None
    assert resolve("bundled-drums") == assets / "drums"
    assert resolve("bundled-codec") == assets / "codec"
    with pytest.raises(UsageError, match=r"no model 'bundled-drum'.*did you mean bundled-drums"):
        resolve("bundled-drum")
    first = list_models()[0]
    assert (first.name, first.stem, first.where) == ("bundled-drums", "drums", assets / "drums")


def test_a_models_own_sampling_gives_way_to_the_users() -> None:
    config = GenerationConfig(seed=7, temperature=0.5)
    own = {"guidance": 4.0, "top_k": 40, "temperature": 0.9, "advance": 0.75}
    drawn = config.for_model(own, ["temperature"])
    assert (drawn.guidance, drawn.top_k, drawn.temperature, drawn.advance, drawn.seed) == (4.0, 40, 0.5, 0.75, 7)
    with pytest.raises(WeightsError, match=r"metronome_sampling = \{'top_k': 'all'\}"):
        StageConfig(metronome_sampling={"top_k": "all"})
    with pytest.raises(WeightsError, match=r"sampling\.topk"):
        config.for_model({"topk": 3}, [])
    with pytest.raises(UsageError, match="`guidance`"):
        config.for_model({"guidance": -1.0}, [])
