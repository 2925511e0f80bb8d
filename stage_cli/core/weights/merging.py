"""Make a whole model of an adapter and its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.adapter_config import AdapterConfig, find_base, read_adapter_config
from stage_cli.core.weights.checkpoint import CONFIG_FILE, MODEL_FILE, own_shapes, plan_adapter
from stage_cli.core.weights.plan import Plan
from stage_cli.core.weights.saving import save_directory, save_text
from stage_cli.core.weights.tensors import check_finite
from stage_cli.errors import UsageError

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
        raise UsageError(f"--precision {precision} is unknown", why=f"allowed: {', '.join(PRECISIONS)}")
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
        raise UsageError(f"{output} holds a model already", next_step="name another directory, or give --overwrite")
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
