"""Write prepared songs into WebDataset shards: thousands of songs in a few hundred files. Imports no torch.

A shard is a tar file that any WebDataset reader takes (https://github.com/webdataset/webdataset): a song is one sample,
`000012-name.features.json`, `000012-name.drums.0.flac`, … Nothing in it is compressed, and `shard-000000.json` beside
it tells where each member lies, so that `find_songs` and `StemDataset` read the needed seconds of a stem from the tar
as they would from a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.index import SHARDS_FILE, SHARDS_VERSION, find_features
from stage_cli.core.data.shard_song import ShardEntry, add_song
from stage_cli.core.data.song import SongFeatures, read_features
from stage_cli.errors import StageError, UsageError

SHARD_BYTES = 1 << 30
"""A shard is closed when it has reached this size: few files, and songs enough to fetch several at once."""

_BYTES_PER_SAMPLE = 2  # of FLAC, about; only for the plan


@dataclass(frozen=True)
class ShardReport:
    """What `write_shards` did.

    Attributes:
        songs: in all shards.
        shards: written and kept.
        kept: shards of an earlier run that were whole and up to date.
        size: bytes of all shards.
    """

    songs: int
    shards: int
    kept: int
    size: int


def write_shards(
    roots: Sequence[str | Path],
    output: Path,
    *,
    sample_rate: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Write all prepared songs of some folders as shards; what an interrupted run has finished is kept.

    The same songs give the same bytes. Songs are never divided between shards.

    Args:
        roots: folders of prepared songs.
        output: folder of the shards; made if it is missing.
        sample_rate: Hz; stores each stem as one mono FLAC file of 16 bits at this rate (the codec's, 32000): a third
            of the samples of a stereo file at 44.1 kHz, and nothing to resample when it is read. None copies the
            files as they are, and items are the same bit for bit.
        shard_bytes: a shard is closed when it has reached this size.
        progress: told after each shard how many songs are done, and of how many.

    Raises:
        UsageError: no prepared song, or `output` is one of `roots`.
        AudioError: a file cannot be read; the error names the song.
        StageError: the disk is full, or the folder cannot be written to.
    """
    if any(Path(root).resolve() == output.resolve() for root in roots):
        raise UsageError(f"{display_name(output)} holds the songs themselves", next_step="name another folder")
    paths = [path for root in roots for path in find_features(Path(root))]
    songs = sorted(((path, read_features(path)) for path in paths), key=lambda song: song[1].song)
    entries = [ShardEntry(number, path, features) for number, (path, features) in enumerate(songs)]
    plan = _plan(entries, sample_rate, shard_bytes)
    done = kept = size = 0
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Until all are written, this is no finished set.
        (output / SHARDS_FILE).unlink(missing_ok=True)
        for number, shard in enumerate(plan):
            target = output / _shard_name(number)
            digest = _digest(shard, sample_rate)
            if _is_current(target, digest):
                kept += 1
            else:
                _write_shard(target, shard, sample_rate, digest)
            done += len(shard)
            size += target.stat().st_size
            if progress is not None:
                progress(done, len(entries))
        names = [_shard_name(number) for number in range(len(plan))]
        _remove_others(output, names)
        _write_json(output / SHARDS_FILE, {"version": SHARDS_VERSION, "songs": len(entries), "shards": names})
    except OSError as error:
        raise StageError(
            f"cannot write shards to {display_name(output)}",
            why=error.strerror or str(error),
            next_step="repair that and run the same command: finished shards are kept",
        ) from error
    return ShardReport(songs=len(entries), shards=len(plan), kept=kept, size=size)


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Delete the shards of an earlier run that had more of them, or smaller ones."""
    for path in folder.iterdir():
        if re.fullmatch(r"shard-\d{6,}\.(tar|json)", path.name) and f"{path.stem}.tar" not in names:
            path.unlink()


def _plan(entries: Sequence[ShardEntry], sample_rate: int | None, shard_bytes: int) -> list[list[ShardEntry]]:
    """Divide the songs, in order, by sizes that are known before anything is written."""
    plan: list[list[ShardEntry]] = []
    filled = shard_bytes
    for entry in entries:
        if filled >= shard_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(entry)
        if sample_rate is None:
            filled += sum(entry.stat(file).st_size for stem in entry.features.stems.values() for file in stem.files)
        else:
            audible = sum(stem.active > 0 for stem in entry.features.stems.values())
            filled += round(audible * entry.features.duration * sample_rate) * _BYTES_PER_SAMPLE
    return plan


def _write_shard(target: Path, entries: Sequence[ShardEntry], sample_rate: int | None, digest: str) -> None:
    """Write a shard, then the index beside it; each has its name only when it is whole."""
    described: list[tuple[SongFeatures, list[str]]] = []
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for entry in entries:
                    described.append(add_song(tar, entry, sample_rate))
            file.flush()
            os.fsync(file.fileno())
        with tarfile.open(part) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        songs = [
            {"features": features.to_dict(), "members": {name: places[name] for name in names}}
            for features, names in described
        ]
        target.with_suffix(".json").unlink(missing_ok=True)  # of another content
        part.replace(target)
        _write_json(target.with_suffix(".json"), {"version": SHARDS_VERSION, "source": digest, "songs": songs})
    finally:
        part.unlink(missing_ok=True)


def _digest(entries: Sequence[ShardEntry], sample_rate: int | None) -> str:
    """Return a text that changes when the shard's content would."""
    digest = hashlib.sha256(f"{SHARDS_VERSION}/{sample_rate}".encode())
    for entry in entries:
        digest.update(f"{entry.key}\0".encode() + entry.path.read_bytes())
        for stem in entry.features.stems.values():
            for file in stem.files:
                status = entry.stat(file)
                digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _is_current(target: Path, digest: str) -> bool:
    try:
        return target.is_file() and json.loads(target.with_suffix(".json").read_bytes())["source"] == digest
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
