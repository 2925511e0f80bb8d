"""LoRA: what it changes, what it leaves alone, and the adapter that comes out. The reference is PEFT's own merge."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import StaticSteps, forget_recordings
from stage_cli.core.generation.song import decode_window, generate_song
from stage_cli.core.generation.window import PlainSteps
from stage_cli.core.lm.cache import KVCache
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.precision import Runtime
from stage_cli.core.training.building import grow_plan
from stage_cli.core.training.lora import adapter_tensors, add_lora, is_lora, save_adapter
from stage_cli.core.training.settings import LORA_TARGETS, LoraConfig
from stage_cli.core.weights import saving
from stage_cli.core.weights.checkpoint import plan_directory
from stage_cli.errors import UsageError, WeightsError

LORA = LoraConfig(rank=4, alpha=6.0, targets=LORA_TARGETS)
PAD, SEPARATOR = 32, 33


def grown_model(musicgen_dir: Path) -> StageModel:
    """The tiny plain MusicGen, grown as training does it, all of it trainable."""
    plan = grow_plan(plan_directory(musicgen_dir), 0)
    model = StageModel.from_plan(plan, Runtime(torch.device("cpu"), "float32"))
    model.directory = musicgen_dir
    return model.requires_grad_(True)


@pytest.fixture
def base(musicgen_dir: Path) -> StageModel:
    return grown_model(musicgen_dir)


@pytest.fixture
def trained(musicgen_dir: Path) -> StageModel:
    """A model whose LoRA and separators have moved, by much."""
    model = grown_model(musicgen_dir)
    add_lora(model, LORA, seed=0)
    generator = torch.Generator().manual_seed(7)
    for parameter in trainable(model).values():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def trainable(model: StageModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def inputs(steps: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens with pads and separators, where they are attended to, positions, and text."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 32, (2, 4, steps), generator=generator)
    tokens[:, :, 0] = PAD
    tokens[:, :, 5] = SEPARATOR
    attended = torch.ones(2, steps, dtype=torch.bool)
    attended[:, 0] = False
    positions = (torch.arange(steps) - 1).clamp(min=0).expand(2, steps)
    return tokens, attended, positions, torch.randn(2, 3, 48, generator=generator)


def loss_of(lm: LanguageModel) -> Tensor:
    tokens, attended, positions, text = inputs()
    logits = lm(tokens, attended, positions, text)
    return F.cross_entropy(logits[:, :, 6:-1].flatten(0, 2), tokens[:, :, 7:].flatten())


# What it is at the start


def test_nothing_changes_at_first(base: StageModel, musicgen_dir: Path) -> None:
    plain = grown_model(musicgen_dir).eval()
    add_lora(base, LORA, seed=0)
    base.eval()
    assert torch.equal(base.lm(*inputs()), plain.lm(*inputs()))
    assert torch.equal(cached_logits(base.lm), cached_logits(plain.lm))


def cached_logits(lm: LanguageModel) -> Tensor:
    """Logits of all attended steps, one at a time through a cache."""
    tokens, _, _, text = inputs()
    cache = KVCache.allocate(lm.config, 2, tokens.shape[2], dtype=lm.cache_dtype, device=torch.device("cpu"))
    with torch.inference_mode():
        lm.attach_text(cache, text)
        return torch.stack([lm.advance(tokens[:, :, s : s + 1], [cache]) for s in range(1, tokens.shape[2])], dim=2)


def test_what_is_trained(base: StageModel) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in base.state_dict().items()}
    add_lora(base, LORA, seed=0)
    expected = {"lm.separator_change": (4 * 48,)}
    for layer in range(3):
        for target in LORA_TARGETS:
            out_width, in_width = shapes[f"lm.layers.{layer}.{target}.weight"]
            name = f"lm.layers.{layer}.{target}"
            expected |= {
                f"{name}.lora_A.default.weight": (4, in_width),
                f"{name}.lora_B.default.weight": (out_width, 4),
            }
    assert {name: tuple(parameter.shape) for name, parameter in trainable(base).items()} == expected
    assert is_lora(base)


@pytest.mark.parametrize("steps", [PlainSteps, StaticSteps])
def test_a_learned_separator_is_heard_in_generation(
    trained: StageModel, monkeypatch: pytest.MonkeyPatch, steps: type[PlainSteps | StaticSteps]
) -> None:
    """By demos of a run, on a CPU and on CUDA: as by the model that the adapter is merged into."""
    monkeypatch.setattr("stage_cli.core.generation.song.steps_for", lambda lm: steps)
    lm, generator = trained.lm, torch.Generator().manual_seed(3)
    context = torch.randint(0, 32, (1, 4, 9), generator=generator)
    uniforms = torch.rand(1, 4, 8, generator=generator)

    def written() -> Tensor:
        return decode_window(lm, context, context[:, :, :0], uniforms, GenerationConfig())

    learned, change = written(), lm.separator_change
    with torch.no_grad():
        lm.embeddings[:, SEPARATOR] += change.view(4, -1)
        kept = change.clone()
        change.zero_()
        assert torch.equal(written(), learned)
        lm.embeddings[:, SEPARATOR] -= kept.view(4, -1)
    forget_recordings(lm)
    assert not torch.equal(written(), learned)


def test_a_model_with_a_separator_of_its_own_keeps_it(tiny_model_dir: Path) -> None:
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    add_lora(model, LORA, seed=0)
    assert all(".lora_" in name for name in trainable(model))
    separator = adapter_tensors(model)["lm.embeddings.separator"]
    assert torch.equal(separator, model.lm.embeddings[:, SEPARATOR])


def test_a_model_without_text(tiny_model_dir: Path) -> None:
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    add_lora(model, LoraConfig(targets=("text_q", "attention_out")), seed=0)
    assert {name.split(".")[3] for name in trainable(model)} == {"attention_out"}
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    with pytest.raises(UsageError, match=r"lora\.targets = \['text_q', 'text_out'\]: the model has none of them"):
        add_lora(model, LoraConfig(targets=("text_q", "text_out")), seed=0)


def test_the_seed_is_all_that_matters(musicgen_dir: Path) -> None:
    models = [grown_model(musicgen_dir) for _ in range(3)]
    torch.manual_seed(1)
    add_lora(models[0], LORA, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    add_lora(models[1], LORA, seed=5)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is where it was
    add_lora(models[2], LORA, seed=6)
    one, same, other = (adapter_tensors(model) for model in models)
    assert one.keys() == same.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name]), name
        assert torch.equal(tensor, other[name]) == (not name.endswith("lora_a")), name


def test_the_first_numbers(base: StageModel) -> None:
    """A uniform on ± 1 / √inputs, as in the reference implementation of LoRA; B zero."""
    add_lora(base, LoraConfig(rank=32), seed=0)
    for name, tensor in adapter_tensors(base).items():
        if name.endswith("lora_a"):
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.9 * bound < tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        elif name.endswith("lora_b"):
            assert not tensor.any()


def test_not_twice_and_not_on_int8(base: StageModel, tiny_model_dir: Path) -> None:
    add_lora(base, LORA, seed=0)
    with pytest.raises(ValueError, match="has LoRA already"):
        add_lora(base, LORA, seed=0)
    rounded = StageModel.from_pretrained(str(tiny_model_dir), device="cpu", precision="int8")
    with pytest.raises(ValueError, match="quantized"):
        add_lora(rounded, LORA, seed=0)


# Training


def test_only_what_is_trained_moves(base: StageModel) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    add_lora(base, LORA, seed=0)
    first = {name: parameter.detach().clone() for name, parameter in trainable(base).items()}
    # All parameters, and a decay that would show: what has no gradient must stand still.
    optimizer = torch.optim.AdamW(base.parameters(), lr=0.02, weight_decay=0.5)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = loss_of(base.lm)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, tensor in base.state_dict().items():
        name = name.replace(".base_layer", "")
        if name in before:
            assert torch.equal(tensor, before[name]), name
        else:
            assert not torch.equal(tensor, first[name]), name
    # What the adapter says of the tables: the separators moved, and only they.
    separator = adapter_tensors(base)["lm.embeddings.separator"]
    assert not torch.isclose(separator, before["lm.embeddings"][:, SEPARATOR], atol=1e-3).all(dim=1).any()


def test_the_separators_gradient_is_that_of_its_row(base: StageModel, musicgen_dir: Path) -> None:
    plain = grown_model(musicgen_dir)
    loss_of(plain.lm).backward()
    add_lora(base, LORA, seed=0)
    loss_of(base.lm).backward()
    assert plain.lm.embeddings.grad is not None
    expected = plain.lm.embeddings.grad[:, SEPARATOR].flatten()
    assert expected.norm() > 1e-4
    torch.testing.assert_close(trainable(base)["lm.separator_change"].grad, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradient_checkpointing_draws_the_same_dropout_again(musicgen_dir: Path, dropout: float) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = grown_model(musicgen_dir)
        add_lora(model, dataclasses.replace(LORA, dropout=dropout), seed=0)
        for name, parameter in trainable(model).items():
            if "lora_B" in name:  # at zero they would hide what reaches A
                parameter.data.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).view(parameter.shape))
        model.lm.set_checkpointing(checkpointing)
        model.train()
        torch.manual_seed(3)
        loss_of(model.lm).backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(model).items()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert gradient.norm() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5)


def test_a_copy_is_whole(trained: StageModel) -> None:
    twin = copy.deepcopy(trained.lm)
    expected = trained.lm(*inputs())
    assert torch.equal(twin(*inputs()), expected)
    for parameter in trained.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(*inputs()), expected)


# The adapter


def test_loaded_equals_trained(trained: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained, LORA, str(musicgen_dir))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "config.json"]
    loaded = StageModel.from_pretrained(str(tmp_path), device="cpu", precision="float32")
    with torch.inference_mode():
        ours, theirs = loaded.lm(*inputs()), trained.lm(*inputs())
        plain = grown_model(musicgen_dir).lm(*inputs())
    assert (theirs - plain)[:, :, 1:].abs().mean() > 0.1  # the adapter matters
    torch.testing.assert_close(ours[:, :, 1:], theirs[:, :, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(cached_logits(loaded.lm), theirs[:, :, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(cached_logits(trained.lm), theirs[:, :, 1:], atol=1e-5, rtol=0)


def test_loaded_equals_pefts_own_merge(trained: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained, LORA, str(musicgen_dir))
    loaded = StageModel.from_pretrained(str(tmp_path), device="cpu", precision="float32").state_dict()
    merged = 0
    for name, module in trained.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge()
            torch.testing.assert_close(loaded[f"{name}.weight"], layer.base_layer.weight, atol=1e-6, rtol=0)
            merged += 1
    assert merged == 3 * len(LORA_TARGETS)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_generation_before_and_after(trained: StageModel, musicgen_dir: Path, tmp_path: Path, guidance: float) -> None:
    save_adapter(tmp_path, trained, LORA, str(musicgen_dir))
    loaded = StageModel.from_pretrained(str(tmp_path), device="cpu", precision="float32")
    context = torch.randint(0, 32, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    config, text = GenerationConfig(guidance=guidance, seed=3, variations=2), inputs()[3][:1]
    with torch.inference_mode():
        before, after = (
            torch.cat(list(generate_song(model.lm, context, config, window=12, text=text)), dim=2)
            for model in (trained, loaded)
        )
    assert after.shape == (2, 4, 20)
    assert torch.equal(before, after)


def test_the_config(trained: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run" / "model", trained, LORA, str(musicgen_dir))
    values = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert values.pop("model") == trained.config.to_dict()
    nearby = values.pop("base_nearby")
    assert (tmp_path / "run" / "model" / nearby).resolve() == musicgen_dir.resolve()
    assert values == {
        "model_type": "stage-adapter",
        "format_version": 1,
        "base": str(musicgen_dir.resolve()),
        "rank": 4,
        "alpha": 6.0,
        "targets": list(LORA_TARGETS),
    }
    save_adapter(tmp_path, trained, LORA, "facebook/musicgen-small@main")
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["base"], values["base_nearby"]) == ("facebook/musicgen-small@main", None)


def test_other_weights_can_be_saved_instead(trained: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    """As the engine does with averaged weights: those of the trained part alone, or all of them."""
    averaged = {name: 0.5 * parameter.detach() for name, parameter in trainable(trained).items()}
    held = adapter_tensors(trained)
    save_adapter(tmp_path, trained, LORA, str(musicgen_dir), state=averaged)
    saved = load_file(tmp_path / "adapter.safetensors")
    for name, tensor in held.items():
        if "lora" in name:
            assert torch.equal(saved[name], 0.5 * tensor), name
    row = trained.lm.embeddings[:, SEPARATOR]
    torch.testing.assert_close(saved["lm.embeddings.separator"], (held["lm.embeddings.separator"] + row) / 2)
    # A compiled layer's names are the same to us.
    compiled = {name.replace("layers.1.", "layers.1._orig_mod."): tensor for name, tensor in averaged.items()}
    assert adapter_tensors(trained, compiled).keys() == held.keys()
    assert torch.equal(
        adapter_tensors(trained, compiled)["lm.layers.1.text_q.lora_b"], saved["lm.layers.1.text_q.lora_b"]
    )


def test_a_trained_text_projection(base: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    add_lora(base, LORA, seed=0, train_text_projection=True)
    assert base.text_projection is not None
    assert {"text_projection.weight", "text_projection.bias"} < trainable(base).keys()
    base.text_projection.weight.data.mul_(-1)
    save_adapter(tmp_path, base, LORA, str(musicgen_dir))
    loaded = StageModel.from_pretrained(str(tmp_path), device="cpu")
    assert loaded.text_projection is not None
    assert torch.equal(loaded.text_projection.weight, base.text_projection.weight)


def test_a_failed_save_leaves_the_old_adapter(
    trained: StageModel, musicgen_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(state: dict[str, Tensor], path: Path, **_: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_adapter(tmp_path, trained, LORA, str(musicgen_dir))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(saving, "save_file", fill_the_disk)
    with pytest.raises(WeightsError, match=r"Cannot write the model to .*No space left on device"):
        save_adapter(tmp_path, trained, LORA, str(musicgen_dir))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
