"""Descriptions to vectors, against the transformers library's own T5 encoder with the same random weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5EncoderModel
from transformers_reference import make_musicgen, save_text_encoder

from stage_cli.core.model import StageModel
from stage_cli.core.text import TextEncoder, drop_words
from stage_cli.errors import UsageError, WeightsError

CPU = torch.device("cpu")
DESCRIPTIONS = ["Genres: Rock, Jazz. Moods: happy.", "pop", "Mood: unheard-of."]


def _tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "t5-tiny"
    save_text_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(t5_dir: Path) -> TextEncoder:
    return TextEncoder(t5_dir, CPU)


def test_vectors_equal_the_librarys(t5_dir: Path, encoder: TextEncoder) -> None:
    reference = T5EncoderModel.from_pretrained(t5_dir).eval()
    batch = _tokenizer(t5_dir)(DESCRIPTIONS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = reference(**batch).last_hidden_state
    vectors, mask = encoder.encode(DESCRIPTIONS)
    assert vectors.dtype == torch.float32
    assert encoder.dimension == 32
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
    assert torch.equal(mask, batch["attention_mask"].bool())
    assert mask.sum(dim=1).tolist() == [11, 2, 7]  # words, punctuation, </s>; padded to the longest


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    together, mask = encoder.encode(DESCRIPTIONS)
    for row, description in enumerate(DESCRIPTIONS):
        alone, alone_mask = encoder.encode([description])
        assert alone_mask.all()
        torch.testing.assert_close(together[row][mask[row]], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_description_is_masked_altogether(encoder: TextEncoder, empty: str) -> None:
    _, mask = encoder.encode([empty, "rock"])
    assert mask.tolist() == [[False, False], [True, True]]


def test_a_t5_inside_a_musicgen(musicgen_dir: Path) -> None:
    reference = make_musicgen().text_encoder
    ids = _tokenizer(musicgen_dir)(DESCRIPTIONS[:1], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = reference(ids).last_hidden_state
    vectors, _ = TextEncoder(musicgen_dir, CPU).encode(DESCRIPTIONS[:1])
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


def test_the_whole_t5_with_its_decoder_in_half_precision(t5_dir: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    # As google-t5/t5-base is published: a decoder beside the encoder, one table under two names.
    shutil.copytree(t5_dir, tmp_path / "t5")
    state = {name: tensor.half() for name, tensor in load_file(t5_dir / "model.safetensors").items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
    state["decoder.block.0.layer.0.SelfAttention.k.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "t5" / "model.safetensors")
    vectors, _ = TextEncoder(tmp_path / "t5", CPU).encode(DESCRIPTIONS)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, encoder.encode(DESCRIPTIONS)[0], atol=5e-3, rtol=0)  # fp16 weights


def test_loading_prints_nothing(t5_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TextEncoder(t5_dir, CPU).encode(["rock"])
    assert capfd.readouterr() == ("", "")


def _spoil(directory: Path, t5_dir: Path, how: str) -> None:
    shutil.copytree(t5_dir, directory)
    if how == "no config":
        (directory / "config.json").unlink()
    elif how == "no tokenizer":
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer_config.json").unlink()
    elif how == "another model":
        values = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(values | {"model_type": "bert"}))
    elif how == "a tensor less":
        state = load_file(directory / "model.safetensors")
        del state["encoder.final_layer_norm.weight"]
        save_file(state, directory / "model.safetensors")
    elif how == "another shape":
        state = load_file(directory / "model.safetensors")
        state["encoder.final_layer_norm.weight"] = torch.ones(7)
        save_file(state, directory / "model.safetensors")
    elif how == "truncated":
        data = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", r"Cannot read .*config\.json"),
        ("no tokenizer", "holds no tokenizer"),
        ("another model", "holds no usable T5 text encoder .*type 'bert'"),
        ("a tensor less", r"holds no usable T5 text encoder .*lacks encoder\.final_layer_norm\.weight"),
        ("another shape", r"holds no usable T5 text encoder .*encoder\.final_layer_norm\.weight"),
        ("truncated", "truncated, damaged, or not a checkpoint"),
    ],
)
def test_wrong_directories(t5_dir: Path, tmp_path: Path, how: str, message: str) -> None:
    _spoil(tmp_path / "spoilt", t5_dir, how)
    with pytest.raises(WeightsError, match=message):
        TextEncoder(tmp_path / "spoilt", CPU)


def _model_with_text_encoder(musicgen_dir: Path, directory: Path, text_encoder: str | None) -> StageModel:
    StageModel.from_pretrained(str(musicgen_dir), device="cpu").save_pretrained(directory)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"text_encoder": text_encoder}))
    return StageModel.from_pretrained(str(directory), device="cpu")


def test_a_text_encoder_of_another_width(musicgen_dir: Path, t5_dir: Path, tmp_path: Path) -> None:
    from transformers import T5Config

    narrow = T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=8, num_layers=1, num_heads=2))
    shutil.copytree(t5_dir, tmp_path / "model" / "narrow")
    narrow.save_pretrained(tmp_path / "model" / "narrow")
    model = _model_with_text_encoder(musicgen_dir, tmp_path / "model", "narrow")
    with pytest.raises(WeightsError, match="is 16 wide, the model expects 32"):
        model.encode_description("rock")


def test_a_text_encoder_beside_the_model(musicgen_dir: Path, t5_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(t5_dir, tmp_path / "model" / "text")
    model = _model_with_text_encoder(musicgen_dir, tmp_path / "model", "text")
    assert model.encode_description("rock pop").shape == (1, 3, 48)


def test_a_model_without_text(tiny_model: StageModel, musicgen_dir: Path, tmp_path: Path) -> None:
    without_encoder = _model_with_text_encoder(musicgen_dir, tmp_path / "model", None)
    for model in (tiny_model, without_encoder):
        with pytest.raises(UsageError, match="This model takes no description"):
            model.encode_description("rock")


def test_what_is_imported_without_a_description(tiny_model_dir: Path, musicgen_dir: Path) -> None:
    """Neither transformers nor torch's compiler, which takes seconds: meta tensors are handled with care."""
    script = (
        "import sys, torch\n"
        "from stage_cli.core.model import StageModel\n"
        "from stage_cli.core.generation.song import generate_song\n"
        "from stage_cli.core.generation.config import GenerationConfig\n"
        "StageModel.from_pretrained(sys.argv[1], device='cpu', precision='int8')\n"
        "model = StageModel.from_pretrained(sys.argv[2], device='cpu')\n"
        "context = model.codec.encode(torch.zeros(1, 1, 1600))\n"
        "codes = torch.cat(list(generate_song(model.lm, context, GenerationConfig(), window=5)), dim=2)\n"
        "model.codec.decode(codes)\n"
        "print({'transformers', 'torch._dynamo', 'sympy'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, str(tiny_model_dir), str(musicgen_dir)]
    done = forked.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_word_dropout() -> None:
    words = [f"w{number}" for number in range(10_000)]
    description = " ".join(words)
    kept = drop_words(description, 0.3, torch.Generator().manual_seed(0)).split()
    assert abs(len(kept) / len(words) - 0.7) < 0.014  # three standard deviations
    assert drop_words(description, 0.3, torch.Generator().manual_seed(0)).split() == kept
    assert drop_words(description, 0.3, torch.Generator().manual_seed(1)).split() != kept


def test_word_dropout_keeps_the_order_and_its_ends_are_exact() -> None:
    description = "Genres: Rock, Jazz.  Moods: happy."
    for seed in range(20):
        kept = drop_words(description, 0.5, torch.Generator().manual_seed(seed)).split()
        iterator = iter(description.split())
        assert all(word in iterator for word in kept)  # a subsequence
    generator = torch.Generator().manual_seed(0)
    assert drop_words(description, 0.0, generator) == "Genres: Rock, Jazz. Moods: happy."
    assert drop_words(description, 1.0, generator) == ""
    assert drop_words("", 0.5, generator) == ""
