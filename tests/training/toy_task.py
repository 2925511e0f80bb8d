"""A task small enough to train in milliseconds, for the tests of the engine: a line through noisy points."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stage_cli.core.data.config import DataConfig
from stage_cli.core.training.distributed import joined
from stage_cli.core.training.events import Event, OnEvent, ignore
from stage_cli.core.training.loop import Loop, LoopResult
from stage_cli.core.training.record import METRICS_FILE, MetricsFile
from stage_cli.core.training.settings import (
    DataLoading,
    LogConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)
from stage_cli.core.training.task import ParameterGroup
from stage_cli.errors import StageError

WIDTH = 8


@dataclass(frozen=True)
class Point:
    x: np.ndarray
    song: str
    index: int
    epoch: int


@dataclass(frozen=True)
class Points:
    x: Tensor
    items: tuple[Point, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Points:
        return replace(self, x=self.x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Points:
        return replace(self, x=self.x.pin_memory())


class PointSet:
    def __init__(self, items: int, seed: int = 0, bad: Sequence[int] = (), broken: int | None = None) -> None:
        self.items, self.seed, self.bad, self.broken = items, seed, set(bad), broken
        # Shared memory, as the real data set keeps it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.items

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Point:
        if index == self.broken:
            raise StageError(f"song-{index} cannot be read", why="it is torn", next_step="mend it")
        epoch = int(self._epoch)
        rng = np.random.default_rng((self.seed, epoch, index))
        x = rng.standard_normal(WIDTH).astype(np.float32)
        if index in self.bad:
            x[0] = np.nan
        return Point(x, f"song-{index}", index, epoch)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.linear(x)))


class ToyModule(nn.Module):
    """Two blocks, a part that only some batches use, and a buffer that every pass changes."""

    calls: Tensor

    def __init__(self, frozen: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.rare = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(not frozen)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: tuple[Tensor, Tensor, bool]) -> dict[str, Tensor]:
        x, noise, uses_rare = inputs
        if self.training:
            self.calls += 1
        h = x + noise
        for block in self.blocks:
            h = block(h)
        if uses_rare:
            h = h + self.rare(h)
        h = self.norm(h) + 0 * self.frozen(h).detach()
        losses = (h - x.flip(-1)).square().mean(dim=0)
        return {"loss": losses.float().mean(), "codebook_losses": losses[:2].detach().float()}


class ToyTask:
    """Everything that chance decides is drawn from (seed, epoch, index)."""

    units: tuple[str, ...] = ("Block",)

    def __init__(self, items: int = 40, seed: int = 0, signal_after: int | None = None, **options: Any) -> None:
        self.seed = seed
        self.signal_after = signal_after  # micro-batches of the second process
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = ToyModule()
        self.dataset = PointSet(items, seed, **options)
        self.device = torch.device("cpu")
        self.seen: list[tuple[int, int]] = []
        self.saved: list[dict[str, float]] = []

    @staticmethod
    def collate(items: Sequence[Point]) -> Points:
        return Points(torch.stack([torch.from_numpy(item.x) for item in items]), tuple(items))

    def inputs(self, batch: Points, epoch: int) -> tuple[Tensor, Tensor, bool]:
        assert not torch.is_grad_enabled()
        self.seen += [(item.epoch, item.index) for item in batch.items]
        if len(self.seen) == 2 * (self.signal_after or -1) and os.environ.get("RANK") == "1":
            signal.raise_signal(signal.SIGTERM)
        noise = [np.random.default_rng((self.seed, epoch, item.index, 1)).standard_normal() for item in batch.items]
        uses_rare = any(item.index % 3 == 0 for item in batch.items)
        return batch.x, torch.tensor(noise, dtype=torch.float32, device=batch.x.device)[:, None] * 0.1, uses_rare

    def parameter_groups(self, module: nn.Module) -> list[ParameterGroup]:
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        matrices = tuple(name for name in names if "blocks" in name and name.endswith("weight"))
        rest = tuple(name for name in names if name not in matrices)
        return [ParameterGroup(matrices, kind="matrix"), ParameterGroup(rest, decay=False)]

    def audio_seconds(self, batch: Points) -> float:
        return float(len(batch.items))

    def place(self, device: torch.device) -> None:
        self.device = device

    def save(self, directory: Path, metrics: Mapping[str, float], state: Mapping[str, Tensor] | None = None) -> None:
        self.saved.append(dict(metrics))
        state = self.module.state_dict() if state is None else state
        save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors")


@dataclass(frozen=True)
class ToyValidation:
    metrics: dict[str, float]
    demos: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@torch.no_grad()
def validate_toy(task: ToyTask) -> ToyValidation:
    """Falls first and rises later, so that the best is in the middle of a run."""
    task.module.eval()
    x = torch.linspace(-1, 1, 4 * WIDTH, device=task.device).view(4, WIDTH)
    loss = float(task.module((x, torch.zeros(4, 1, device=task.device), True))["loss"])
    return ToyValidation({"validation/loss": loss})


def toy_config(directory: Path, **tables: dict[str, Any]) -> TrainingConfig:
    """A run of 12 steps of 8 items; `train={"steps": 3}` changes a table."""
    train = {"steps": 12, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "checkpoint_every": 4}
    return TrainingConfig(
        data=DataConfig(root=("unused",)),
        model=ModelConfig(base="unused"),
        run=RunConfig(**{"directory": str(directory), "device": "cpu"} | tables.get("run", {})),
        loading=DataLoading(**{"workers": 0} | tables.get("loading", {})),
        train=TrainConfig(**train | tables.get("train", {})),
        validate=ValidateConfig(**{"every": 0} | tables.get("validate", {})),
        log=LogConfig(**{"every": 2, "tensorboard": False, "curves": False} | tables.get("log", {})),
    )


def train_toy(
    config: TrainingConfig,
    task: ToyTask | None = None,
    *,
    resume: bool = False,
    on_event: OnEvent = ignore,
    identity: Mapping[str, Any] | None = None,
) -> tuple[LoopResult, list[Event]]:
    """Run the engine; `metrics.jsonl` is written as in a real run."""
    task = task or ToyTask()
    events: list[Event] = []
    metrics = MetricsFile(config.directory / METRICS_FILE)

    def take(event: Event) -> None:
        events.append(event)
        metrics.on_event(event)
        on_event(event)

    validate = (lambda step, check: validate_toy(task)) if config.validate.every else None
    with joined(config.run) as processes:
        loop = Loop(config, task, processes, validate=validate, identity=identity or {}, on_event=take)
        result = loop.run(resume=resume)
    return result, events


def rows(directory: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl` without what depends on the clock and the machine."""
    lines = [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()]
    for line in lines:
        line.pop("time")
        for name in ("steps_per_second", "audio_seconds_per_second", "memory_gb"):
            line["metrics"].pop(name, None)
    return lines


def files(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def toy_environment() -> dict[str, str]:
    """Variables for a process that trains."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # Compiling torch's Python anew takes longer than a toy's training.
    environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"stage-tests-bytecode-{os.getuid()}")
    return environment | {"OMP_NUM_THREADS": "1"}


def toy_process(
    mode: str, directory: Path, tables: Mapping[str, Any], *, launcher: Sequence[str] = (), **options: Any
) -> forked.Popen:
    """Start `toy_run.py`; a session of its own lets a test signal the whole group."""
    script = str(Path(__file__).with_name("toy_run.py"))
    started = subprocess.Popen if launcher else forked.Popen
    return started(
        [sys.executable, *launcher, script, mode, str(directory), json.dumps(tables)],
        env=toy_environment(),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )
