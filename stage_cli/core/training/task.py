"""What the engine asks of the thing that is trained. The engine itself knows no language model and no codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn


class BatchItem(Protocol):
    """What an error report says of an item."""

    @property
    def song(self) -> str:
        """Where the item comes from."""
        ...

    @property
    def index(self) -> int:
        """Its place in the data set."""
        ...


class Batch(Protocol):
    """The items of one forward pass, collated. With `pin_memory() -> Batch` too, they are pinned for CUDA."""

    @property
    def items(self) -> Sequence[BatchItem]:
        """What is in it."""
        ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Move the tensors."""
        ...


class TaskDataset(Protocol):
    """A map-style data set whose items are drawn from nothing but (seed, epoch, index). It can be pickled."""

    def __len__(self) -> int:
        """Items an epoch."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Make one item of the epoch that was set last."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on."""
        ...


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one kind of optimizer treats alike.

    Attributes:
        names: as `module.named_parameters()` gives them; each trainable parameter stands in exactly one group.
        kind: "matrix" where Muon can be used (two dimensions, inside the layers), "other" for AdamW in any case.
        decay: whether the weight decay applies.
    """

    names: tuple[str, ...]
    kind: Literal["matrix", "other"] = "other"
    decay: bool = True


@runtime_checkable
class Task(Protocol):
    """Something to train.

    Attributes:
        module: its parameters with `requires_grad` are trained. `forward(inputs)` returns "loss", a scalar in fp32 with
            a gradient, the mean over the batch's items, and detached numbers to log: scalars, or vectors `[n]`, of the
            same size in every call ("codebook_losses" is logged as loss/codebook_1 … loss/codebook_n).
        dataset: the items.
        units: class names of the module's repeated parts: what FSDP2 gathers one at a time, and what is compiled.
    """

    module: nn.Module
    dataset: Any  # a TaskDataset; torch's Dataset type declares no length
    units: tuple[str, ...]

    def collate(self, items: Sequence[Any]) -> Any:
        """Make a `Batch` of items. A static method, or a function: it is sent to the loader's processes."""
        ...

    def inputs(self, batch: Any, epoch: int) -> Any:
        """Make what `module` is called with, on the device and without a gradient.

        Args:
            batch: moved to the device.
            epoch: with the seed and an item's index, all that chance may depend on: neither processes nor workers nor
                micro-batches change an item.
        """
        ...

    def parameter_groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Say which trainable parameters are optimized how."""
        ...

    def audio_seconds(self, batch: Any) -> float:
        """Return the seconds of audio that a batch trains on."""
        ...

    def place(self, device: torch.device) -> None:
        """Move what is frozen (it is not part of `module`) to the device."""
        ...

    def save(self, directory: Path, metrics: Mapping[str, float], state: Mapping[str, Tensor] | None = None) -> None:
        """Write the result into an empty directory. Only the main process calls it.

        Args:
            directory: exists; it is renamed to RUN/model when this returns.
            metrics: of the last validation, for the model card; may be empty.
            state: weights of `module` by the names of its `state_dict()`, whole and on the CPU, to be written instead
                of those it holds (which may be sharded); None: those it holds.
        """
        ...
