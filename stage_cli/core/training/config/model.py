"""The `[model]` table of a run's TOML file: what the training starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.training.config.checks import (
    check,
    check_choice,
    check_number,
    check_switch,
    check_text,
    contradiction,
)
from stage_cli.errors import UsageError

EMBEDDINGS: tuple[str, ...] = ("random", "codec")
_LONGEST_WINDOW = 600.0  # seconds


@dataclass(frozen=True)
class ModelConfig:
    """The model that a training starts from: one with weights (`base`), or sizes alone (`lm`, or a `config.json`).

    Attributes:
        base: Hub id, name in the model list or directory of a model to go on from; or a model's `config.json`, to start
            from scratch with its sizes.
        codec: from scratch only: Hub id, name or directory of the model or codec whose codec is taken.
        lm: sizes to start from scratch with, instead of `base`; the `[model.lm]` table.
        embeddings: from scratch only: "random", or "codec", half of which is a projection of the codec's codebooks.
        text_encoder: Hub id or directory of the T5 encoder; "" is the base's, and from scratch the usual one where
            `lm.text_dimension` is set.
        window_seconds: longest context, and longest target, that the model is for; None is `data.chunk_seconds`.
        checkpointing: keep no activations inside the layers and compute them again for the gradient: less memory, more
            time.
        licence: of the result; "" is the base's.
        absent: there is no such table, for a codec is trained (`[codec]`).
    """

    base: str = ""
    codec: str = ""
    lm: LanguageModelConfig | None = None
    embeddings: str = "random"
    text_encoder: str = ""
    window_seconds: float | None = None
    checkpointing: bool = False
    licence: str = ""
    absent: bool = False

    def __post_init__(self) -> None:
        for key in ("base", "codec", "text_encoder", "licence"):
            check_text(f"model.{key}", getattr(self, key))
        check_choice("model.embeddings", self.embeddings, EMBEDDINGS)
        check("model.lm", self.lm, self.lm is None or isinstance(self.lm, LanguageModelConfig), "a table of sizes")
        if self.window_seconds is not None:
            check_number("model.window_seconds", self.window_seconds, 0, _LONGEST_WINDOW, above=True)
        check_switch("model.checkpointing", self.checkpointing)
        if not self.absent:
            self._check_start()
            self._check_text_encoder()

    @property
    def from_scratch(self) -> bool:
        """Whether all weights of the language model start at random."""
        return self.lm is not None or (Path(self.base).name == "config.json" and not Path(self.base).is_dir())

    def _check_start(self) -> None:
        if self.base and self.lm is not None:
            raise contradiction(
                f'model.base = "{self.base}"',
                "the table [model.lm]",
                why="a base has its sizes already",
                next_step="leave one of them out: [model.lm] trains from scratch",
            )
        if not self.base and self.lm is None:
            raise UsageError(
                "neither model.base nor the table [model.lm] is there",
                why="the training needs a model to start from, or the sizes of a new one",
                next_step='give model.base = "facebook/musicgen-small", or the sizes in [model.lm]',
            )
        if self.from_scratch and not self.codec:
            raise UsageError(
                "model.codec is missing",
                why="a model from scratch needs a trained codec",
                next_step='name a model or a codec: model.codec = "facebook/encodec_32khz"',
            )
        if self.codec and not self.from_scratch:
            raise contradiction(
                f'model.codec = "{self.codec}"',
                f'model.base = "{self.base}"',
                why="a base was trained with its own codec",
                next_step="leave model.codec out",
            )
        if self.embeddings != "random" and not self.from_scratch:
            raise contradiction(
                f'model.embeddings = "{self.embeddings}"',
                f'model.base = "{self.base}"',
                why="a base has its embeddings already",
                next_step="leave model.embeddings out",
            )
        if self.lm is not None and not self.lm.separator:
            raise UsageError(
                "model.lm.separator cannot be false",
                why="the separator parts the context from the target",
                next_step="allowed: true",
            )

    def _check_text_encoder(self) -> None:
        if self.text_encoder and self.lm is not None and self.lm.text_dimension is None:
            raise contradiction(
                f'model.text_encoder = "{self.text_encoder}"',
                "model.lm.text_dimension = 0",
                why="a model without text takes no descriptions",
                next_step="set model.lm.text_dimension to the encoder's width (768 for t5-base), or leave both out",
            )
