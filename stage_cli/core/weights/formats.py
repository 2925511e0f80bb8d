"""The four formats of a language model's weights, each as one recipe a tensor (docs/model.md, "Weight formats").

`transformers`: `facebook/musicgen-*` `model.safetensors`. `audiocraft`: `state_dict.bin`. `x-transformers`: STAGE's own
`stage-drums.safetensors`. `stage`: this project's directory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.weights.recipes import Recipe, concatenated, same, stacked, thirds
from stage_cli.core.weights.tensors import Shape
from stage_cli.errors import WeightsError

# The published checkpoints all have heads of this width, and no shape shows it.
HEAD_DIMENSION = 64


@dataclass(frozen=True)
class Format:
    """How one family of checkpoints names its language model.

    Attributes:
        name: what users call it.
        embedding: codebook k's embedding table, with `{k}`.
        head: codebook k's output head.
        layer: pattern of a layer's self-attention norm, whose group 1 is the layer's number (in steps of `stride`).
        stride: entries of the layers' list that make one layer.
        text_projection: prefix of the linear from the text encoder's width to the model's.
        codec_prefix: prefix of the codec's tensors in the same file.
        layer_recipes: layer index, has text → our names (without the layer's prefix) and recipes.
        final_norm: prefix of the norm before the output heads.
        ignorable: pattern of tensors that are known and not needed.
    """

    name: str
    embedding: str
    head: str
    layer: str
    stride: int
    text_projection: str
    codec_prefix: str
    layer_recipes: Callable[[int, bool], dict[str, Recipe]]
    final_norm: str
    ignorable: str

    def matches(self, names: Mapping[str, Shape]) -> bool:
        """Tell whether a checkpoint is of this format."""
        return self.embedding.format(k=0) in names

    def config(self, shapes: Mapping[str, Shape], heads: int | None = None) -> LanguageModelConfig:
        """Read the sizes off the shapes.

        Args:
            shapes: of the checkpoint's tensors.
            heads: attention heads if something says so; else heads of 64.

        Raises:
            WeightsError: the shapes contradict each other, or are not those of a MusicGen.
        """
        codebooks = 0
        while self.embedding.format(k=codebooks) in shapes:
            codebooks += 1
        try:
            vocabulary, dimension = shapes[self.embedding.format(k=0)]
            codebook_size = shapes[self.head.format(k=0)][0]
            feed_forward = shapes[self._feed_forward_name()][0]
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"A {self.name} checkpoint without a whole language model", why=f"no {error}") from None
        if vocabulary - codebook_size not in (1, 2):
            raise WeightsError(
                f"Embedding tables of {vocabulary} rows with output heads of {codebook_size}",
                why="MusicGen has one row more than codes (the pad), STAGE two (and the separator)",
            )
        if heads is None and dimension % HEAD_DIMENSION:
            raise WeightsError(f"A model {dimension} wide", why=f"its heads are not known to be {HEAD_DIMENSION} wide")
        numbers = [int(match[1]) for name in shapes if (match := re.fullmatch(self.layer, name))]
        text = shapes.get(f"{self.text_projection}.weight")
        return LanguageModelConfig(
            codebooks=codebooks,
            codebook_size=codebook_size,
            dimension=dimension,
            layers=max(numbers, default=0) // self.stride + 1,
            heads=heads or dimension // HEAD_DIMENSION,
            feed_forward=feed_forward,
            text_dimension=text[1] if text else None,
            separator=vocabulary == codebook_size + 2,
        )

    def recipes(self, config: LanguageModelConfig) -> dict[str, Recipe]:
        """Make the recipes of the language model's tensors and the text projection's, by our names."""
        K, has_text = range(config.codebooks), config.text_dimension is not None
        recipes = {
            "lm.embeddings": stacked(self.embedding.format(k=k) for k in K),
            "lm.output_heads.weight": concatenated(self.head.format(k=k) for k in K),
            **_norm("lm.norm", self.final_norm),
        }
        for layer in range(config.layers):
            for name, recipe in self.layer_recipes(layer, has_text).items():
                recipes[f"lm.layers.{layer}.{name}"] = recipe
        if has_text:
            recipes["text_projection.weight"] = same(f"{self.text_projection}.weight")
            recipes["text_projection.bias"] = same(f"{self.text_projection}.bias")
        return recipes

    def _feed_forward_name(self) -> str:
        return self.layer_recipes(0, False)["feed_forward_in.weight"].sources[0]


def _norm(ours: str, theirs: str) -> dict[str, Recipe]:
    return {f"{ours}.weight": same(f"{theirs}.weight"), f"{ours}.bias": same(f"{theirs}.bias")}


def _transformers_layer(layer: int, has_text: bool) -> dict[str, Recipe]:
    prefix = f"decoder.model.decoder.layers.{layer}"
    own, text = f"{prefix}.self_attn", f"{prefix}.encoder_attn"
    recipes = {
        **_norm("attention_norm", f"{prefix}.self_attn_layer_norm"),
        "attention_qkv.weight": concatenated(f"{own}.{part}_proj.weight" for part in "qkv"),
        "attention_out.weight": same(f"{own}.out_proj.weight"),
        **_norm("feed_forward_norm", f"{prefix}.final_layer_norm"),
        "feed_forward_in.weight": same(f"{prefix}.fc1.weight"),
        "feed_forward_out.weight": same(f"{prefix}.fc2.weight"),
    }
    if has_text:
        recipes |= {
            **_norm("text_norm", f"{prefix}.encoder_attn_layer_norm"),
            "text_q.weight": same(f"{text}.q_proj.weight"),
            "text_kv.weight": concatenated(f"{text}.{part}_proj.weight" for part in "kv"),
            "text_out.weight": same(f"{text}.out_proj.weight"),
        }
    return recipes


def _audiocraft_layer(layer: int, has_text: bool) -> dict[str, Recipe]:
    prefix = f"transformer.layers.{layer}"
    recipes = {
        **_norm("attention_norm", f"{prefix}.norm1"),
        "attention_qkv.weight": same(f"{prefix}.self_attn.in_proj_weight"),
        "attention_out.weight": same(f"{prefix}.self_attn.out_proj.weight"),
        **_norm("feed_forward_norm", f"{prefix}.norm2"),
        "feed_forward_in.weight": same(f"{prefix}.linear1.weight"),
        "feed_forward_out.weight": same(f"{prefix}.linear2.weight"),
    }
    if has_text:
        fused = f"{prefix}.cross_attention.in_proj_weight"
        recipes |= {
            **_norm("text_norm", f"{prefix}.norm_cross"),
            "text_q.weight": thirds(fused, 0, 1),
            "text_kv.weight": thirds(fused, 1, 3),
            "text_out.weight": same(f"{prefix}.cross_attention.out_proj.weight"),
        }
    return recipes


def _x_transformers_layer(layer: int, has_text: bool) -> dict[str, Recipe]:
    own, text, ff = (f"lm.decoder.attn_layers.layers.{3 * layer + part}" for part in range(3))
    recipes = {
        **_norm("attention_norm", f"{own}.0.0"),
        "attention_qkv.weight": concatenated(f"{own}.1.to_{part}.weight" for part in "qkv"),
        "attention_out.weight": same(f"{own}.1.to_out.weight"),
        **_norm("feed_forward_norm", f"{ff}.0.0"),
        "feed_forward_in.weight": same(f"{ff}.1.ff.0.0.weight"),
        "feed_forward_out.weight": same(f"{ff}.1.ff.2.weight"),
    }
    if has_text:
        recipes |= {
            **_norm("text_norm", f"{text}.0.0"),
            "text_q.weight": same(f"{text}.1.to_q.weight"),
            "text_kv.weight": concatenated(f"{text}.1.to_{part}.weight" for part in "kv"),
            "text_out.weight": same(f"{text}.1.to_out.weight"),
        }
    return recipes


TRANSFORMERS = Format(
    name="transformers",
    embedding="decoder.model.decoder.embed_tokens.{k}.weight",
    head="decoder.lm_heads.{k}.weight",
    layer=r"decoder\.model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.weight",
    stride=1,
    text_projection="enc_to_dec_proj",
    codec_prefix="audio_encoder.",
    layer_recipes=_transformers_layer,
    final_norm="decoder.model.decoder.layer_norm",
    # The text encoder is read by core/text.py when a description is given; the positions are computed.
    ignorable=r"text_encoder\..*|decoder\.model\.decoder\.embed_positions\.weights",
)
AUDIOCRAFT = Format(
    name="audiocraft",
    embedding="emb.{k}.weight",
    head="linears.{k}.weight",
    layer=r"transformer\.layers\.(\d+)\.norm1\.weight",
    stride=1,
    text_projection="condition_provider.conditioners.description.output_proj",
    codec_prefix="",
    layer_recipes=_audiocraft_layer,
    final_norm="out_norm",
    ignorable=r"condition_provider\.conditioners\.description\.t5\..*",
)
X_TRANSFORMERS = Format(
    name="STAGE (x-transformers)",
    embedding="lm.decoder.token_emb.emb.{k}.weight",
    head="lm.decoder.to_logits.linears.{k}.weight",
    layer=r"lm\.decoder\.attn_layers\.layers\.(\d+)\.1\.to_q\.weight",
    stride=3,
    text_projection="condition_provider.embedders.description.output_proj",
    codec_prefix="encodec_model.",
    layer_recipes=_x_transformers_layer,
    final_norm="lm.decoder.attn_layers.final_norm",
    ignorable=r"condition_provider\.embedders\.description\.t5\..*",
)
FORMATS = (TRANSFORMERS, AUDIOCRAFT, X_TRANSFORMERS)


def find_format(names: Mapping[str, Shape]) -> Format | None:
    """Tell the format of a published checkpoint by its names, or None."""
    return next((form for form in FORMATS if form.matches(names)), None)
