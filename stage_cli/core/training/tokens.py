"""Audio to tokens: targets and contexts of a batch through the frozen codec, in one call.

The files of the token cache: parts of an epoch, each whole or not there.

    RUN/tokens/<key>/epoch-0000-part-00003.safetensors

A part holds the tokens of up to `PART_ITEMS` items, targets stacked and contexts one after the other, and beside them
what the items are. The key is a digest of all that the tokens depend on.

Tokens made once, before the first step, for data sets without augmentation (`data.tokens = "cache"`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from stage_cli.core.codec.codec import Codec
from stage_cli.core.data.dataset import AudioBatch, StemDataset, collate
from stage_cli.core.files import display_name, whole_file
from stage_cli.core.training.loader import DataOrder, Loader, MicroBatch
from stage_cli.core.training.stem_module import CodeBatch, TokenItem, label_batch
from stage_cli.errors import StageError


@torch.no_grad()
def encode_batch(codec: Codec, batch: AudioBatch, *, labels: bool = False) -> CodeBatch:
    """Encode a batch, in fp32 whatever the precision around it is.

    Each context is followed by silence up to the target's length and goes through the codec together with the targets,
    as 2·B rows of one length: what an item's neighbours are changes neither what is computed of it nor its codes. Of
    the context's codes those are its own that hold at least one of its samples.

    Args:
        codec: in evaluation mode; the codes come back to the batch's device.
        batch: no context longer than the targets.
        labels: also label the frames.

    Returns:
        Codes with Tt = ceil(samples of a target / hop).
    """
    rows, samples = batch.target.shape
    context = F.pad(batch.context, (0, samples - batch.context.shape[1]))
    audio = torch.cat([batch.target, context])[:, None].to(_device(codec))
    with torch.autocast(audio.device.type, enabled=False):
        codes = codec.encode(audio).to(batch.target.device)
    frames = tuple(codec.config.frames(own) for own in batch.context_samples.tolist())
    labelled = label_batch(batch, codec.config) if labels else None
    return CodeBatch(codes[rows:, :, : max(frames)], frames, codes[:rows], batch.descriptions, batch.items, labelled)


def _device(codec: Codec) -> torch.device:
    codebooks: Tensor = codec.quantizer.codebooks
    return codebooks.device


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
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a run that was killed: one process alone makes this part
        left.unlink(missing_ok=True)
    try:
        with whole_file(path) as part:
            save_file(tensors, part, metadata={"items": json.dumps(items)})
    except (OSError, SafetensorError) as error:
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


class CachedTokens(Dataset[TokenItem]):
    """A map-style data set of items whose tokens lie in files; epochs beyond the cached ones repeat them in turn.

    Args:
        folder: of the parts, which `make_tokens` writes.
        items: of an epoch.
        epochs: that are cached.
        labels: whether they are labelled.
        shared: whether other runs' tokens lie beside the folder; if not, what lies there is outdated.
    """

    def __init__(self, folder: Path, items: int, epochs: int, *, labels: bool = False, shared: bool = False) -> None:
        self.folder = folder
        self.labels = labels
        self.shared = shared
        self.epochs = epochs
        self._items = items
        # Shared memory: workers that live on from epoch to epoch see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Give the items of another epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> TokenItem:
        """Read one item.

        Raises:
            StageError: its file is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        part, place = divmod(index, PART_ITEMS)
        return read_item(part_path(self.folder, self.epoch % self.epochs, part), place)


def cached_tokens(
    run: Path, dataset: StemDataset, codec: Codec, epochs: int, *, labels: bool = False, shared: Path | None = None
) -> CachedTokens:
    """Return the data set that `make_tokens` fills for a run; nothing is made yet.

    Args:
        run: the run's folder.
        dataset: gives the audio.
        codec: makes the tokens.
        epochs: to be cached.
        labels: whether they are to be labelled.
        shared: a folder that runs have in common; None is one of the run's own. Labelled tokens that lie there, all
            of them, also serve a run without labels.
    """
    if shared is not None:
        labelled = CachedTokens(
            shared / cache_key(dataset, codec, labels=True), len(dataset), epochs, labels=True, shared=True
        )
        if labels or not _missing_parts(labelled):
            return labelled
    folder = (shared or run / "tokens") / cache_key(dataset, codec, labels=labels)
    return CachedTokens(folder, len(dataset), epochs, labels=labels, shared=shared is not None)


def make_tokens(
    cached: CachedTokens,
    dataset: StemDataset,
    codec: Codec,
    *,
    device: torch.device,
    batch_size: int,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the parts that are missing. Each process makes its share; wait for all of them before the first item.

    Parts that are there stay, so a run that was stopped goes on where it was. Tokens of another config, seed or codec
    are deleted, by process 0, unless runs share the folder.

    Args:
        cached: to be filled.
        dataset: gives the audio; its epoch is set.
        codec: in evaluation mode, on its device.
        device: where audio and codes are put.
        batch_size: items encoded at a time.
        workers: processes that read audio.
        process: number of this process.
        processes: of all.
        on_progress: called with the items done and those to do by this process.

    Raises:
        AudioError: a song cannot be read.
        StageError: a part cannot be written, or a song gives no item.
    """
    if process == 0 and not cached.shared:
        _remove_others(cached.folder)
    parts = _missing_parts(cached, process, processes)
    total, done = sum(len(part.indices) for part in parts), 0
    order = _PartOrder(parts, len(dataset), batch_size)
    made: list[CodeBatch] = []
    with Loader(dataset, collate, order, workers=workers) as loader:
        batches = loader.start(1, len(parts))
        for part in parts:
            while sum(len(batch.items) for batch in made) < len(part.indices):
                _, batch = next(batches)
                made.append(encode_batch(codec, batch.to(device), labels=cached.labels).to("cpu"))
                done += len(made[-1].items)
                if on_progress is not None:
                    on_progress(done, total)
            write_part(part_path(cached.folder, part.epoch, part.number), made, codec.config.codebook_size)
            made.clear()
    dataset.set_epoch(0)


@dataclass(frozen=True)
class _CachePart:
    """What lies in one file."""

    epoch: int
    number: int
    indices: range


class _PartOrder(DataOrder):
    """The order in which the cache is made: step s of the loader is the s-th of some parts, from its first item on."""

    def __init__(self, parts: list[_CachePart], items: int, batch_size: int) -> None:
        super().__init__(items, batch_size, batch_size, 0)
        self._parts = parts

    def micro_batches(self, step: int, process: int = 0, processes: int = 1) -> list[MicroBatch]:
        """Return the batches of a part; none goes on into the next part."""
        part = self._parts[step - 1]
        starts = range(part.indices.start, part.indices.stop, self.micro_batch_size)
        batches = [
            MicroBatch(number, part.epoch, tuple((part.epoch, index) for index in range(start, end)))
            for number, (start, end) in enumerate(pairwise([*starts, part.indices.stop]))
        ]
        return batches[process::processes]


def _missing_parts(cached: CachedTokens, process: int = 0, processes: int = 1) -> list[_CachePart]:
    """List the parts that a process has to make."""
    parts = [
        _CachePart(epoch, number, range(start, min(start + PART_ITEMS, len(cached))))
        for epoch in range(cached.epochs)
        for number, start in enumerate(range(0, len(cached), PART_ITEMS))
    ]
    # First the shares, then what is missing: no process looks at what another one is writing.
    return [
        part for part in parts[process::processes] if not part_path(cached.folder, part.epoch, part.number).exists()
    ]


def _remove_others(folder: Path) -> None:
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
