"""Adapters of random numbers for tiny models, and the closed form of what they make of their base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.adapter_config import AdapterConfig, name_base
from stage_cli.core.weights.adapters import identifying, sample
from stage_cli.core.weights.checkpoint import own_shapes
from stage_cli.core.weights.saving import save_adapter_directory

ATTENTION = ("attention_qkv", "attention_out")
ALL = (*ATTENTION, "text_q", "text_kv", "text_out", "feed_forward_in", "feed_forward_out")
RANK, ALPHA = 3, 7.5


def base_state(base: Path | str) -> tuple[StageConfig, dict[str, Tensor]]:
    """A model's config and its weights in fp32."""
    model = StageModel.from_pretrained(str(base), device="cpu", precision="float32")
    return model.config, dict(model.state_dict())


def result_config(config: StageConfig, base: str) -> StageConfig:
    """The config of what is trained from a base: with a separator, for drums."""
    lm = dataclasses.replace(config.lm, separator=True)
    return dataclasses.replace(config, lm=lm, stem="drums", window_seconds=1.0, base=base)


def random_tensors(config: StageConfig, targets: tuple[str, ...] = ATTENTION, seed: int = 0) -> dict[str, Tensor]:
    """Factors as large as the weights, and separators, by the names of an adapter's file."""
    generator = torch.Generator().manual_seed(seed)
    shapes = own_shapes(config)
    tensors = {}
    for layer in range(config.lm.layers):
        for target in targets:
            out_width, in_width = shapes[f"lm.layers.{layer}.{target}.weight"]
            name = f"lm.layers.{layer}.{target}.lora"
            tensors[f"{name}_a"] = torch.randn(RANK, in_width, generator=generator) / in_width**0.5
            tensors[f"{name}_b"] = torch.randn(out_width, RANK, generator=generator) / RANK**0.5
    tensors["lm.embeddings.separator"] = torch.randn(config.lm.codebooks, config.lm.dimension, generator=generator)
    return tensors


def save_random_adapter(
    directory: Path,
    base: Path | str,
    *,
    named: str | None = None,
    targets: tuple[str, ...] = ATTENTION,
    seed: int = 0,
    more: dict[str, Tensor] | None = None,
) -> AdapterConfig:
    """Write an adapter for a base; `named` is what its user called the base."""
    called = named or str(base)
    config, state = base_state(base)
    result = result_config(config, called)
    tensors = random_tensors(result, targets, seed) | (more or {})
    tensors |= {f"base.{name}": sample(state[name]) for name in identifying(config.lm)}
    place, nearby = name_base(called, directory)
    adapter = AdapterConfig(result, place, nearby, RANK, ALPHA, targets)
    save_adapter_directory(directory, adapter, tensors.items())
    return adapter


def expected_state(base: Path | str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter makes of its base, in float64 where anything is computed."""
    config, state = base_state(base)
    for name, tensor in list(state.items()):
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_a" in tensors:
            product = tensors[f"{stem}.lora_b"].double() @ tensors[f"{stem}.lora_a"].double()
            state[name] = (tensor.double() + ALPHA / RANK * product).float()
        elif name in tensors:
            state[name] = tensors[name]
    table, separator = state["lm.embeddings"], tensors["lm.embeddings.separator"][:, None]
    if config.lm.separator:
        state["lm.embeddings"] = torch.cat([table[:, :-1], separator], dim=1)
    else:
        state["lm.embeddings"] = torch.cat([table[:, :-1], torch.zeros_like(separator), separator], dim=1)
    return state
