"""How each tensor of ours is made from the tensors of a published checkpoint.

A recipe runs on tensors when a model is loaded and on shapes alone when a file is checked, so that what does not fit is
listed before a byte of data is read. (Not on meta tensors: for those torch imports its compiler, which takes seconds.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.codec.seanet import fold
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
