"""The model that a run starts with: growth of a MusicGen, a model of ours, weights from scratch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from tiny_sizes import TINY_CODEC, TINY_LM
from transformers_reference import make_codec, make_musicgen

from stage_cli.core.data.config import DataConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER
from stage_cli.core.training.building import build_model, embeddings_of_codec, grow
from stage_cli.core.training.settings import LoraConfig, ModelConfig, RunConfig, TrainingConfig
from stage_cli.core.training.stem_module import StemModule, TokenBatch
from stage_cli.errors import WeightsError

K, PAD, SEPARATOR = 4, 32, 33
SMALL = LanguageModelConfig(
    codebooks=K, codebook_size=32, dimension=48, layers=3, heads=4, feed_forward=96, text_dimension=None
)


def config(seed: int = 0, *, stem: str = "drums", lora: LoraConfig | None = None, **model: Any) -> TrainingConfig:
    data = DataConfig(root=("songs",), stem=stem, chunk_seconds=2.0, context_seconds=(1.0, 2.0))
    return TrainingConfig(data=data, model=ModelConfig(**model), run=RunConfig(seed=seed), lora=lora)


# Growth --------------------------------------------------------------------------------------------------------------


def test_a_musicgen_grows(musicgen_dir: Path) -> None:
    plain = StageModel.from_pretrained(str(musicgen_dir), device="cpu", precision="float32")
    model = build_model(config(base=str(musicgen_dir)))
    assert model.config.lm == replace(plain.config.lm, separator=True)
    assert model.lm.embeddings.shape == (K, 34, 48)
    assert torch.equal(model.lm.embeddings[:, :PAD], plain.lm.embeddings[:, :PAD])
    assert plain.lm.embeddings[:, PAD].abs().min() > 0
    assert (model.lm.embeddings[:, PAD] == 0).all()
    # The heads do not grow, and nothing else changes.
    theirs = {name: tensor for name, tensor in plain.state_dict().items() if name != "lm.embeddings"}
    ours = model.state_dict()
    assert ours.keys() == {*theirs, "lm.embeddings"}
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_a_grown_model_still_hears_what_it_heard(musicgen_dir: Path) -> None:
    """With pads of zeros and no separator in sight its logits are MusicGen's with the pads' rows at zero."""
    reference = make_musicgen()
    for table in reference.decoder.model.decoder.embed_tokens:
        table.weight.data[PAD] = 0
    model = build_model(config(base=str(musicgen_dir)))
    tokens = torch.randint(0, 32, (1, K, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.decoder(input_ids=tokens.reshape(K, 9)).logits.reshape(1, K, 9, 32)
        logits = model.lm(tokens, torch.ones(1, 9, dtype=torch.bool), torch.arange(9)[None])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_the_separators_distribution() -> None:
    """Kaiming-normal over each row, as torch's own draws a matrix of one row."""
    D = 4096
    row = torch.nn.init.kaiming_normal_(torch.empty(1, D), generator=torch.Generator().manual_seed(3))
    new = grow(torch.randn(K, 33, D), seed=0)[:, 33]
    # 16384 normal numbers: their deviation is known to 0.55 %.
    assert new.std().item() == pytest.approx(math.sqrt(2 / D), rel=0.02)
    assert new.std().item() == pytest.approx(row.std().item(), rel=0.04)
    assert abs(new.mean().item()) < 4 * math.sqrt(2 / D / new.numel())
    correlations = torch.corrcoef(new)
    assert (correlations - torch.eye(K)).abs().max() < 0.08  # each table draws its own


def test_growth_is_seeded(musicgen_dir: Path) -> None:
    state = torch.get_rng_state()
    one, again, other = (build_model(config(seed, base=str(musicgen_dir))).lm.embeddings for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert (one[:, SEPARATOR] != other[:, SEPARATOR]).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_grown_model_says_of_itself(musicgen_dir: Path) -> None:
    described = build_model(config(base=str(musicgen_dir), window_seconds=3.0)).config
    assert (described.stem, described.window_seconds, described.base) == ("drums", 3.0, str(musicgen_dir))
    assert described.licence == "CC-BY-NC-4.0 (MusicGen)"  # inherited
    assert described.text_encoder == str(musicgen_dir.resolve())  # which lies in the base
    changed = build_model(config(base=str(musicgen_dir), licence="MIT", text_encoder="google/elsewhere", stem="any"))
    assert (changed.config.licence, changed.config.text_encoder) == ("MIT", "google/elsewhere")
    assert changed.config.stem is None
    assert changed.config.window_seconds == 2.0  # data.chunk_seconds


def test_what_is_trained(musicgen_dir: Path) -> None:
    model = build_model(config(base=str(musicgen_dir)))
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert (trained, frozen) == ({"lm", "text_projection"}, {"codec"})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(layer.checkpointing for layer in model.lm.layers)
    assert all(
        layer.checkpointing for layer in build_model(config(base=str(musicgen_dir), checkpointing=True)).lm.layers
    )


def test_from_the_hub(musicgen_dir: Path, hub: HubServer) -> None:
    hub.add_repo("facebook/musicgen-small", musicgen_dir)
    model = build_model(config(base="facebook/musicgen-small"))
    assert (model.config.base, model.config.text_encoder) == ("facebook/musicgen-small",) * 2
    named = build_model(config(base="musicgen-small"))
    assert (named.config.base, named.config.text_encoder) == ("musicgen-small", "facebook/musicgen-small")
    assert torch.equal(named.lm.embeddings, model.lm.embeddings)


# Other bases ---------------------------------------------------------------------------------------------------------


def test_a_model_of_ours_goes_on_as_it_is(tiny_model_dir: Path) -> None:
    model = build_model(config(base=str(tiny_model_dir), stem="bass"))
    expected = StageModel.from_pretrained(str(tiny_model_dir), device="cpu", precision="float32").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert (model.config.stem, model.config.licence, model.config.base) == ("bass", "MIT", str(tiny_model_dir))


def test_half_precision_weights_are_trained_in_fp32(tiny_model_dir: Path, tmp_path: Path) -> None:
    half = StageModel.from_pretrained(str(tiny_model_dir), device="cpu", precision="bfloat16")
    half.save_pretrained(tmp_path / "half")
    model = build_model(config(base=str(tmp_path / "half")))
    assert model.lm.embeddings.dtype == torch.float32
    assert torch.equal(model.lm.embeddings, half.lm.embeddings.float())


def test_lora_is_put_in(musicgen_dir: Path, tiny_model_dir: Path) -> None:
    grown = build_model(config(base=str(musicgen_dir), lora=LoraConfig(rank=2)))
    trained = {name for name, parameter in grown.named_parameters() if parameter.requires_grad}
    assert "lm.layers.0.attention_qkv.lora_A.default.weight" in trained
    assert "lm.separator_change" in trained  # a new separator has to be learned …
    own = build_model(config(base=str(tiny_model_dir), lora=LoraConfig(rank=2)))
    assert "lm.separator_change" not in dict(own.named_parameters())  # … an old one has been


# From scratch --------------------------------------------------------------------------------------------------------


def _first_losses(model: StageModel, frames: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    lm = model.config.lm
    context, target = (
        torch.randint(0, lm.codebook_size, (8, lm.codebooks, frames), generator=generator) for _ in range(2)
    )
    module = StemModule(model.lm, model.text_projection, (1 / lm.codebooks,) * lm.codebooks)
    with torch.no_grad():
        return module(TokenBatch(context, (frames,) * 8, target))["codebook_losses"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"layers": 12}, {"dimension": 256, "feed_forward": 1024}, {"text_dimension": 40}],
    ids=["small", "deep", "wide", "text"],
)
def test_the_first_loss_is_that_of_guessing(tiny_model_dir: Path, changes: dict[str, int]) -> None:
    model = build_model(config(lm=replace(SMALL, **changes), codec=str(tiny_model_dir), text_encoder=""))
    assert (_first_losses(model) - math.log(32)).abs().max() < 0.3


def test_weights_from_scratch(tiny_model_dir: Path, tiny_model: StageModel) -> None:
    lm = replace(SMALL, dimension=256, feed_forward=1024, text_dimension=40)
    state = torch.get_rng_state()
    model = build_model(config(lm=lm, codec=str(tiny_model_dir)))
    assert torch.equal(torch.get_rng_state(), state)
    weights = model.state_dict()
    deviations = {
        "lm.embeddings": math.sqrt(0.5 / K),
        "lm.layers.0.attention_qkv.weight": 1 / 16,
        "lm.layers.2.attention_out.weight": 1 / 16 / math.sqrt(6),
        "lm.layers.1.text_kv.weight": 1 / 16,
        "lm.layers.1.text_out.weight": 1 / 16 / math.sqrt(6),
        "lm.layers.1.feed_forward_in.weight": 1 / 16,
        "lm.layers.1.feed_forward_out.weight": 1 / 32 / math.sqrt(6),
        "lm.output_heads.weight": 0.5 / 16,
        "text_projection.weight": 1 / math.sqrt(40),
    }
    for name, deviation in deviations.items():
        tensor = weights[name][:, torch.arange(34) != PAD] if name == "lm.embeddings" else weights[name]
        assert tensor.std().item() == pytest.approx(deviation, rel=0.03), name
    assert (weights["lm.embeddings"][:, PAD] == 0).all()
    assert (weights["lm.norm.weight"] == 1).all()
    assert (weights["lm.layers.1.text_norm.bias"] == 0).all()
    assert (weights["text_projection.bias"] == 0).all()
    for name, tensor in tiny_model.codec.state_dict().items():
        assert torch.equal(weights[f"codec.{name}"], tensor), name
    other = build_model(config(1, lm=lm, codec=str(tiny_model_dir)))
    assert not torch.equal(other.lm.embeddings, model.lm.embeddings)
    again = build_model(config(lm=lm, codec=str(tiny_model_dir)))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_embeddings_of_the_codec(tiny_model_dir: Path) -> None:
    """Nothing else changes."""
    random = build_model(config(lm=SMALL, codec=str(tiny_model_dir), text_encoder="")).state_dict()
    model = build_model(config(lm=SMALL, codec=str(tiny_model_dir), text_encoder="", embeddings="codec"))
    known = model.state_dict()
    assert {name for name in random if not torch.equal(random[name], known[name])} == {"lm.embeddings"}
    expected = embeddings_of_codec(random["lm.embeddings"], model.codec.quantizer.codebooks, seed=0)
    assert torch.equal(known["lm.embeddings"], expected)
    assert model.lm.embeddings.requires_grad
    assert (known["lm.embeddings"][:, PAD] == 0).all()


def test_what_a_model_from_scratch_says_of_itself(tiny_model_dir: Path) -> None:
    described = build_model(config(lm=SMALL, codec=str(tiny_model_dir))).config
    assert (described.base, described.text_encoder, described.licence) == (None, None, "MIT")  # its codec's licence
    with_text = build_model(config(lm=replace(SMALL, text_dimension=768), codec=str(tiny_model_dir))).config
    assert with_text.text_encoder == DEFAULT_TEXT_ENCODER


def test_the_codec_of_a_musicgen_and_of_an_encodec(musicgen_dir: Path, tmp_path: Path) -> None:
    codec = make_codec()
    codec.save_pretrained(tmp_path / "encodec")
    lent = build_model(config(lm=SMALL, codec=str(musicgen_dir)))
    assert lent.config.licence == "CC-BY-NC-4.0 (MusicGen)"
    alone = build_model(config(lm=SMALL, codec=str(tmp_path / "encodec")))
    assert alone.config.licence == "unknown"
    codebooks = torch.stack([layer.codebook.embed for layer in codec.quantizer.layers])
    assert torch.equal(alone.codec.quantizer.codebooks, codebooks)


def test_sizes_from_a_config(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The sizes of a model, but none of its weights; a plain one's get a separator."""
    path = tiny_model_dir / "config.json"
    model = build_model(config(base=str(path), codec=str(tiny_model_dir)))
    assert model.config.lm == TINY_LM
    assert model.config.codec == TINY_CODEC
    trained = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    assert not torch.equal(model.lm.embeddings, trained.lm.embeddings)
    values = json.loads(path.read_text())
    values["lm"]["separator"] = False
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert build_model(config(base=str(tmp_path / "config.json"), codec=str(tiny_model_dir))).config.lm == TINY_LM


def test_a_codec_that_does_not_fit(tiny_model_dir: Path) -> None:
    with pytest.raises(WeightsError, match="The codec has 4 codebooks of 32, the language model 4 of 64"):
        build_model(config(lm=replace(SMALL, codebook_size=64), codec=str(tiny_model_dir)))


def test_no_codec(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty holds no codec · name a model or a codec: model\.codec"):
        build_model(config(lm=SMALL, codec=str(tmp_path / "empty")))


def test_the_layout_is_that_of_generation(tiny_model_dir: Path) -> None:
    """What is trained is what generates: the module's logits are the model's own."""
    model = build_model(config(base=str(tiny_model_dir)))
    codes = torch.randint(0, 32, (1, K, 10), generator=torch.Generator().manual_seed(0))
    context, target = codes[:, :, :6], codes[:, :, 6:]
    with torch.no_grad():
        trained = StemModule(model.lm, None, (1 / K,) * K).target_logits(TokenBatch(context, (6,), target))
        whole = model.lm(*delayed_sequence(context, target, model.config.lm))
    torch.testing.assert_close(trained, whole[:, :, 7:11].transpose(1, 2), atol=1e-5, rtol=0)
