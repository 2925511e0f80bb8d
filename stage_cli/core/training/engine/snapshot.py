"""Everything that changes while a run goes, to and from a checkpoint's folder.

One form for one process, for several and for sharded weights: tensors whole and by name. So a run may be resumed on
another number of processes. Accelerate's own checkpoints hold pickles, and a file for each process.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli import __version__
from stage_cli.core.audio.files import display_name
from stage_cli.core.training.engine.average import WeightAverage
from stage_cli.core.training.engine.checkpoints import Checkpoints
from stage_cli.core.training.engine.gradients import whole
from stage_cli.core.training.engine.optimizers import Optimizers
from stage_cli.core.training.engine.processes import Processes
from stage_cli.core.training.engine.progress import Progress
from stage_cli.core.training.engine.tensor_file import place_like, read_tensors, write_tensors
from stage_cli.errors import StageError, UsageError

MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE = "model.safetensors", "optimizer.safetensors", "average.safetensors"


@dataclass
class Snapshot:
    """What is saved and restored.

    Attributes:
        module: as the task made it; trainable parameters and buffers are saved, the others are as they were built.
        optimizers: their moments.
        average: of the weights, or None.
        processes: that train together; all of them must save and restore.
        identity: what a run must not change when it is resumed, by the names of its settings.
    """

    module: nn.Module
    optimizers: Optimizers
    average: WeightAverage | None
    processes: Processes
    identity: Mapping[str, Any]

    def weights(self) -> list[tuple[str, Tensor]]:
        """Trainable parameters and persistent buffers by name; they share memory with the module."""
        kept = self.optimizers.parameters.keys() | {name for name, _ in self.module.named_buffers()}
        return [(name, tensor) for name, tensor in self.module.state_dict().items() if name in kept]

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether all trained weights are numbers."""
        norm = nn.utils.get_total_norm([parameter.detach() for parameter in self.optimizers.parameters.values()])
        return bool(torch.isfinite(whole(norm)))

    def save(self, checkpoints: Checkpoints, progress: Progress) -> None:
        """Write a checkpoint.

        Raises:
            StageError: it cannot be written; earlier ones are as they were.
        """
        if self.processes.scaler is not None:
            progress.scaler = self.processes.scaler.state_dict()
        writing: AbstractContextManager[tuple[Path | None, dict[str, Any]]] = nullcontext((None, {}))
        if self.processes.is_main:
            writing = checkpoints.writing(progress.step)
        with writing as (folder, content):
            write_tensors(folder and folder / MODEL_FILE, self.weights())
            write_tensors(folder and folder / OPTIMIZER_FILE, list(self.optimizers.state()))
            if self.average is not None:
                write_tensors(folder and folder / AVERAGE_FILE, list(self.average.weights.items()))
            content["progress"] = progress.to_dict()
            content["run"] = dict(self.identity)
            content["processes"] = self.processes.count
            content["made_with"] = {
                "stage-cli": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            }

    @torch.no_grad()
    def load(self, checkpoints: Checkpoints, step: int) -> Progress:
        """Go on from a checkpoint.

        Raises:
            UsageError: it is of a run with other settings.
            StageError: it is of another model, or cannot be read.
        """
        folder = checkpoints.folder(step)
        try:
            content = checkpoints.read(step)
            self._check(folder, content["run"])
            self._load(folder / MODEL_FILE, dict(self.weights()))
            parameters = self.optimizers.parameters
            moments = {}
            for name, value in read_tensors(folder / OPTIMIZER_FILE):
                parameter = parameters.get(name.partition("/")[2].rpartition("/")[0])
                if parameter is not None:
                    moments[name] = place_like(value, parameter)
            self.optimizers.load_state(moments)
            if self.average is not None:
                self._load(folder / AVERAGE_FILE, self.average.weights)
            progress = Progress.from_dict(content["progress"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"cannot resume from {display_name(folder)}",
                why=getattr(error, "strerror", None) or str(error),
                next_step="delete that folder to go on from the checkpoint before it",
            ) from None
        if self.processes.scaler is not None and progress.scaler:
            self.processes.scaler.load_state_dict(progress.scaler)
        return progress

    def _load(self, path: Path, own: Mapping[str, Tensor]) -> None:
        found = set()
        for name, value in read_tensors(path):
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"{path.name} has {name} {list(value.shape)}, which this model has not")
            own[name].copy_(place_like(value, own[name]))
            found.add(name)
        if missing := sorted(own.keys() - found):
            raise ValueError(f"{path.name} has no {missing[0]}")

    def _check(self, folder: Path, before: Mapping[str, Any]) -> None:
        identity = json.loads(json.dumps(dict(self.identity)))  # a tuple is a list there
        for name in sorted(before.keys() | identity.keys()):
            was, now = before.get(name), identity.get(name)
            if was != now:
                raise UsageError(
                    f"cannot resume {display_name(folder.parent.parent)} with another {name}",
                    why=f"it began with {was!r}, now it is {now!r}",
                    next_step="set it back, or begin a new run in another run.directory (without --resume)",
                )
