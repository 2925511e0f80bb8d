"""The files of the token cache: parts of an epoch, each whole or not there.

    RUN/tokens/<key>/epoch-0000-part-00003.safetensors

A part holds the tokens of up to `PART_ITEMS` items, targets stacked and contexts one after the other, and beside them
what the items are. The key is a digest of all that the tokens depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stage_cli.core.audio.files import display_name
from stage_cli.core.codec.codec import Codec
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.training.task.batches import CodeBatch, TokenItem
from stage_cli.errors import StageError

PART_ITEMS = 256

# Another one for each change of the files, or of how tokens are made.
_VERSION = 1
_SMALL_TOKENS = 2**15


def part_path(folder: Path, epoch: int, part: int) -> Path:
    """Return where one part of one epoch is."""
    return folder / f"epoch-{epoch:04d}-part-{part:05d}.safetensors"


def cache_key(dataset: StemDataset, codec: Codec, *, labels: bool = False) -> str:
    """Return a digest of all that an item's tokens depend on: what is drawn from which songs, and the codec."""
    songs = [
        [song.id, song.duration, {name: stem.active for name, stem in song.stems.items()}] for song in dataset.songs
    ]
    described = {
        "version": _VERSION,
        "data": asdict(dataset.config),
        "seed": dataset.seed,
        "sample_rate": dataset.sample_rate,
        "songs": songs,
        "codec": codec.config.to_dict(),
    }
    if labels:
        described["labels"] = 1  # another number for each change of what they mean
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:20]


def write_part(path: Path, batches: Sequence[CodeBatch], codebook_size: int) -> None:
    """Write the items of some batches, in their order.

    Raises:
        StageError: the file cannot be written.
    """
    dtype = torch.int16 if codebook_size <= _SMALL_TOKENS else torch.int32
    contexts = [row[:, :own] for batch in batches for row, own in zip(batch.context, batch.context_frames, strict=True)]
    items = [
        [item.index, item.song, item.stem, item.start, description]
        for batch in batches
        for item, description in zip(batch.items, batch.descriptions, strict=True)
    ]
    tensors = {
        "target": torch.cat([batch.target for batch in batches]).to("cpu", dtype).contiguous(),
        "context": torch.cat(contexts, dim=1).to("cpu", dtype).contiguous(),
        "context_ends": torch.tensor([context.shape[1] for context in contexts]).cumsum(0),
    }
    labels = [batch.labels for batch in batches if batch.labels is not None]
    if labels:
        tensors["labels"] = torch.cat(labels).to("cpu", torch.float16)
    # Only one process makes this part: a rest that was left behind is written over.
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"items": json.dumps(items)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise StageError(
            f"cannot write {display_name(path)}",
            why=str(error),
            next_step='free some space, choose another run.directory, or set data.tokens = "step"',
        ) from None


def read_item(path: Path, place: int) -> TokenItem:
    """Read one item of a part.

    Raises:
        StageError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            ends: Tensor = file.get_tensor("context_ends")
            start = int(ends[place - 1]) if place else 0
            context: Tensor = file.get_slice("context")[:, start : int(ends[place])]
            target: Tensor = file.get_slice("target")[place]
            labels = file.get_slice("labels")[place].float() if "labels" in file.keys() else None  # noqa: SIM118
            details: list[Any] = json.loads(file.metadata()["items"])[place]
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise StageError(
            f"the tokens in {display_name(path)} cannot be used",
            why=str(error).strip(),
            next_step="delete that file and start the training again: it is made anew",
        ) from None
    index, song, stem, seconds, description = details
    return TokenItem(context.long(), target.long(), description, stem, song, seconds, index, labels)
