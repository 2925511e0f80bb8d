"""A plain MusicGen becomes a STAGE model: a separator's row for each embedding table, and a pad of zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stage_cli.core.weights.plan import Plan, TensorSource
from stage_cli.core.weights.recipes import Recipe
from stage_cli.core.weights.tensors import Shape

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
