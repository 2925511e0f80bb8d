"""One whole run, as a TOML file describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stage_cli.core.data.config import DataConfig
from stage_cli.core.training.config.checks import contradiction
from stage_cli.core.training.config.codec import CodecTrainConfig
from stage_cli.core.training.config.model import ModelConfig
from stage_cli.core.training.config.sections import DataLoading, LogConfig, LoraConfig, RunConfig, ValidateConfig
from stage_cli.core.training.config.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A run; each part is a table of its TOML file.

    Attributes:
        name: of the run; the TOML file's without its suffix. It decides nothing but the directory's default.
        run: device, precision, seed.
        model: what the training starts from.
        data: songs, and how items are drawn from them.
        loading: the other keys of `[data]`: how items reach the model.
        train: steps, optimizer, loss.
        lora: train an adapter instead of the whole model; None is the whole model.
        codec: train a codec, not a language model; None is a language model.
        validate: when, and on what.
        log: what is written meanwhile.

    Raises:
        UsageError: two parts contradict each other; the error names both keys.
    """

    data: DataConfig
    model: ModelConfig
    name: str = field(default="training", compare=False)
    run: RunConfig = field(default_factory=RunConfig)
    loading: DataLoading = field(default_factory=DataLoading)
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig | None = None
    codec: CodecTrainConfig | None = None
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.codec is not None:
            self._check_codec(self.codec)
        if self.loading.tokens == "cache" and self.data.augments:
            changes = "speed" if self.data.speed_probability else "pitch"
            raise contradiction(
                'data.tokens = "cache"',
                f"data.{changes}_probability = {getattr(self.data, f'{changes}_probability')}",
                why="tokens that are made once cannot change with each draw",
                next_step='set data.speed_probability and data.pitch_probability to 0, or data.tokens to "step"',
            )
        if self.lora is not None and self.model.from_scratch:
            start = "the table [model.lm]" if self.model.lm is not None else f'model.base = "{self.model.base}"'
            raise contradiction(
                "the table [lora]",
                start,
                why="an adapter changes a model that was trained before",
                next_step="leave [lora] out, or give model.base a model with weights",
            )
        if self.lora is not None and self.train.optimizer == "muon":
            raise contradiction(
                "the table [lora]",
                'train.optimizer = "muon"',
                why="Muon is for whole matrices, not for the two factors of an adapter's",
                next_step='set train.optimizer to "adamw"',
            )
        if self.validate.every > 0 and self.data.split == "none":
            raise contradiction(
                f"validate.every = {self.validate.every}",
                'data.split = "none"',
                why="there is no song to validate on",
                next_step='set validate.every to 0, or data.split to "last" or "fraction"',
            )
        window = self.model.window_seconds
        if window is not None and window < self.data.chunk_seconds:
            raise contradiction(
                f"model.window_seconds = {window:g}",
                f"data.chunk_seconds = {self.data.chunk_seconds:g}",
                why="the items would be longer than the model's window",
                next_step="make model.window_seconds at least data.chunk_seconds",
            )

    def _check_codec(self, codec: CodecTrainConfig) -> None:
        for present, other, why in (
            (not self.model.absent, "the table [model]", "a run trains a codec, or a language model on one"),
            (self.lora is not None, "the table [lora]", "an adapter is for a language model"),
            (self.loading.tokens == "cache", 'data.tokens = "cache"', "tokens are what the codec has yet to learn"),
        ):
            if present:
                raise contradiction("the table [codec]", other, why=why, next_step="leave one of them out")
        passes = self.train.steps * self.train.accumulation(1)
        if codec.unquantized_steps >= passes and not codec.base:
            raise contradiction(
                f"codec.unquantized_steps = {codec.unquantized_steps}",
                f"train.steps = {self.train.steps}",
                why="the codebooks would never be learned",
                next_step=f"set codec.unquantized_steps to less than {passes}",
            )
        if self.data.chunk_seconds < codec.crop_seconds:
            raise contradiction(
                f"codec.crop_seconds = {codec.crop_seconds:g}",
                f"data.chunk_seconds = {self.data.chunk_seconds:g}",
                why="crops are cut out of chunks",
                next_step="make data.chunk_seconds at least codec.crop_seconds",
            )

    @property
    def directory(self) -> Path:
        """Where the run writes everything."""
        return Path(self.run.directory or f"runs/{self.name}").expanduser()

    @property
    def window_seconds(self) -> float:
        """Longest context, and longest target, that the model is trained with."""
        return self.data.chunk_seconds if self.model.window_seconds is None else self.model.window_seconds
