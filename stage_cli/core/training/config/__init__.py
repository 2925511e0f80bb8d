"""What a run is made of: the tables of its TOML file. Imports no torch."""

from stage_cli.core.training.config.codec import CodecTrainConfig
from stage_cli.core.training.config.model import ModelConfig
from stage_cli.core.training.config.reading import load_config, recipes
from stage_cli.core.training.config.sections import (
    LORA_TARGETS,
    DataLoading,
    LogConfig,
    LoraConfig,
    RunConfig,
    ValidateConfig,
)
from stage_cli.core.training.config.train import TrainConfig
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.config.writing import to_dict, to_toml

__all__ = [
    "LORA_TARGETS",
    "CodecTrainConfig",
    "DataLoading",
    "LogConfig",
    "LoraConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "TrainingConfig",
    "ValidateConfig",
    "load_config",
    "recipes",
    "to_dict",
    "to_toml",
]
