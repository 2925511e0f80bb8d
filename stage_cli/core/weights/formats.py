"""How each tensor of ours is made from the tensors of a published checkpoint.

A recipe runs on tensors when a model is loaded and on shapes alone when a file is checked, so that what does not fit is
listed before a byte of data is read. (Not on meta tensors: for those torch imports its compiler, which takes seconds.)

The four formats of a language model's weights, each as one recipe a tensor (docs/dev/model.md, "Weight formats").

`transformers`: `facebook/musicgen-*` `model.safetensors`. `audiocraft`: `state_dict.bin`. `x-transformers`: STAGE's own
`stage-drums.safetensors`. `stage`: this project's directory.

The codec inside published checkpoints: its sizes from the tensors' shapes, and the recipe of each tensor.

A plan: which config, which tensor of ours from which file. Nothing is read but names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.encodec import IGNORABLE_SUFFIXES, PublishedTensor, Style, published_names
from stage_cli.core.codec.seanet import fold
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.tensors import Shape, TensorFile
from stage_cli.errors import WeightsError

LISTED = 8  # names of tensors in one error message


@dataclass(frozen=True)
class Recipe:
    """One tensor of ours.

    Attributes:
        sources: names in the checkpoint.
        build: the tensors of those names → our tensor.
        shape: the shapes of those tensors → our tensor's; raises ValueError if they do not go together.
    """

    sources: tuple[str, ...]
    build: Callable[..., Tensor]
    shape: Callable[..., Shape]


def same(name: str) -> Recipe:
    """Take a tensor as it is."""
    return Recipe((name,), lambda tensor: tensor, lambda shape: shape)


def stacked(names: Iterable[str]) -> Recipe:
    """Stack equal shapes along a new first dimension."""
    return Recipe(
        tuple(names), lambda *tensors: torch.stack(tensors), lambda *shapes: (len(shapes), *_in_common(shapes, shapes))
    )


def concatenated(names: Iterable[str]) -> Recipe:
    """Concatenate along the first dimension: fused projections."""

    def shape(*shapes: Shape) -> Shape:
        return (sum(shape[0] for shape in shapes), *_in_common([shape[1:] for shape in shapes], shapes))

    return Recipe(tuple(names), lambda *tensors: torch.cat(tensors), shape)


def thirds(name: str, first: int, end: int) -> Recipe:
    """Take the thirds [first, end) of a projection that is fused from queries, keys and values."""

    def rows(length: int) -> slice:
        return slice(first * length // 3, end * length // 3)

    def shape(whole: Shape) -> Shape:
        return (len(range(whole[0])[rows(whole[0])]), *whole[1:])

    return Recipe((name,), lambda tensor: tensor[rows(tensor.shape[0])], shape)


def folded(length: str, direction: str) -> Recipe:
    """Fold a weight-normed convolution's length and direction into its weight."""

    def shape(g: Shape, v: Shape) -> Shape:
        if g != (v[0], *(1 for _ in v[1:])):
            raise ValueError(f"a length {list(g)} for a direction {list(v)}")
        return v

    return Recipe((length, direction), fold, shape)


def _in_common(parts: Sequence[Shape], shapes: Sequence[Shape]) -> Shape:
    if len(set(parts)) != 1:
        raise ValueError(f"shapes {', '.join(str(list(shape)) for shape in shapes)} do not go together")
    return parts[0]


def check(
    expected: Mapping[str, Shape],
    recipes: Mapping[str, Recipe],
    file: TensorFile,
    ignorable: Callable[[str], bool],
) -> None:
    """Compare a checkpoint with what the model needs, by names and shapes alone.

    Args:
        expected: our names and shapes.
        recipes: one for each of those names.
        file: the checkpoint.
        ignorable: whether a tensor of the checkpoint that no recipe uses is known and not needed.

    Raises:
        WeightsError: tensors are unknown, missing or misshapen; the message lists them.
    """
    used = {source for recipe in recipes.values() for source in recipe.sources}
    missing = sorted(used - file.shapes.keys())
    unknown = sorted(name for name in file.shapes.keys() - used if not ignorable(name))
    misshapen = []
    for name, shape in expected.items():
        recipe = recipes[name]
        if not set(recipe.sources) <= file.shapes.keys():
            continue
        try:
            built = recipe.shape(*(file.shapes[source] for source in recipe.sources))
        except (ValueError, IndexError) as error:
            misshapen.append(f"{', '.join(recipe.sources)}: {error}")
            continue
        if built != shape:
            misshapen.append(f"{', '.join(recipe.sources)}: {list(built)} instead of {list(shape)}")
    problems = [
        _listed(label, names)
        for label, names in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(
            f"{file.path} does not fit the model",
            why="; ".join(problems),
            next_step="check that the file is whole and belongs to this kind of model",
        )


def _listed(label: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {label}: {', '.join(names[:LISTED])}{more}"


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


_CODEBOOK: dict[Style, str] = {
    "transformers": r"quantizer\.layers\.(\d+)\.codebook\.embed",
    "audiocraft": r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed",
}


def find_codec(names: Mapping[str, Shape], prefix: str) -> Style | None:
    """Tell whether, and in which naming style, a checkpoint holds a codec under a prefix."""
    for style, codebook in _CODEBOOK.items():
        pattern = re.compile(re.escape(prefix) + codebook)
        if any(pattern.fullmatch(name) for name in names):
            return style
    return None


def codec_config(shapes: Mapping[str, Shape], prefix: str, style: Style, *, sample_rate: int = 32000) -> CodecConfig:
    """Read the codec's sizes off the shapes of its tensors.

    The sample rate and the growth of the dilation leave no trace in the shapes: they are those of the published codecs.

    Raises:
        WeightsError: the tensors are not those of an EnCodec.
    """
    ours = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    encoder = _convolutions(ours, "encoder")
    decoder = _convolutions(ours, "decoder")
    direct = [shape for path, shape in encoder if "." not in path]
    blocks = [(path, shape) for path, shape in encoder if ".block." in path]
    codebooks = [shape for name, shape in ours.items() if re.fullmatch(_CODEBOOK[style], name)]
    lstm = [name for name in ours if re.search(r"encoder\.\w+\.\d+\.lstm\.weight_ih_l\d+$", name)]
    if len(direct) < 3 or len(decoder) < 3 or not codebooks:
        raise WeightsError(
            "The checkpoint's codec is not an EnCodec", why="its encoder, decoder or codebooks are missing"
        )
    downsamples = direct[1:-1]
    residual = [shape for path, shape in blocks if path.endswith(".block.1")]
    return CodecConfig(
        sample_rate=sample_rate,
        channels=direct[0][1],
        filters=direct[0][0],
        dimension=direct[-1][0],
        ratios=tuple(shape[2] // 2 for shape in reversed(downsamples)),
        kernel_size=direct[0][2],
        last_kernel_size=direct[-1][2],
        residual_kernel_size=residual[0][2] if residual else 3,
        residual_layers=len(residual) // len(downsamples),
        compress=residual[0][1] // residual[0][0] if residual else 2,
        conv_shortcut=any(".shortcut" in path for path, _ in encoder),
        lstm_layers=len(lstm),
        codebooks=len(codebooks),
        codebook_size=codebooks[0][0],
    )


def codec_recipes(
    config: CodecConfig, style: Style, names: Mapping[str, Shape], prefix: str, ours: str = "codec."
) -> dict[str, Recipe]:
    """Make the recipe of each of the codec's tensors; weight normalisation is folded where it is stored."""
    return {
        ours + name: _recipe(name, published, names, prefix)
        for name, published in published_names(config, style).items()
    }


def is_codec_training_state(name: str) -> bool:
    """Tell whether a tensor is a statistic of the codebooks' training, which inference does not need."""
    return name.endswith(IGNORABLE_SUFFIXES)


def _recipe(ours: str, published: PublishedTensor, names: Mapping[str, Shape], prefix: str) -> Recipe:
    for length, direction in published.split_names:
        if prefix + length in names and prefix + direction in names:
            return folded(prefix + length, prefix + direction)
    if ours == "quantizer.codebooks":
        return stacked(prefix + name for name in published.names)
    return same(prefix + published.names[0])


def _convolutions(shapes: Mapping[str, Shape], coder: str) -> list[tuple[str, Shape]]:
    """Weights of the convolutions in the order of the layers, as (path inside the list, shape)."""
    pattern = re.compile(
        coder + r"\.(?:layers|model)\.(\d+(?:\.block\.\d+|\.shortcut)?)(?:\.conv|\.convtr)+"
        r"\.(?:weight|weight_v|parametrizations\.weight\.original1)"
    )
    found = [(match[1], shape) for name, shape in shapes.items() if (match := pattern.fullmatch(name))]
    return sorted(found, key=lambda item: [int(number) for number in re.findall(r"\d+", item[0])])


@dataclass(frozen=True)
class TensorSource:
    """One checkpoint file and what is taken from it.

    Attributes:
        file: the tensors.
        recipes: ours from theirs.
        ignorable: tensors that are known and not needed.
    """

    file: TensorFile
    recipes: dict[str, Recipe]
    ignorable: Callable[[str], bool]

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Compare with the shapes that the model needs; raises WeightsError with a list of what does not fit."""
        check({name: expected[name] for name in self.recipes}, self.recipes, self.file, self.ignorable)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Build our tensors one by one; each is mapped or newly made, so take it before asking for the next."""
        for name in self.recipes:
            yield name, self.build(name)

    def build(self, name: str) -> Tensor:
        """Build one tensor of ours; it is mapped or newly made."""
        recipe = self.recipes[name]
        return recipe.build(*(self.file.read(source) for source in recipe.sources))


@dataclass(frozen=True)
class Plan:
    """A model that can be built.

    Attributes:
        config: the model's.
        sources: where each of its tensors comes from.
        rounded: whether the matrices of all its language model's linears are stored as int8: rounding them to it
            changes nothing.
    """

    config: StageConfig
    sources: tuple[TensorSource, ...]
    rounded: bool = False
