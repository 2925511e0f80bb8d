"""The language model's numbers. Imports no torch, so that the command line can read the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from stage_cli.errors import WeightsError

POSITIONS: tuple[str, ...] = ("absolute", "restart")
CONTEXT_ATTENTIONS: tuple[str, ...] = ("causal", "full")
MOST_CONVOLUTIONS = 12


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes and layout of one MusicGen language model; the defaults are MusicGen-small's as STAGE uses it.

    Attributes:
        codebooks: K, parallel token streams.
        codebook_size: tokens a codebook; also the id of the pad token.
        dimension: D, model width.
        layers: transformer layers.
        heads: attention heads; `dimension` is a multiple of it.
        feed_forward: width of the feed-forward layer.
        text_dimension: width of the text encoder's vectors, or None for a model without cross-attention.
        separator: True for STAGE (a separator column between context and target, pads masked), False for plain
            MusicGen (the context is simply what came before).
        positions: "absolute", as published, or "restart": they begin again at the separator, so that a frame of the
            target and the frame of the context that sounds with it have one position. Not for imported weights.
        context_attention: "causal", as published, or "full": the context's steps attend to each other in both
            directions. Not for imported weights.
        aligned_context: each step of the target also gets, through a linear, what the layers make of the context
            that sounds with the frame that it predicts. Not for imported weights.
        context_convolutions: how many convolutions run over the context's embeddings before the layers, each with twice
            the dilation of the one before; only with `context_attention = "full"`. Not for imported weights.
    """

    codebooks: int = 4
    codebook_size: int = 2048
    dimension: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    text_dimension: int | None = 768
    separator: bool = True
    positions: str = "absolute"
    context_attention: str = "causal"
    aligned_context: bool = False
    context_convolutions: int = 0

    def __post_init__(self) -> None:
        for name in ("codebooks", "codebook_size", "dimension", "layers", "heads", "feed_forward"):
            value = getattr(self, name)
            if not _is_positive(value):
                raise WeightsError(f"lm.{name} = {value!r} in the model's config", why="it must be a whole number ≥ 1")
        if self.text_dimension is not None and not _is_positive(self.text_dimension):
            raise WeightsError(
                f"lm.text_dimension = {self.text_dimension!r} in the model's config",
                why="it must be a whole number ≥ 1, or null for a model without text",
            )
        if not isinstance(self.separator, bool):
            raise WeightsError(
                f"lm.separator = {self.separator!r} in the model's config", why="it must be true or false"
            )
        if self.positions not in POSITIONS or (self.restarts and not self.separator):
            raise WeightsError(
                f"lm.positions = {self.positions!r} in the model's config",
                why='it must be "absolute", or "restart" for a model with a separator',
            )
        both_ways = self.context_attention == "full"
        if self.context_attention not in CONTEXT_ATTENTIONS or (both_ways and not self.separator):
            raise WeightsError(
                f"lm.context_attention = {self.context_attention!r} in the model's config",
                why='it must be "causal", or "full" for a model with a separator',
            )
        if not isinstance(self.aligned_context, bool) or (self.aligned_context and not self.separator):
            raise WeightsError(
                f"lm.aligned_context = {self.aligned_context!r} in the model's config",
                why="it must be true or false, and false for a model without a separator",
            )
        count = self.context_convolutions
        allowed = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_CONVOLUTIONS
        if not allowed or (count and not both_ways):
            raise WeightsError(
                f"lm.context_convolutions = {count!r} in the model's config",
                why=f'it must be a whole number up to {MOST_CONVOLUTIONS}, and 0 unless lm.context_attention is "full"',
            )
        if self.dimension % self.heads or self.dimension % 2:
            raise WeightsError(
                f"lm.dimension = {self.dimension} with lm.heads = {self.heads} in the model's config",
                why="the dimension must be even and a multiple of the heads",
            )

    @property
    def restarts(self) -> bool:
        """Whether positions begin again at the separator."""
        return self.positions == "restart"

    @property
    def reads_context_first(self) -> bool:
        """Whether the layers must have run over the context before the first step behind it."""
        return self.aligned_context or self.context_attention == "full"

    @property
    def pad(self) -> int:
        """Id of MusicGen's special token."""
        return self.codebook_size

    @property
    def separator_token(self) -> int:
        """Id of the token between context and target."""
        return self.codebook_size + 1

    @property
    def vocabulary(self) -> int:
        """Rows of each embedding table: the codes, the pad, and the separator where there is one."""
        return self.codebook_size + 1 + int(self.separator)

    @property
    def head_dimension(self) -> int:
        """Width of one attention head."""
        return self.dimension // self.heads

    @property
    def parameters(self) -> int:
        """Weights of all matrices and embeddings (norms left out)."""
        D = self.dimension
        layer = 4 * D * D * (1 if self.text_dimension is None else 2) + 2 * D * self.feed_forward
        aligned = 2 * self.codebooks * D * D if self.aligned_context else 0
        convolutions = self.context_convolutions * 2 * D * D
        return (
            self.layers * layer + aligned + convolutions + self.codebooks * D * (self.vocabulary + self.codebook_size)
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LanguageModelConfig:
        """Read what `to_dict` wrote.

        Raises:
            WeightsError: an unknown key, or a value that is not allowed.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise WeightsError(
                f"Unknown key lm.{unknown[0]} in the model's config",
                why="it was written by a newer version of stage-cli, or by hand",
                next_step="update stage-cli",
            )
        return cls(**values)


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
