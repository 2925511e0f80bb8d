"""Turn a published checkpoint (STAGE's, audiocraft's, transformers') into a model directory of ours.

Make a whole model of an adapter and its base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER, StageConfig
from stage_cli.core.weights.adapter_config import AdapterConfig, find_base, read_adapter_config
from stage_cli.core.weights.checkpoint import (
    CONFIG_FILE,
    MODEL_FILE,
    CodecPart,
    LanguageModelPart,
    codec_of_directory,
    find_codec_part,
    find_language_model,
    own_shapes,
    plain_config,
    plan_adapter,
    plan_directory,
)
from stage_cli.core.weights.formats import Plan
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.saving import save_directory, save_text
from stage_cli.core.weights.tensors import check_finite
from stage_cli.errors import UsageError, WeightsError

DEFAULT_CODEC = "facebook/encodec_32khz"
DEFAULT_TEXT_DIMENSION = 768  # T5-base's


def import_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    stem: str | None,
    base: str | None = None,
    overwrite: bool = False,
    offline: bool = False,
) -> StageConfig:
    """Write a checkpoint as a model directory, in the precision in which it is stored.

    Args:
        checkpoint: a file, or a directory of a MusicGen.
        output: directory to make.
        stem: what the model writes; None keeps what a model of ours says of itself (a published one says nothing).
        base: directory or Hub id of the MusicGen that it was trained from, or of a codec: it lends what the checkpoint
            does not hold. The published EnCodec if left out.
        overwrite: replace a model that is there already.
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
        if not overwrite:
            raise UsageError(
                f"{output} holds a model already", next_step="use `overwrite` to replace it, or give another `output`"
            )
        if output.resolve() in (checkpoint.resolve(), checkpoint.resolve().parent):
            raise UsageError(f"{output} is read and cannot be replaced", next_step="give another `output`")
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
            f"{name} holds no EnCodec", next_step="name the MusicGen that the checkpoint comes from: `base`"
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


CARD_FILE = "README.md"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def merge_adapter(
    source: Path,
    output: Path,
    *,
    precision: str = "float32",
    base: Path | None = None,
    overwrite: bool = False,
    offline: bool = False,
) -> StageConfig:
    """Write the model that an adapter makes of its base; it needs neither of them any more.

    Args:
        source: the adapter's directory.
        output: directory to make.
        precision: of the language model's weights in the file, a name of `PRECISIONS`; the rest is kept in fp32.
        base: directory of the base, where it is no longer where the adapter says.
        overwrite: replace a model that is there already.
        offline: use only files that are already on this machine.

    Returns:
        The new model's config.

    Raises:
        UsageError: the source is no adapter, the output is a model already, or an unknown precision.
        HubError: the base cannot be fetched.
        WeightsError: the adapter is damaged, its base is not there or another one, or the output cannot be written.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"`precision` {precision} is unknown", why=f"allowed: {', '.join(PRECISIONS)}")
    config = read_adapter_config(source)
    if config is None:
        raise UsageError(
            f"{source} is not an adapter",
            why="only what a training run with [lora] made can be merged",
            next_step="a whole model can be used as it is",
        )
    if base is not None:
        config = replace(config, base=str(base.resolve()), base_nearby=None)
    found = find_base(config, source, offline=offline)
    if output.resolve() in (source.resolve(), found.resolve()):
        raise UsageError(f"{output} is what is to be merged", next_step="name another directory")
    if any((output / file).exists() for file in (CONFIG_FILE, MODEL_FILE, CARD_FILE)) and not overwrite:
        raise UsageError(f"{output} holds a model already", next_step="name another directory, or give `overwrite`")
    plan = plan_adapter(source, config, offline=offline)
    shapes = own_shapes(plan.config)
    for part in plan.sources:
        part.check(shapes)
    save_directory(output, plan.config, _tensors(plan, PRECISIONS[precision]))
    card = source / CARD_FILE
    if card.is_file():
        save_text(output / CARD_FILE, _extended(card.read_text(encoding="utf-8"), config, precision))
    return plan.config


def _tensors(plan: Plan, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for source in plan.sources:
        for name, tensor in source.tensors():
            check_finite(name, tensor)
            yield name, tensor.to(dtype if name.startswith("lm.") else torch.float32)


def _extended(card: str, config: AdapterConfig, precision: str) -> str:
    """Say under an adapter's card's first words that this is the merged model; to the Hub it is an adapter no more."""
    base = f"a local {Path(config.base).name}" if Path(config.base).is_absolute() else config.base
    relation = "base_model_relation: "
    card = card.replace(f"{relation}adapter\n", f"{relation}finetune\n", 1).rstrip() + "\n"
    notice = (
        f"**Merged.** This is the whole model: the adapter of rank {config.rank} that this card describes is merged "
        f"into its base, {base}, and needs it no more. The language model's weights are stored as {precision}.\n"
    )
    head, section, rest = card.partition("\n## ")
    return f"{head}\n{notice}{section}{rest}"
