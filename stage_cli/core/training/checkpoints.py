"""How far a run has come: what a checkpoint says beside its tensors. Imports no torch.

The checkpoints of a run: which there are, which is whole, which are kept.

Tensors to and from a safetensors file, one at a time: neither reading nor writing holds them all in memory.

Format: https://github.com/huggingface/safetensors#format. The library would first make bytes of everything, and tells
of a full disk in words of its own.

Everything that changes while a run goes, to and from a checkpoint's folder.

One form for one process, for several and for sharded weights: tensors whole and by name. So a run may be resumed on
another number of processes. Accelerate's own checkpoints hold pickles, and a file for each process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli import __version__
from stage_cli.core.files import display_name, recover_all, whole_folder
from stage_cli.core.training.distributed import Processes
from stage_cli.core.training.optimizers import Optimizers, WeightAverage, whole
from stage_cli.errors import StageError, UsageError


@dataclass
class Progress:
    """Changes with every step.

    Attributes:
        step: done, from 0.
        skipped: steps that changed nothing, since the start.
        best: lowest validation/loss, None before the first.
        best_step: its step.
        validated: step of the last validation, 0 before the first.
        validation: metrics of the last validation.
        sums: of the numbers to log, since the last line, by name.
        summed: steps in them.
        scaler: state of the loss scaling; empty without it.
    """

    step: int = 0
    skipped: int = 0
    best: float | None = None
    best_step: int | None = None
    validated: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, which keeps every bit of a number."""
        return asdict(self)

    def restore(self, other: Progress) -> None:
        """Take over all of another one."""
        for item in fields(self):
            setattr(self, item.name, getattr(other, item.name))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Read what `to_dict` wrote."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})


PROGRESS_FILE = "progress.json"
FORMAT_VERSION = 1

_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The folders `step-00001000` in RUN/checkpoints.

    A checkpoint is written into a hidden folder, which is renamed when all of it has reached the disk; `progress.json`
    lists its files and their sizes. So one that can be seen is whole, unless somebody has changed it.

    Args:
        directory: RUN/checkpoints.
        keep_last: newest ones that are kept.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def folder(self, step: int) -> Path:
        """Return where a step's checkpoint is."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """List the steps with a whole checkpoint, the first one first."""
        if not self.directory.is_dir():
            return []
        found = {int(match[1]): path for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name))}
        return sorted(step for step, path in found.items() if _is_whole(path))

    def clean(self) -> None:
        """Delete what a process that was killed has left half-written."""
        recover_all(self.directory)

    def read(self, step: int) -> dict[str, Any]:
        """Return what `progress.json` says.

        Raises:
            StageError: it was written by a newer version.
        """
        content = json.loads((self.folder(step) / PROGRESS_FILE).read_text(encoding="utf-8"))
        if content["version"] > FORMAT_VERSION:
            raise StageError(
                f"{display_name(self.folder(step))} has format version {content['version']}",
                why=f"this stage-cli reads up to {FORMAT_VERSION}",
                next_step="update stage-cli",
            )
        return content

    @contextmanager
    def writing(self, step: int) -> Generator[tuple[Path, dict[str, Any]]]:
        """Give the folder to fill, and a dictionary to fill that becomes `progress.json`.

        Raises:
            StageError: the disk is full, or the folder cannot be written; earlier checkpoints are as they were.
        """
        try:
            with whole_folder(self.folder(step)) as part:
                content: dict[str, Any] = {"version": FORMAT_VERSION}
                yield part, content
                content["files"] = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
                text = json.dumps(content, indent=1) + "\n"
                (part / PROGRESS_FILE).write_text(text, encoding="utf-8")
        except OSError as error:
            raise cannot_save(f"the checkpoint of step {step}", self.directory, error) from None

    def prune(self, best: int | None) -> None:
        """Delete all but the newest ones and the best."""
        steps = self.steps()
        for step in steps[: -self.keep_last]:
            if step != best:
                # Under another name first: a checkpoint that is half deleted is not to be seen.
                hidden = self.directory / f".{self.folder(step).name}.part"
                try:
                    self.folder(step).rename(hidden)
                except OSError:
                    continue
                shutil.rmtree(hidden, ignore_errors=True)


def cannot_save(what: str, directory: Path, error: OSError) -> StageError:
    """Make the error for something of a run that cannot be written."""
    return StageError(
        f"cannot write {what} to {display_name(directory)}",
        why=error.strerror or str(error),
        next_step="free some space, then go on from the last whole checkpoint with `resume`",
    )


def _is_whole(folder: Path) -> bool:
    try:
        content = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        files: Mapping[str, int] = content["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def write_tensors(path: Path | None, tensors: Sequence[tuple[str, Tensor]]) -> None:
    """Write tensors; when this returns, they have reached the disk.

    Tensors that are sharded over processes are gathered one by one: then all processes must call this, those that do
    not write with no path.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None:
        for _, tensor in tensors:
            whole(tensor)
        return
    header, end = {}, 0
    for name, tensor in tensors:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in tensors:
            flat = whole(tensor.detach()).cpu().contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield what `write_tensors` wrote, on the CPU.

    Raises:
        OSError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise OSError(f"{path.name} is damaged: {error}") from None


def place_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of another one; its own part of it, if that one is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(like.device)
    if isinstance(like, DTensor) and value.shape == like.shape:
        # Each process has the whole one: nothing needs to be sent.
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


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
            check_identity(folder.parent.parent, content["run"], self.identity)
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


def check_identity(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a run goes on with the settings that it began with.

    Args:
        directory: of the run.
        before: what it must not change, as its checkpoint has it.
        now: the same, as it is now.

    Raises:
        UsageError: a setting is another one; the error names it and both values.
    """
    now = json.loads(json.dumps(dict(now)))  # a tuple is a list there
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UsageError(
                f"cannot resume {display_name(directory)} with another {name}",
                why=f"it began with {_told(before.get(name))}, now it is {_told(now.get(name))}",
                next_step="set it back, or begin a new run in another run.directory (without `resume`)",
            )


def _told(value: Any) -> str:
    return "no value" if value is None else repr(value)
