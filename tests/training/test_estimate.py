"""The dry run's figures against models that are really built, passes really made, songs really there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared_songs import write_song
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM, T5EncoderModel
from transformers_reference import TEXT

from stage_cli.core.data.config import DataConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.linear import ContextConvolutions
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig, read_config
from stage_cli.core.training.building import build_model
from stage_cli.core.training.estimate import Estimate, activation_bytes, convolution_bytes, estimate
from stage_cli.core.training.settings import (
    LoraConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)
from stage_cli.core.training.stem_task import parameter_groups
from stage_cli.errors import UsageError, WeightsError


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five songs of 30 s in which every stem sounds all the time."""
    root = tmp_path_factory.mktemp("songs")
    for number in range(5):
        write_song(root / f"song {number}")
    return root


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def config(songs: Path, base: object = "facebook/musicgen-small", **parts: Any) -> TrainingConfig:
    data = parts.pop("data", DataConfig((str(songs),), validation_songs=2))
    model = parts.pop("model", None) or ModelConfig(base=str(base))
    return TrainingConfig(model=model, data=data, **parts)


def sizes(found: Estimate) -> dict[str, tuple[int | None, int]]:
    return {part.name: (part.parameters, part.trained) for part in found.parts}


def numel(module: torch.nn.Module, *, trained: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trained)


@pytest.mark.parametrize("kind", ["stage", "musicgen"])
def test_parameters_are_those_of_the_model_that_is_built(
    kind: str, songs: Path, tiny_model_dir: Path, musicgen_dir: Path
) -> None:
    run = config(songs, tiny_model_dir if kind == "stage" else musicgen_dir)
    model = build_model(run, offline=True)
    found = estimate(run)
    named = sizes(found)
    assert named["language model"] == (numel(model.lm), numel(model.lm))
    assert named["codec"] == (sum(tensor.numel() for tensor in model.codec.state_dict().values()), 0)
    assert found.trained == numel(model, trained=True)
    if kind == "musicgen":
        assert model.text_projection is not None
        assert named["text projection"] == (numel(model.text_projection),) * 2
        assert named["text encoder"] == (numel(T5EncoderModel(TEXT)), 0)
    else:
        assert "text encoder" not in named
    assert found.notes == ()


@pytest.mark.parametrize("kind", ["stage", "musicgen"])
@pytest.mark.parametrize("targets", [LoraConfig().targets, ("attention_qkv", "feed_forward_out")])
def test_parameters_of_an_adapter(
    kind: str, targets: tuple[str, ...], songs: Path, tiny_model_dir: Path, musicgen_dir: Path
) -> None:
    base = tiny_model_dir if kind == "stage" else musicgen_dir
    run = config(songs, base, lora=LoraConfig(rank=3, targets=targets))
    model = build_model(run, offline=True)
    whole = numel(build_model(replace(run, lora=None), offline=True).lm)
    found = estimate(run)
    assert found.trained == sizes(found)["adapter"][0] == numel(model, trained=True)
    assert sizes(found)["language model"] == (whole, 0)
    memory = {share.name: share.size for share in found.memory}
    assert memory["gradients"] == 4 * found.trained
    assert memory["optimizer states"] == 8 * found.trained
    assert memory["weights"] > 4 * whole


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads"), [("small", 1024, 24, 16), ("medium", 1536, 48, 24), ("large", 2048, 48, 32)]
)
def test_published_sizes_are_known_before_anything_is_fetched(
    name: str, width: int, layers: int, heads: int, songs: Path
) -> None:
    with torch.device("meta"):
        reference = MusicgenForCausalLM(
            MusicgenDecoderConfig(
                hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=4 * width
            )
        )
    for base in (f"facebook/musicgen-{name}", f"musicgen-{name}"):
        found = estimate(config(songs, base))
        # One row more a codebook, the separator.
        assert sizes(found)["language model"] == (numel(reference) + 4 * width,) * 2
        assert sizes(found)["text projection"] == (768 * width + width,) * 2
        assert sizes(found)["text encoder"] == (None, 0)
        assert [note.split(" is not on this machine")[0] for note in found.notes] == [
            base,
            "The text encoder google-t5/t5-base",
        ]


def test_what_is_not_known_is_said(songs: Path) -> None:
    found = estimate(config(songs, "somebody/something"))
    assert (found.parts, found.memory, found.trained) == ((), (), 0)
    assert found.data.items == 9
    assert found.notes == (
        "somebody/something is not on this machine, so its size is not known. "
        "Fetch it: stage models pull somebody/something",
    )
    scratch = ModelConfig(codec="facebook/encodec_32khz", lm=LanguageModelConfig(text_dimension=None))
    (note,) = estimate(config(songs, model=scratch)).notes
    assert note.startswith("facebook/encodec_32khz is not on this machine, so the codec is not known.")


def test_from_scratch(songs: Path, tiny_model_dir: Path, musicgen_dir: Path) -> None:
    lm = LanguageModelConfig(4, 32, 48, 2, 4, 96, None)
    expected = numel(LanguageModel(lm))
    for codec in (tiny_model_dir, musicgen_dir):
        found = estimate(config(songs, model=ModelConfig(codec=str(codec), lm=lm)))
        assert sizes(found)["language model"] == (expected, expected)
        assert set(sizes(found)) == {"language model", "codec"}
    model = ModelConfig(base=str(tiny_model_dir / "config.json"), codec=str(tiny_model_dir))
    assert sizes(estimate(config(songs, model=model))) == sizes(estimate(config(songs, tiny_model_dir)))


def test_a_run_that_cannot_start_is_refused(songs: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.base: There is no model 'nothing'"):
        estimate(config(songs, "nothing"))
    missing = ModelConfig(codec="runs/none/model", lm=LanguageModelConfig(text_dimension=None))
    with pytest.raises(UsageError, match=r"model\.codec: There is no folder runs/none/model"):
        estimate(config(songs, model=missing))
    two = ModelConfig(codec=str(tiny_model_dir), lm=LanguageModelConfig(codebooks=2, text_dimension=None))
    with pytest.raises(WeightsError, match=r"The codec has 4 codebooks of 32, the language model 2 of 2048"):
        estimate(config(songs, model=two))
    with pytest.raises(UsageError, match=r"codebook_weights has 2 numbers, the model 4 codebooks"):
        estimate(config(songs, tiny_model_dir, train=TrainConfig(codebook_weights=(2, 1))))
    with pytest.raises(UsageError, match=r"cannot be divided among 3 processes"):
        estimate(config(songs, tiny_model_dir), processes=3)
    with pytest.raises(UsageError, match=r"no folder .*nowhere"):
        estimate(config(songs / "nowhere", tiny_model_dir))


def test_songs_items_and_steps(songs: Path, tiny_model_dir: Path) -> None:
    found = estimate(config(songs, tiny_model_dir, train=TrainConfig(steps=45, batch_size=4)))
    data = found.data
    assert (data.training_songs, data.validation_songs, data.left_out) == (3, 2, 0)
    # Three chunks of 10 s in each song of 30 s; four items of each of the two for the validation.
    assert (data.items, data.validation_items) == (9, 8)
    assert (found.steps, found.epochs, found.audio_hours) == (45, 20.0, 0.5)
    few = config(songs, tiny_model_dir, validate=ValidateConfig(items_per_song=4, most_items=5))
    assert estimate(few).data.validation_items == 5
    every = DataConfig((str(songs),), stem="any", split="none")
    unvalidated = estimate(config(songs, tiny_model_dir, data=every, validate=ValidateConfig(every=0))).data
    assert (unvalidated.training_songs, unvalidated.validation_items, unvalidated.items) == (5, 0, 5 * 5 * 3)


def kept_by(run: Callable[[], object], weights: Iterable[torch.Tensor], *, half: bool) -> int:
    """Bytes of every tensor that a pass saves for the gradient, but for the weights."""
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        run()
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("text", [None, 48])
@pytest.mark.parametrize("half", [False, True])
def test_activations_are_what_a_pass_keeps(text: int | None, half: bool) -> None:
    """In a pass over layers wide enough for the rest not to matter."""
    B, S = 2, 150
    lm = LanguageModel(LanguageModelConfig(4, 32, 128, 6, 4, 512, text))
    tokens = torch.zeros(B, 4, S, dtype=torch.int64)
    vectors = None if text is None else torch.zeros(B, 3, 128)
    kept = kept_by(lambda: lm.hidden(tokens, torch.arange(S)[None], vectors), lm.parameters(), half=half)
    copies = 2 * sum(weight.numel() for weight in lm.layers.parameters() if weight.ndim == 2) if half else 0
    estimated = B * S * activation_bytes(lm.config, checkpointing=False, half=half)
    assert estimated == pytest.approx(kept - copies, rel=0.08)


@pytest.mark.parametrize("half", [False, True])
def test_what_convolutions_over_the_context_keep(half: bool) -> None:
    B, C = 2, 150
    convolutions = ContextConvolutions(128, 4)
    embedded = torch.randn(B, C, 128, requires_grad=True)
    kept = kept_by(lambda: convolutions(embedded), convolutions.parameters(), half=half)
    copies = 2 * sum(weight.numel() for weight in convolutions.parameters() if weight.ndim > 1) if half else 0
    config = LanguageModelConfig(4, 32, 128, 1, 4, 512, None, context_attention="full", context_convolutions=4)
    assert B * C * convolution_bytes(config, half=half) == pytest.approx(kept - copies, rel=0.1)


def test_checkpointing_keeps_the_inputs_of_the_layers_and_one_layer() -> None:
    lm = LanguageModelConfig(4, 32, 128, 6, 4, 512, None)
    one = activation_bytes(replace(lm, layers=1), checkpointing=False, half=True)
    assert activation_bytes(lm, checkpointing=False, half=True) == 6 * one
    assert activation_bytes(lm, checkpointing=True, half=True) == 6 * 128 * 4 + one


def test_optimizer_states_are_what_torch_keeps(songs: Path, tiny_model_dir: Path) -> None:
    model = StageModel(StageConfig.from_dict(read_config(tiny_model_dir / "config.json")))
    weights = dict(model.lm.named_parameters())
    matrices = [weight for name, weight in weights.items() if weight.ndim == 2 and name.startswith("layers.")]
    others = [weight for weight in weights.values() if all(weight is not matrix for matrix in matrices)]
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    for kind in ("adamw", "muon"):
        muon = torch.optim.Muon(matrices)
        optimizers = [muon, torch.optim.AdamW(others)] if kind == "muon" else [torch.optim.AdamW(weights.values())]
        for optimizer in optimizers:
            optimizer.step()
        kept = sum(
            tensor.numel() * tensor.element_size()
            for optimizer in optimizers
            for state in optimizer.state.values()
            for tensor in state.values()
            if tensor.ndim  # step counters left out
        )
        found = estimate(config(songs, tiny_model_dir, train=TrainConfig(optimizer=kind)))
        assert {share.name: share.size for share in found.memory}["optimizer states"] == kept


def test_optimizer_states_of_a_model_that_hears_its_context(songs: Path, tiny_model_dir: Path) -> None:
    lm = LanguageModelConfig(
        4, 32, 48, 2, 4, 96, None, context_attention="full", aligned_context=True, context_convolutions=3
    )
    module = torch.nn.ModuleDict({"lm": LanguageModel(lm)})
    sizes = {name: weight.numel() for name, weight in module.named_parameters()}
    muon = sum(sizes[name] for group in parameter_groups(module) if group.kind == "matrix" for name in group.names)
    # Two matrices a convolution, and what is heard of 4 codebooks' embeddings and hidden states.
    assert muon == sum(sizes[name] for name in sizes if ".layers." in name and "norm" not in name) + (6 + 8) * 48**2
    run = config(songs, model=ModelConfig(codec=str(tiny_model_dir), lm=lm), train=TrainConfig(optimizer="muon"))
    memory = {share.name: share.size for share in estimate(run).memory}
    assert memory["optimizer states"] == 8 * (numel(module) - muon) + 4 * muon


@pytest.mark.parametrize("there", [True, False])
def test_a_processor_without_bfloat16_is_estimated_as_it_trains(
    there: bool, songs: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage_cli.core.precision.computes_bfloat16", lambda device: there)
    run = config(songs, tiny_model_dir, run=RunConfig(device="cpu", precision="bfloat16"))
    found = {share.name: share.size for share in estimate(run).memory}
    plain = estimate(config(songs, tiny_model_dir, run=RunConfig(device="cpu"))).memory
    assert ("16-bit copies of weights" in found) == there
    assert (found == {share.name: share.size for share in plain}) == (not there)


def test_memory_follows_the_config(songs: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage_cli.core.precision.computes_bfloat16", lambda device: True)

    def memory(processes: int = 1, **parts: Any) -> dict[str, int]:
        found = estimate(config(songs, tiny_model_dir, **parts), processes=processes)
        assert [share.size for share in found.memory] == sorted((s.size for s in found.memory), reverse=True)
        return {share.name: share.size for share in found.memory}

    on_cpu = RunConfig(device="cpu")
    plain = memory(run=on_cpu)
    trained = plain["gradients"] // 4
    assert plain["weights"] == 4 * trained
    half = memory(run=replace(on_cpu, precision="bfloat16"))
    assert half["activations"] < plain["activations"]
    assert half["16-bit copies of weights"] == 2 * trained
    assert memory(run=RunConfig(device="cuda"))["activations"] == half["activations"]  # bfloat16 is its default
    assert memory(run=on_cpu, train=TrainConfig(ema_decay=0.9))["moving average"] == 4 * trained
    assert memory(run=on_cpu, train=TrainConfig(micro_batch_size=4))["activations"] == 2 * plain["activations"]
    parts = memory(2, run=replace(on_cpu, sharding="fsdp"))
    assert (parts["weights"], parts["gradients"]) == (plain["weights"] // 2, plain["gradients"] // 2)
    assert memory(2, run=on_cpu)["weights"] == plain["weights"]
