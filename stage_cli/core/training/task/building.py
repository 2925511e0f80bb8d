"""The model that a run starts with: a base's, a grown MusicGen's, or one from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stage_cli.core.data.config import ANY_STEM
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER, MODEL_TYPE, StageConfig, read_config
from stage_cli.core.precision import Runtime
from stage_cli.core.training.config import TrainingConfig
from stage_cli.core.training.lora import add_lora
from stage_cli.core.training.task.embeddings import embeddings_of_codec
from stage_cli.core.training.task.growth import grow_plan
from stage_cli.core.training.task.initial import InitialWeights
from stage_cli.core.weights.checkpoint import CONFIG_FILE, codec_of_directory, own_shapes, plan_directory
from stage_cli.core.weights.codec_config import CODEC_TYPE
from stage_cli.core.weights.hub import hub_repository, resolve
from stage_cli.core.weights.own_config import read_own_config
from stage_cli.core.weights.plan import Plan, TensorSource
from stage_cli.core.weights.recipes import same
from stage_cli.errors import WeightsError

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
    return Plan(described, (TensorSource(weights, {name: same(name) for name in shapes}, lambda _: False), codec.source))


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
