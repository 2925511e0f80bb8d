"""LoRA by PEFT: small matrices beside the frozen linears of a language model, and the adapter that they make.

https://arxiv.org/abs/2106.09685. PEFT puts them into the model in place, so that it is trained, generates and is
validated as any other; what is written has our names, and is applied without PEFT (core/weights/adapters.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layer import TransformerLayer
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.training.settings import LoraConfig
from stage_cli.core.weights.adapter_config import AdapterConfig, name_base
from stage_cli.core.weights.adapters import (
    BASE_PREFIX,
    EMBEDDINGS,
    SEPARATOR,
    TEXT_PROJECTION,
    identifying,
    lora_names,
    sample,
)
from stage_cli.core.weights.checkpoint import plan_directory
from stage_cli.core.weights.saving import save_adapter_directory
from stage_cli.errors import UsageError

# PEFT's names: a linear becomes a module that holds it as `base_layer`, beside the factors of each adapter.
_ADAPTER = "default"
_FACTOR = re.compile(rf"lm\.layers\.(\d+)\.(\w+)\.lora_(A|B)\.{_ADAPTER}\.weight")

_SEPARATOR_CHANGE = "lm.separator_change"


class _SeparatorLearner(LanguageModel):
    """A language model with frozen tables that learns one row of each: the separator's.

    What is learned is added to that row. The tables themselves take no gradient, so that no other row can move, and no
    optimizer keeps numbers for them.

    Attributes:
        separator_change: `[K · D]`; flat, for parameters of one dimension do not decay.
    """

    separator_change: nn.Parameter

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed as `LanguageModel.embed_tokens` does, the separators with what is learned."""
        change = self.separator_change.view(self.config.codebooks, self.config.dimension)
        is_separator = (tokens == self.config.separator_token).transpose(1, 2)
        return super().embed_tokens(tokens) + is_separator.to(change.dtype) @ change


def add_lora(
    model: StageModel,
    lora: LoraConfig,
    *,
    seed: int,
    train_separator: bool | None = None,
    train_text_projection: bool = False,
) -> None:
    """Put trainable matrices beside the linears of `model.lm`, in place, and freeze all else.

    The model's outputs are what they were: B begins with zeros, A as PEFT begins it (Kaiming-uniform).

    Args:
        model: not quantized, and without LoRA.
        lora: rank, alpha, dropout and targets.
        seed: fixes the A.
        train_separator: train the separator's embeddings too. None does if they mean nothing yet: the base, in
            `model.directory`, is a plain MusicGen that has just grown.
        train_text_projection: train the projection of the text too.

    Raises:
        UsageError: none of the targets is in the model.
        WeightsError: the base's files cannot be read.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    if model.lm.quantized:
        raise ValueError("a quantized model cannot be trained")
    if is_lora(model):
        raise ValueError("the model has LoRA already")
    options: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    peft = PeftConfig(target_modules=list(_targets(lora, model.config.lm)), bias="none", **options)
    model.requires_grad_(False)
    device = model.lm.embeddings.device
    # PEFT draws from the global generator; ours is put back, and what it drew is replaced.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        inject_adapter_in_model(peft, model.lm, _ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if (match := _FACTOR.fullmatch(name)) and match[3] == "A":
            drawn = nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=math.sqrt(5), generator=generator)
            parameter.data.copy_(drawn)
    for layer in model.lm.layers:
        cast("TransformerLayer", layer).has_dropout = lora.dropout > 0
    if train_separator or (train_separator is None and _has_grown(model)):
        _learn_separator(model.lm)
    if train_text_projection and model.text_projection is not None:
        model.text_projection.requires_grad_(True)


def is_lora(model: StageModel) -> bool:
    """Tell whether `add_lora` has run on a model."""
    return any(_FACTOR.fullmatch(name) for name, _ in model.named_parameters())


def adapter_tensors(model: StageModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Collect what LoRA trained, by the names of an adapter's file.

    Args:
        model: after `add_lora`.
        state: weights by the names of `model.state_dict()`, instead of those that the model holds; it may leave out
            what is frozen.

    Returns:
        `lm.layers.3.attention_qkv.lora_a` `[rank, in]` and `….lora_b` `[out, rank]`; `lm.embeddings.separator`
        `[K, D]`, the whole row; the text projection's, where it was trained.
    """
    held = _held(model, state)
    tensors = {}
    for name, tensor in held.items():
        if match := _FACTOR.fullmatch(name):
            a, b = lora_names(int(match[1]), match[2])
            tensors[a if match[3] == "A" else b] = tensor
    lm = model.config.lm
    if lm.separator:
        separator = held[EMBEDDINGS][:, lm.separator_token]
        if (change := held.get(_SEPARATOR_CHANGE)) is not None:
            separator = separator + change.view(separator.shape).to(separator.device)
        tensors[SEPARATOR] = separator
    if model.text_projection is not None and model.text_projection.weight.requires_grad:
        tensors |= {name: held[name] for name in TEXT_PROJECTION}
    return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}


def save_adapter(
    directory: Path | str,
    model: StageModel,
    lora: LoraConfig,
    base: str,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `adapter.safetensors` and `config.json`, each whole or not at all.

    Args:
        directory: made if it does not exist.
        model: after `add_lora`; its config is that of the result.
        lora: what `add_lora` was given.
        base: what the model was loaded from, as the user named it.
        state: see `adapter_tensors`.

    Raises:
        WeightsError: the directory cannot be written.
    """
    place = Path(directory)
    held = _held(model, state)
    tensors = adapter_tensors(model, state)
    for name in identifying(model.config.lm):
        frozen = held.get(name.replace(".weight", ".base_layer.weight"), held.get(name))
        if frozen is None:
            raise ValueError(f"the model has no {name}")
        tensors[BASE_PREFIX + name] = sample(frozen)
    named, nearby = name_base(base, place)
    config = AdapterConfig(model.config, named, nearby, lora.rank, lora.alpha, _targets(lora, model.config.lm))
    save_adapter_directory(place, config, tensors.items())


def _targets(lora: LoraConfig, lm: LanguageModelConfig) -> tuple[str, ...]:
    """Those of the targets that the model has."""
    found = tuple(name for name in lora.targets if lm.text_dimension is not None or not name.startswith("text_"))
    if not found:
        raise UsageError(
            f"lora.targets = {list(lora.targets)}: the model has none of them",
            why="it takes no text",
            next_step="name others, such as attention_qkv",
        )
    return found


def _has_grown(model: StageModel) -> bool:
    """Tell whether the model has a separator that its base has not."""
    if model.directory is None or not model.config.lm.separator:
        return False
    return not plan_directory(model.directory, offline=model.offline).config.lm.separator


def _learn_separator(lm: LanguageModel) -> None:
    if not lm.config.separator:
        raise ValueError("the model has no separator")
    table = lm.embeddings
    lm.separator_change = nn.Parameter(table.new_zeros(table.shape[0] * table.shape[2]))
    # The class is what says how tokens are embedded, and everybody holds this very object.
    lm.__class__ = _SeparatorLearner


def _held(model: StageModel, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """All weights; the engine's compiled layers have names of their own."""
    held = {**model.state_dict(), **(state or {})}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in held.items()}
