"""First embeddings of a model from scratch that know what its codec's tokens sound like.

With random ones a model has to hear each of thousands of tokens many times before it knows that two of them sound
alike. The codec knows from its first day: the vectors of a frame's tokens sum to the latents that the frame sounds of.
So one random projection of the codebooks, the same for all of them, gives a model those latents, projected.

The weights that a training from scratch starts with.

Pre-norm layers see inputs of variance one, so each linear's weights have the variance 1 / its inputs; what is added to
the residual stream is scaled down by √(2 · layers), as in GPT-2, so that depth does not blow it up. The K embeddings of
a step sum to the size of the sinusoidal positions (½ of variance). The heads begin with logits of standard deviation
0.5: the first loss is ln(codebook_size) + 0.125, and no codebook is preferred.

A plain MusicGen becomes a STAGE model: a separator's row for each embedding table, and a pad of zeros.

The model that a run starts with: a base's, a grown MusicGen's, or one from scratch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.data.config import ANY_STEM
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER, MODEL_TYPE, StageConfig, read_config
from stage_cli.core.precision import Runtime
from stage_cli.core.training.lora import add_lora
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.weights.checkpoint import CONFIG_FILE, codec_of_directory, own_shapes, plan_directory
from stage_cli.core.weights.formats import Plan, Recipe, TensorSource, same
from stage_cli.core.weights.hub import hub_repository, resolve
from stage_cli.core.weights.own_format import CODEC_TYPE, read_own_config
from stage_cli.core.weights.tensors import Shape, TensorFile
from stage_cli.errors import WeightsError


def embeddings_of_codec(embeddings: Tensor, codebooks: Tensor, seed: int) -> Tensor:
    """Mix random embeddings with a projection of the codebooks, half of the variance each.

    Args:
        embeddings: `[K, V, D]`, random; those of special tokens, behind the codes, stay.
        codebooks: `[K, codebook_size, latent dimension]` of the codec.
        seed: of the projection.

    Returns:
        `[K, V, D]`; codebooks keep their sizes beside each other, which tell how much each says.
    """
    K, size, latent = codebooks.shape
    centred = codebooks.float() - codebooks.float().mean(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    projected = centred @ torch.randn(latent, embeddings.shape[2], generator=generator)
    drawn = embeddings[:, :size]
    projected *= drawn.std() / projected.std().clamp(min=1e-12)
    mixed = embeddings.clone()
    mixed[:K, :size] = (drawn + projected) * 0.5**0.5
    return mixed


_FIRST_LOGITS = 0.5
_RESIDUAL = re.compile(r"lm\.layers\.\d+\.(attention_out|text_out|feed_forward_out)\.weight")


class InitialWeights(TensorFile):
    """The random weights of a language model and its text projection, as if they lay in a file.

    Args:
        config: the language model's.
        shapes: of the tensors, by our names (`lm.…`, `text_projection.…`).
        seed: fixes them; each tensor is drawn from (seed, its place among the sorted names) alone.
    """

    def __init__(self, config: LanguageModelConfig, shapes: dict[str, Shape], seed: int) -> None:
        self.path = Path("initial weights")
        self.shapes = shapes
        self._config = config
        self._seeds = {name: (seed * 1_000_003 + place) % 2**63 for place, name in enumerate(sorted(shapes))}

    def read(self, name: str) -> Tensor:
        """Draw one tensor, fp32."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
        if name == "lm.aligned.weight" or name.endswith(".outer.weight"):
            return torch.zeros(shape)  # the model starts as it is without
        generator = torch.Generator().manual_seed(self._seeds[name])
        tensor = torch.randn(shape, generator=generator) * self._deviation(name, shape)
        if name == "lm.embeddings" and self._config.separator:
            tensor[:, self._config.pad] = 0
        return tensor

    def _deviation(self, name: str, shape: Shape) -> float:
        if name == "lm.embeddings":
            return math.sqrt(0.5 / self._config.codebooks)
        if name == "lm.output_heads.weight":
            return _FIRST_LOGITS / math.sqrt(shape[1])
        if name.endswith(".kernel"):
            return 1 / math.sqrt(shape[2])
        scale = math.sqrt(2 * self._config.layers) if _RESIDUAL.fullmatch(name) else 1.0
        return 1 / (math.sqrt(shape[1]) * scale)


_EMBEDDINGS = "lm.embeddings"


def grow_plan(plan: Plan, seed: int) -> Plan:
    """Plan the model with a separator of a plan without one: `lm.embeddings` grows, all else stays.

    Args:
        plan: of a plain MusicGen.
        seed: fixes the separator's embeddings.
    """
    config = replace(plan.config, lm=replace(plan.config.lm, separator=True))
    return Plan(config, tuple(_grow_source(source, seed) for source in plan.sources))


def grow(embeddings: Tensor, seed: int) -> Tensor:
    """Embedding tables `[K, codes + 1, D]` → `[K, codes + 2, D]` fp32.

    The separator's new row is Kaiming-normal as in STAGE's training code: drawn as a matrix of that one row, so of
    standard deviation √(2 / D). The pad's row becomes zero.
    """
    K, rows, D = embeddings.shape
    generator = torch.Generator().manual_seed(seed)
    separator = torch.randn(K, 1, D, generator=generator) * math.sqrt(2 / D)
    grown = torch.cat([embeddings.float(), separator], dim=1)
    grown[:, rows - 1] = 0
    return grown


def _grow_source(source: TensorSource, seed: int) -> TensorSource:
    if _EMBEDDINGS not in source.recipes:
        return source
    recipes = source.recipes | {_EMBEDDINGS: _grow_recipe(source.recipes[_EMBEDDINGS], seed)}
    return replace(source, recipes=recipes)


def _grow_recipe(recipe: Recipe, seed: int) -> Recipe:
    build: Callable[..., Tensor] = recipe.build
    shape: Callable[..., Shape] = recipe.shape

    def grown_shape(*shapes: Shape) -> Shape:
        K, rows, D = shape(*shapes)
        return K, rows + 1, D

    return Recipe(recipe.sources, lambda *tensors: grow(build(*tensors), seed), grown_shape)


MUSICGEN_LICENCE = "CC-BY-NC-4.0 (MusicGen)"


def build_model(config: TrainingConfig, *, offline: bool = False) -> StageModel:
    """Build the model to train: on the CPU, in fp32, with gradients for the language model and the text projection.

    In a LoRA run it has LoRA, and gradients only there.

    Args:
        config: the run's.
        offline: use only files that are already on this machine.

    Raises:
        UsageError: there is no such base, codec or text encoder.
        HubError: one of them cannot be fetched.
        WeightsError: its files cannot be used, or codec and language model do not fit each other.
        DeviceError: out of memory.
    """
    directory, grown = None, False
    if config.model.from_scratch:
        plan = _plan_from_scratch(config, offline=offline)
    else:
        directory = resolve(config.model.base, offline=offline)
        plan, grown = _plan_from_base(config, directory, offline=offline)
    model = StageModel.from_plan(plan, Runtime(torch.device("cpu"), "float32"))
    model.directory, model.offline = directory, offline
    if config.model.embeddings == "codec":
        known = embeddings_of_codec(model.lm.embeddings.data, model.codec.quantizer.codebooks, config.run.seed)
        model.lm.embeddings.data.copy_(known)
    for part in (model.lm, model.text_projection):
        if part is not None:
            part.requires_grad_(True)
    model.lm.set_checkpointing(config.model.checkpointing)
    if config.lora is not None:
        # The separator of a model that has just got one means nothing yet.
        add_lora(model, config.lora, seed=config.run.seed, train_separator=grown)
    return model


def _plan_from_base(config: TrainingConfig, directory: Path, *, offline: bool) -> tuple[Plan, bool]:
    """Plan a base's model, and tell whether it grows."""
    plan = plan_directory(directory, offline=offline)
    grows = not plan.config.lm.separator
    if grows:
        plan = grow_plan(plan, config.run.seed)
    own = config.model.text_encoder or plan.config.text_encoder
    described = replace(
        plan.config,
        stem=_stem(config),
        window_seconds=config.window_seconds,
        text_encoder=_lasting_name(own, directory, config.model.base),
        licence=config.model.licence or plan.config.licence,
        base=config.model.base,
    )
    return Plan(described, plan.sources), grows


def _plan_from_scratch(config: TrainingConfig, *, offline: bool) -> Plan:
    lm, text_encoder = _sizes(config)
    directory = resolve(config.model.codec, offline=offline)
    codec = codec_of_directory(directory, offline=offline)
    if codec is None:
        raise WeightsError(f"{config.model.codec} holds no codec", next_step="name a model or a codec: model.codec = …")
    described = StageConfig(
        codec=codec.config,
        lm=lm,
        stem=_stem(config),
        text_encoder=_lasting_name(config.model.text_encoder or text_encoder, Path(), ""),
        window_seconds=config.window_seconds,
        licence=config.model.licence or _codec_licence(directory),
        base=None,
    )
    shapes = {name: shape for name, shape in own_shapes(described).items() if not name.startswith("codec.")}
    weights = InitialWeights(lm, shapes, config.run.seed)
    return Plan(
        described, (TensorSource(weights, {name: same(name) for name in shapes}, lambda _: False), codec.source)
    )


def _sizes(config: TrainingConfig) -> tuple[LanguageModelConfig, str | None]:
    """Sizes of the new language model, which always has a separator, and the text encoder that goes with them."""
    if config.model.lm is not None:
        lm, text_encoder = config.model.lm, DEFAULT_TEXT_ENCODER
    else:
        path = Path(config.model.base).expanduser()
        other = read_own_config(path.parent, read_config(path))
        lm, text_encoder = other.lm, other.text_encoder
    return replace(lm, separator=True), None if lm.text_dimension is None else text_encoder


def _stem(config: TrainingConfig) -> str | None:
    return None if config.data.stem == ANY_STEM else config.data.stem


def _lasting_name(text_encoder: str | None, directory: Path, base: str) -> str | None:
    """Name a text encoder so that it is found from the result's directory too.

    One that lies in the base's directory is named by its whole path; that of a base on the Hub by the Hub's id.
    """
    if text_encoder is None:
        return None
    inside = directory / text_encoder
    if not inside.is_dir():
        return text_encoder
    repository = hub_repository(base) if base and inside.resolve() == directory.resolve() else None
    return repository or str(inside.resolve())


def _codec_licence(directory: Path) -> str:
    """The licence of the model that lends its codec, as far as its files tell."""
    values = read_config(directory / CONFIG_FILE) if (directory / CONFIG_FILE).exists() else {}
    if values.get("model_type") in (MODEL_TYPE, CODEC_TYPE):
        return str(values.get("licence", "unknown"))
    return MUSICGEN_LICENCE if values.get("model_type") == "musicgen" else "unknown"
