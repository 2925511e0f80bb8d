"""Validation of a codec: its losses on songs that it never learns from, and reconstructions to be heard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stage_cli.core.accompaniment.track import gain_for, write_scaled
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.data.collate import collate
from stage_cli.core.training.codec.task import CodecTask
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.record.demo_files import demo_folder
from stage_cli.core.training.validation.items import ValidationItems
from stage_cli.core.training.validation.losses import evaluating
from stage_cli.core.training.validation.validator import ValidationResult


class CodecValidator:
    """Validate a codec, again and again on the same items.

    Args:
        config: the run's.
        task: what is trained; placed on its device.
        device: where its module is.

    Raises:
        UsageError: no song can be used.
    """

    def __init__(self, config: TrainingConfig, task: CodecTask, device: torch.device) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.items = ValidationItems(config, task.validation_songs, task.codec.config.sample_rate)

    @torch.no_grad()
    def __call__(self, step: int, check: Callable[[], None] = lambda: None) -> ValidationResult:
        """Return "validation/loss", "validation/mel", "validation/spectrum", "validation/phase", and demos.

        Args:
            step: of the weights.
            check: called before each item; what it raises ends the validation.

        Raises:
            StageError: a song cannot be read, or a demo cannot be written.
        """
        sums: dict[str, float] = {}
        demos: list[Path] = []
        seconds = 0.0
        with evaluating(self.task.module):
            for position in range(len(self.items)):
                check()
                batch = collate([self.items.item(position)]).to(self.device)
                inputs = self.task.inputs(batch, 0, gains=False)
                length = inputs.audio.shape[0] * inputs.audio.shape[2]
                seconds += length
                for name, value in self.task.module(inputs).items():
                    if value.ndim == 0:
                        sums[name] = sums.get(name, 0.0) + length * float(value)
                if position < self.config.validate.demos:
                    demos += self._write_demo(step, position + 1, batch.target[:1])
        metrics = {f"validation/{name}": value / seconds for name, value in sums.items()}
        return ValidationResult(metrics, tuple(demos))

    def _write_demo(self, step: int, number: int, audio: torch.Tensor) -> list[Path]:
        """Write the audio `[1, samples]` and what the codec makes of it."""
        made = self.task.codec.decode(self.task.codec.encode(audio[:, None]))[0, 0, : audio.shape[1]]
        folder = demo_folder(self.config.directory, step)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for part, sound in (("original", audio[0]), ("reconstruction", made)):
            paths.append(folder / f"{number:02}.{part}.flac")
            _write(paths[-1], sound.float().cpu().numpy(), self.task.codec.config.sample_rate)
        return paths


def _write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    with AtomicAudioWriter(path, sample_rate, 1, "flac", overwrite=True, frames=len(samples)) as writer:
        write_scaled([samples], writer, gain_for(float(np.abs(samples).max(initial=0.0))))
