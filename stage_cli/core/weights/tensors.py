"""Tensors in files: names and shapes first, data one at a time. Nothing that a file says is ever executed."""

from __future__ import annotations

import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stage_cli.core.weights.hub import shard_names
from stage_cli.errors import WeightsError

Shape = tuple[int, ...]

# A mapped file counts as this process's memory page by page as it is read; it is mapped anew after this many bytes.
REMAP_BYTES = 16 * 2**20

# `lm.norm.weight` stored as int8 has its scales, one a row, in `lm.norm.weight.int8_scale`.
SCALE_SUFFIX = ".int8_scale"


class TensorFile(ABC):
    """A checkpoint file: `shapes` by name, and `read` for one tensor."""

    path: Path
    shapes: dict[str, Shape]

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read one tensor, in the precision in which it is stored."""

    def rounded(self, name: str) -> bool:
        """Whether a tensor is stored as int8 with a scale a row."""
        del name
        return False


class SafetensorsFile(TensorFile):
    """One or several safetensors files read as one.

    A tensor may be stored as int8 with a scale a row (`weights/packing.py`): it is read as what it stands for, and the
    scales have no names of their own.

    Args:
        paths: the files; no name may occur in two of them.

    Raises:
        WeightsError: a file is missing, truncated or not safetensors.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths: dict[str, Path] = {}
        self.shapes = {}
        self._open_path: Path | None = None
        self._file: Any = None
        self._mapped = 0
        for path in paths:
            self.path = path
            file = _open_safetensors(path)
            for name in file.keys():  # noqa: SIM118 - not a mapping
                self._paths[name] = path
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
        for name in [name for name in self.shapes if name.endswith(SCALE_SUFFIX)]:
            rows = self.shapes.pop(name)
            if self.shapes.get(name.removesuffix(SCALE_SUFFIX), ())[:-1] != rows:
                raise _broken(self._paths[name], f"{name} is not a scale for each row of another tensor")

    def rounded(self, name: str) -> bool:
        """See `TensorFile.rounded`."""
        return name + SCALE_SUFFIX in self._paths

    def read(self, name: str) -> Tensor:
        """Read one tensor. What it returns may be mapped, not copied: convert or copy it, then let go of it."""
        path = self._paths[name]
        most = 4 * math.prod(self.shapes[name])  # fp32 is the widest that a checkpoint holds
        if path != self._open_path or self._mapped + most > REMAP_BYTES:
            self._file, self._open_path, self._mapped = _open_safetensors(path), path, 0
        try:
            tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise _broken(path, str(error)) from None
        self._mapped += tensor.numel() * tensor.element_size()
        if not self.rounded(name):
            return tensor
        return tensor.float() * self._file.get_tensor(name + SCALE_SUFFIX).float()[..., None]


class PickleFile(TensorFile):
    """A torch pickle of tensors, read with `weights_only=True`: one that wants to run code is refused.

    Attributes:
        extras: what lies beside the tensors (audiocraft's settings).

    Args:
        path: the file.

    Raises:
        WeightsError: the file is missing, broken, refused, or holds no tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _load_pickle(path)
        if not isinstance(content, dict):
            raise WeightsError(f"{path} holds no named tensors")
        self.extras = {name: value for name, value in content.items() if isinstance(value, str | int | float)}
        state = next((content[key] for key in ("best_state", "state_dict", "model") if key in content), content)
        if isinstance(state, dict) and isinstance(state.get("model"), dict):
            state = state["model"]  # exported checkpoints nest once more
        if not isinstance(state, dict):
            raise WeightsError(f"{path} holds no named tensors")
        self._tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """Read one tensor; it is mapped from the file where the file allows it."""
        return self._tensors[name]


def open_checkpoint(path: Path) -> TensorFile:
    """Open a checkpoint file, or the shards behind a `*.safetensors.index.json`, by its name and first bytes.

    Raises:
        WeightsError: it is missing or cannot be read as tensors.
    """
    if path.name.endswith(".index.json"):
        return SafetensorsFile(path.parent / shard for shard in shard_names(path))
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"Cannot read {path}", why=error.strerror or str(error)) from None
    # safetensors: eight bytes of length, then JSON. A pickle of torch is a zip file, or starts with protocol 2.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return SafetensorsFile([path])
    return PickleFile(path)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise WeightsError if a tensor holds NaN or infinite numbers."""
    if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
        raise WeightsError(
            f"The checkpoint's weights are broken: {name} holds NaN or infinite numbers",
            next_step="download or train it again",
        )


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _broken(path, str(error)) from None
    except OSError as error:
        raise WeightsError(f"Cannot read {path}", why=error.strerror or str(error)) from None


def _load_pickle(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the old format cannot be mapped
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that are no pickle at all
            raise _broken(path, "it is neither safetensors nor a pickle of tensors") from None
        raise WeightsError(
            f"{path} was refused: it is a pickle that wants to run code",
            why="only tensors and plain values are read from pickles",
            next_step="use a file that you trust, converted to safetensors",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, ImportError) as error:
        raise _broken(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    except OSError as error:
        raise WeightsError(f"Cannot read {path}", why=error.strerror or str(error)) from None


def _broken(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path} is truncated, damaged, or not a checkpoint", why=why, next_step="download or copy it again"
    )
