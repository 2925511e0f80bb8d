"""Runs on a tiny codec and language model, with prepared songs of pure tones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prepared_songs import tone, write_song

from stage_cli.core.data.config import DataConfig
from stage_cli.core.training.settings import (
    DataLoading,
    LogConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)


def write_songs(root: Path) -> Path:
    """Write four songs of five seconds, each with tones of its own; return their folder."""
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        tones = {"drums": 450, "bass": 200, "piano": 900}
        stems = {stem: tone(frequency + 37 * number, 5.0) for stem, frequency in tones.items()}
        write_song(root / name, stems, bpm=220 + 10 * number)
    return root


def run_config(songs: Path, base: Path, directory: Path, **tables: Any) -> TrainingConfig:
    """Six steps of four items of a second; `train={"steps": 3}` changes a table."""
    train = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2}
    data = {"chunk_seconds": 1.0, "context_seconds": (0.6, 1.0), "validation_songs": 1}
    return TrainingConfig(
        name="tiny",
        run=RunConfig(**{"directory": str(directory), "device": "cpu"} | tables.get("run", {})),
        model=ModelConfig(base=str(base)),
        data=DataConfig(root=(str(songs),), **data | tables.get("data", {})),
        loading=DataLoading(**{"workers": 0} | tables.get("loading", {})),
        train=TrainConfig(**train | tables.get("train", {})),
        lora=tables.get("lora"),
        validate=ValidateConfig(**{"every": 3, "items_per_song": 2, "demos": 1} | tables.get("validate", {})),
        log=LogConfig(every=2, tensorboard=False),
    )
