"""Tiny random models of the transformers library: independent references, and directories laid out like the Hub's.

Sizes are unlike each other on purpose (text width ≠ model width, heads of 12), so that a mix-up cannot pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = ("genres", "genre", "moods", "mood", "rock", "pop", "jazz", "happy", "sad", "dark", "bright", ":", ".", ",")

TEXT = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
CODEC = EncodecConfig(
    sampling_rate=8000,
    hidden_size=16,
    num_filters=4,
    upsampling_ratios=[8, 5, 4],
    num_lstm_layers=1,
    codebook_size=32,
    target_bandwidths=[1.0],
    use_causal_conv=False,
    use_conv_shortcut=False,
)
DECODER = MusicgenDecoderConfig(
    vocab_size=32,
    num_hidden_layers=3,
    ffn_dim=96,
    num_attention_heads=4,
    hidden_size=48,
    num_codebooks=4,
    pad_token_id=32,
    bos_token_id=32,
)


def _randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Give each weight a value that matters; the library's own are so small that mistakes would hide in them."""
    for name, tensor in module.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensor.data.copy_(1 + 0.2 * noise)
        else:
            tensor.data.copy_(noise / (tensor[0].numel() if tensor.dim() > 1 else 25) ** 0.5)


def make_codec(seed: int = 0, **changes: Any) -> EncodecModel:
    """A tiny non-causal EnCodec, 8 kHz, 50 frames/s, with codebooks that are not zero."""
    torch.manual_seed(seed)
    codec = EncodecModel(EncodecConfig(**{**CODEC.to_dict(), **changes})).eval()
    for layer in codec.quantizer.layers:
        layer.codebook.embed.copy_(torch.randn(layer.codebook.embed.shape))
    return codec


def make_musicgen(seed: int = 0) -> MusicgenForConditionalGeneration:
    """A tiny random MusicGen; its text encoder is 32 wide, its decoder 48."""
    torch.manual_seed(seed)
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=TEXT, audio_encoder=CODEC, decoder=DECODER),
        audio_encoder=make_codec(seed),
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    _randomise(model.decoder, generator)
    _randomise(model.enc_to_dec_proj, generator)
    return model


def make_text_encoder(seed: int = 0) -> T5EncoderModel:
    """A tiny random T5 encoder, 32 wide."""
    torch.manual_seed(seed)
    return T5EncoderModel(TEXT).eval()


def save_tokenizer(directory: Path) -> None:
    """Write a tokenizer of a few words that, like T5's, pads with 0 and ends each text with </s> = 1."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # splits punctuation off words
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(directory)


def save_text_encoder(directory: Path, seed: int = 0) -> T5EncoderModel:
    """Write a T5 directory: weights, config, tokenizer."""
    encoder = make_text_encoder(seed)
    encoder.save_pretrained(directory)
    save_tokenizer(directory)
    return encoder


def save_musicgen(directory: Path, seed: int = 0) -> MusicgenForConditionalGeneration:
    """Write a directory like `facebook/musicgen-small`: weights, config, tokenizer."""
    model = make_musicgen(seed)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return model
