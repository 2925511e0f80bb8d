"""A plan: which config, which tensor of ours from which file. Nothing is read but names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.recipes import Recipe, check
from stage_cli.core.weights.tensors import Shape, TensorFile


@dataclass(frozen=True)
class TensorSource:
    """One checkpoint file and what is taken from it.

    Attributes:
        file: the tensors.
        recipes: ours from theirs.
        ignorable: tensors that are known and not needed.
    """

    file: TensorFile
    recipes: dict[str, Recipe]
    ignorable: Callable[[str], bool]

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Compare with the shapes that the model needs; raises WeightsError with a list of what does not fit."""
        check({name: expected[name] for name in self.recipes}, self.recipes, self.file, self.ignorable)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Build our tensors one by one; each is mapped or newly made, so take it before asking for the next."""
        for name in self.recipes:
            yield name, self.build(name)

    def build(self, name: str) -> Tensor:
        """Build one tensor of ours; it is mapped or newly made."""
        recipe = self.recipes[name]
        return recipe.build(*(self.file.read(source) for source in recipe.sources))


@dataclass(frozen=True)
class Plan:
    """A model that can be built.

    Attributes:
        config: the model's.
        sources: where each of its tensors comes from.
        rounded: whether the matrices of all its language model's linears are stored as int8: rounding them to it
            changes nothing.
    """

    config: StageConfig
    sources: tuple[TensorSource, ...]
    rounded: bool = False
