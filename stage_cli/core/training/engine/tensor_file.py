"""Tensors to and from a safetensors file, one at a time: neither reading nor writing holds them all in memory.

Format: https://github.com/huggingface/safetensors#format. The library would first make bytes of everything, and tells
of a full disk in words of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.training.engine.gradients import whole

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
