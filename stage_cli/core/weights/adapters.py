"""Adapters: what a LoRA run learned, applied to its base tensor by tensor while a model is loaded.

Beside the learned tensors the file holds a few hundred numbers of the base's matrices, so that another base of the same
shape is refused. They are compared, not hashed: a base that differs by rounding alone (a bfloat16 copy, an adapter that
another machine applied) is as good as the base itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.weights.adapter_config import (
    ADAPTER_FILE,
    AdapterConfig,
    find_base,
    read_adapter_config,
    text_encoder_of,
)
from stage_cli.core.weights.formats import Plan, Recipe, TensorSource, check, same
from stage_cli.core.weights.tensors import Shape, TensorFile, check_finite, open_checkpoint
from stage_cli.errors import WeightsError

EMBEDDINGS = "lm.embeddings"
SEPARATOR = "lm.embeddings.separator"
TEXT_PROJECTION = ("text_projection.weight", "text_projection.bias")

# Heads the names of the base's numbers in an adapter's file.
BASE_PREFIX = "base."

# Numbers of a matrix that tell one base from another.
SAMPLES = 256

# Rounding to bfloat16 changes a matrix by 0.2 %; a fine-tuning of a hundred steps already by more than this.
SAME_BASE = 0.005

_LAYER_LINEARS = (
    "attention_qkv", "attention_out", "text_q", "text_kv", "text_out", "feed_forward_in", "feed_forward_out",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter whose files were found.

    Attributes:
        directory: its own.
        config: what it says of itself.
        file: its tensors.
        base: directory of its base.
    """

    directory: Path
    config: AdapterConfig
    file: TensorFile
    base: Path

    def applied_to(self, plan: Plan, shapes: Mapping[str, Shape]) -> Plan:
        """Plan the model that the adapter makes of its base.

        Args:
            plan: the base's.
            shapes: names and shapes of the result's tensors.

        Raises:
            WeightsError: tensors of the adapter are missing, unknown, misshapen or not finite, or this is another base.
        """
        self._check_sizes(plan)
        expected = self._expected(shapes)
        check(expected, {name: same(name) for name in expected}, self.file, lambda _: False)
        self._check_base(plan)
        sources = tuple(
            TensorSource(
                source.file,
                {name: self._adapted(name, made) for name, made in source.recipes.items()},
                source.ignorable,
            )
            for source in plan.sources
        )
        config = replace(self.config.model, text_encoder=text_encoder_of(self.config, self.base))
        return Plan(config, sources)

    def _expected(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Names and shapes of the file's tensors."""
        lm, rank = self.config.model.lm, self.config.rank
        expected: dict[str, Shape] = {
            BASE_PREFIX + name: (min(SAMPLES, _count(shapes[name])),) for name in identifying(lm)
        }
        for layer in range(lm.layers):
            for target in self.config.targets:
                if (weight := shapes.get(f"lm.layers.{layer}.{target}.weight")) is None:
                    raise WeightsError(f"The adapter's config.json names a target that the model has not: {target}")
                a, b = lora_names(layer, target)
                expected |= {a: (rank, weight[1]), b: (weight[0], rank)}
        if lm.separator:
            expected[SEPARATOR] = (lm.codebooks, lm.dimension)
        if TEXT_PROJECTION[0] in self.file.shapes:
            expected |= {name: shapes[name] for name in TEXT_PROJECTION if name in shapes}
        return expected

    def _adapted(self, name: str, recipe: Recipe) -> Recipe:
        """Change the recipe of one of the base's tensors to that of the result's."""
        if name == EMBEDDINGS and SEPARATOR in self.file.shapes:
            return self._with_separator(recipe)
        if name in self.file.shapes:
            return Recipe(recipe.sources, lambda *_: self._read(name), lambda *_: self.file.shapes[name])
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_a" in self.file.shapes:
            return Recipe(recipe.sources, self._with_product(stem, recipe), recipe.shape)
        return recipe

    def _with_product(self, stem: str, recipe: Recipe) -> Callable[..., Tensor]:
        def build(*sources: Tensor) -> Tensor:
            # What is made of one source may be that very one, mapped from its file; of several, it is new.
            weight = recipe.build(*sources).to(torch.float32, copy=len(sources) == 1)
            a, b = (self._read(f"{stem}.lora_{part}").float() for part in "ab")
            # In place: the product takes no room of its own.
            return weight.addmm_(b, a, alpha=self.config.scale)

        return build

    def _with_separator(self, recipe: Recipe) -> Recipe:
        """Tables with the learned row; those of a plain MusicGen grow by it, and their pad's row becomes zero."""
        lm = self.config.model.lm

        def build(*sources: Tensor) -> Tensor:
            # Several sources are one table each: stacked first, they would lie in memory twice.
            tables = sources if len(sources) > 1 else recipe.build(*sources)
            whole = torch.zeros(lm.codebooks, lm.vocabulary, lm.dimension)
            for rows, table in zip(whole, tables, strict=True):
                kept = lm.separator_token if len(table) == lm.vocabulary else lm.pad
                rows[:kept].copy_(table[:kept])
            whole[:, lm.separator_token] = self._read(SEPARATOR)
            return whole

        def shape(*sources: Shape) -> Shape:
            codebooks, rows, width = recipe.shape(*sources)
            return codebooks, rows + int(rows == lm.vocabulary - 1), width

        return Recipe(recipe.sources, build, shape)

    def _read(self, name: str) -> Tensor:
        tensor = self.file.read(name)
        check_finite(name, tensor)
        return tensor

    def _check_sizes(self, plan: Plan) -> None:
        """Compare what the base is with what the adapter was trained on."""
        theirs, ours = plan.config, self.config.model
        grows = ours.lm.separator and not theirs.lm.separator
        lm = replace(theirs.lm, separator=True) if grows else theirs.lm
        if (lm, theirs.codec) != (ours.lm, ours.codec):
            codec = "" if theirs.codec == ours.codec else ", with another codec"
            raise self._other_base(f"it is {_sizes(theirs.lm)}{codec}; the adapter's is {_sizes(ours.lm)}")

    def _check_base(self, plan: Plan) -> None:
        """Compare a few numbers of the base's matrices."""
        for name in identifying(self.config.model.lm):
            source = next((source for source in plan.sources if name in source.recipes), None)
            if source is None:
                raise WeightsError(f"The base {self.base} has no {name}")
            expected = self._read(BASE_PREFIX + name).float()
            found = sample(source.build(name))
            if not (found - expected).norm() <= SAME_BASE * expected.norm():
                raise self._other_base(f"its {name} holds other numbers than the one it was trained on")

    def _other_base(self, why: str) -> WeightsError:
        return WeightsError(
            f"{self.base} is not the base of the adapter {self.directory}",
            why=why,
            next_step=f"the adapter names {self.config.base}; was that trained on, or replaced, since?",
        )


def open_adapters(directory: Path, config: AdapterConfig, *, offline: bool = False) -> list[Adapter]:
    """Open an adapter, and those that its base consists of, down to the one that stands on a whole model.

    Args:
        directory: the adapter's.
        config: the adapter's.
        offline: use only files that are already on this machine.

    Raises:
        WeightsError: a file or a base is missing or damaged, or the bases lead back to the adapter.
        HubError: a base cannot be fetched.
    """
    found: list[Adapter] = []
    below: AdapterConfig | None = config
    while below is not None:
        if any(directory.resolve() == adapter.directory.resolve() for adapter in found):
            raise WeightsError(f"The adapter {directory} is its own base")
        file = open_checkpoint(directory / ADAPTER_FILE)
        base = find_base(below, directory, offline=offline)
        found.append(Adapter(directory, below, file, base))
        directory, below = base, read_adapter_config(base)
    return found


def lora_names(layer: int, target: str) -> tuple[str, str]:
    """Name the two factors of one linear's product: A `[rank, in]` and B `[out, rank]`."""
    return f"lm.layers.{layer}.{target}.lora_a", f"lm.layers.{layer}.{target}.lora_b"


def identifying(lm: LanguageModelConfig) -> tuple[str, ...]:
    """Name the matrices that tell one base from another: the last layer's, which every kind of training moves."""
    linears = (name for name in _LAYER_LINEARS if lm.text_dimension is not None or not name.startswith("text"))
    return tuple(f"lm.layers.{lm.layers - 1}.{name}.weight" for name in linears)


def sample(matrix: Tensor) -> Tensor:
    """Take `SAMPLES` numbers from all over a matrix, or all of a small one, as fp32."""
    flat = matrix.detach().reshape(-1)
    # An odd step: an even one would stay in a few columns.
    step = max(1, flat.numel() // SAMPLES - 1) | 1
    return flat[::step][:SAMPLES].float().cpu()


def _count(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def _sizes(lm: LanguageModelConfig) -> str:
    kind = "a STAGE model" if lm.separator else "a plain MusicGen"
    text = "no text" if lm.text_dimension is None else f"text {lm.text_dimension} wide"
    return f"{kind} of {lm.layers} layers, {lm.dimension} and {lm.feed_forward} wide, {lm.heads} heads, {text}"
