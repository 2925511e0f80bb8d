"""Turn a published checkpoint (STAGE's, audiocraft's, transformers') into a model directory of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER, StageConfig
from stage_cli.core.weights.checkpoint import (
    CodecPart,
    LanguageModelPart,
    Plan,
    codec_of_directory,
    find_codec_part,
    find_language_model,
    own_shapes,
    plain_config,
    plan_directory,
)
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.saving import save_directory
from stage_cli.core.weights.tensors import check_finite
from stage_cli.errors import UsageError, WeightsError

DEFAULT_CODEC = "facebook/encodec_32khz"
DEFAULT_TEXT_DIMENSION = 768  # T5-base's


def import_checkpoint(
    checkpoint: Path, output: Path, *, stem: str | None, base: str | None = None, offline: bool = False
) -> StageConfig:
    """Write a checkpoint as a model directory, in the precision in which it is stored.

    Args:
        checkpoint: a file, or a directory of a MusicGen.
        output: directory to make.
        stem: what the model writes; None keeps what a model of ours says of itself (a published one says nothing).
        base: directory or Hub id of the MusicGen that it was trained from, or of a codec: it lends what the checkpoint
            does not hold. The published EnCodec if left out.
        offline: use only files that are already on this machine.

    Returns:
        The new model's config.

    Raises:
        UsageError: there is no such checkpoint, or the output is a model already.
        HubError: the base cannot be fetched.
        WeightsError: the checkpoint is of no known format, broken, or does not fit; the message lists the tensors.
    """
    if not checkpoint.exists():
        raise UsageError(f"There is no file {checkpoint}")
    if (output / "config.json").exists():
        raise UsageError(f"{output} holds a model already", next_step="give another --output, or delete it first")
    plan = _plan(checkpoint, base, offline=offline)
    config = StageConfig(
        codec=plan.config.codec,
        lm=plan.config.lm,
        stem=stem or plan.config.stem,
        text_encoder=_text_encoder(plan.config, checkpoint, base),
        window_seconds=plan.config.window_seconds,
        licence=plan.config.licence,
        base=plan.config.base,
    )
    shapes = own_shapes(config)
    for source in plan.sources:
        source.check(shapes)
    save_directory(output, config, _finite_tensors(plan))
    return config


def _plan(checkpoint: Path, base: str | None, *, offline: bool) -> Plan:
    if checkpoint.is_dir():
        return plan_directory(checkpoint, offline=offline)
    part = find_language_model(checkpoint)
    codec = _codec(part, checkpoint, base, offline=offline)
    return Plan(plain_config(part, codec, base=base or checkpoint.name), (part.source, codec.source))


def _codec(part: LanguageModelPart, checkpoint: Path, base: str | None, *, offline: bool) -> CodecPart:
    """Find the codec: the base's if one is named, else the checkpoint's own, one beside it, the published one."""
    if base is None:
        own = find_codec_part(part.source.file, part.form.codec_prefix) or codec_of_directory(
            checkpoint.parent, offline=offline
        )
        if own is not None:
            return own
    name = base or DEFAULT_CODEC
    found = codec_of_directory(resolve(name, offline=offline), offline=offline)
    if found is None:
        raise WeightsError(
            f"{name} holds no EnCodec", next_step="name the MusicGen that the checkpoint comes from: --base"
        )
    return found


def _text_encoder(config: StageConfig, checkpoint: Path, base: str | None) -> str | None:
    """Name the text encoder: a directory's own, the base's, or T5-base where the widths tell that it was that."""
    if config.lm.text_dimension is None:
        return None
    if checkpoint.is_dir() and config.text_encoder == ".":
        return str(checkpoint.resolve())
    if base is not None:
        return str(Path(base).resolve()) if Path(base).is_dir() else base
    return DEFAULT_TEXT_ENCODER if config.lm.text_dimension == DEFAULT_TEXT_DIMENSION else None


def _finite_tensors(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    for source in plan.sources:
        for name, tensor in source.tensors():
            check_finite(name, tensor)
            yield name, tensor
