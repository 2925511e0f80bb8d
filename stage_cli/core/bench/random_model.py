"""Models of real sizes with random weights: they cost what trained ones cost, and nothing has to be fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.checkpoint import own_shapes
from stage_cli.core.weights.saving import save_directory
from stage_cli.core.weights.tensors import Shape

_STEM = "drums"


def random_config(lm: LanguageModelConfig) -> StageConfig:
    """Return the config of a model for drums, with the published EnCodec's sizes."""
    return StageConfig(lm=lm, stem=_STEM, licence="none: random numbers", base="random")


def write_random_model(
    directory: Path, config: StageConfig, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a model with random weights, which are spread as torch spreads those of new layers.

    Args:
        directory: made if it does not exist.
        config: the model's.
        seed: fixes the weights.
        dtype: in which the language model's are stored; bfloat16 takes half of float32's room, on the disk and, while
            they are made, in memory.

    Raises:
        WeightsError: it cannot be written, for example because the disk is full.
    """
    save_directory(directory, config, _tensors(config, seed, dtype))


def _tensors(config: StageConfig, seed: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in own_shapes(config).items():
        tensor = _random(name, shape, generator)
        yield name, tensor.to(dtype) if name.startswith("lm.") else tensor


def _random(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("norm.bias"):
        return torch.zeros(shape)
    if name.endswith("codebooks"):
        return torch.randn(shape, generator=generator)
    inputs = shape[0] if len(shape) == 1 else torch.Size(shape[1:]).numel()
    # Embeddings as wide as kaiming_normal_ makes them, all others as a new nn.Linear or nn.Conv1d.
    bound = (6 / inputs) ** 0.5 if name.endswith("embeddings") else inputs**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
