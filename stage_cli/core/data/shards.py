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
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.index import find_features
from stage_cli.core.data.processes import in_order
from stage_cli.core.data.settings import WHOLE_SET, Shard
from stage_cli.core.data.shard_index import SHARDS_FILE, SHARDS_VERSION, part_folder, shard_name
from stage_cli.core.data.shard_output import check_output
from stage_cli.core.data.shard_song import ShardEntry, SongMembers, add_song, song_members
from stage_cli.core.data.song import read_features
from stage_cli.errors import StageError

SHARD_BYTES = 1 << 30
"""A shard is closed when it has reached this size: few files, and songs enough to fetch several at once."""

_BYTES_PER_SAMPLE = 2  # of FLAC, about; only for the plan


@dataclass(frozen=True)
class ShardReport:
    """What `write_shards` did.

    Attributes:
        folder: of the shards.
        songs: in all shards.
        shards: written and kept.
        kept: shards of an earlier run that were whole and up to date.
        size: bytes of all shards.
    """

    folder: Path
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
    part: Shard = WHOLE_SET,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Write all prepared songs of some folders as shards; what an interrupted run has finished is kept.

    The same songs give the same bytes. Songs are never divided between shards.

    Args:
        roots: folders of prepared songs, or of one.
        output: folder of the shards; made if it is missing.
        sample_rate: Hz; stores each stem as one mono FLAC file of 16 bits at this rate (the codec's, 32000): a third
            of the samples of a stereo file at 44.1 kHz, and nothing to resample when it is read. None copies the
            files as they are, and items are the same bit for bit.
        shard_bytes: a shard is closed when it has reached this size.
        part: of the set, where several machines write it together: `roots` are this machine's songs, and its shards
            get a folder of their own in `output`.
        jobs: processes that make FLAC files; files are copied by one.
        progress: told how many songs are done, and of how many.

    Raises:
        UsageError: no prepared song, or `output` holds the songs themselves, or shards of other songs.
        AudioError: a file cannot be read; the error names the song.
        StageError: the disk is full, the folder cannot be written to, or a process was killed.
    """
    paths = [path for root in roots for path in find_features(Path(root))]
    songs = sorted(((path, read_features(path)) for path in paths), key=lambda song: song[1].song)
    ids = {song.song for _, song in songs} if part.count == 1 else None
    check_output(output, [path.parent for path in paths], ids, sample_rate, part)
    entries = [ShardEntry(number, path, features) for number, (path, features) in enumerate(songs)]
    folder = part_folder(output, part)
    plan = {folder / shard_name(number): shard for number, shard in enumerate(_plan(entries, sample_rate, shard_bytes))}
    digests = {path: _digest(shard, sample_rate) for path, shard in plan.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        due = [path for path, digest in digests.items() if not _is_current(path, digest)]
        if due:  # until all are written, this is no finished set
            (folder / SHARDS_FILE).unlink(missing_ok=True)
        done = len(entries) - sum(len(plan[path]) for path in due)
        if done and progress is not None:
            progress(done, len(entries))
        make = partial(song_members, sample_rate=sample_rate)
        inputs = [entry for path in due for entry in plan[path]]
        with closing(in_order(make, inputs, 1 if sample_rate is None else min(jobs, len(inputs)))) as made:
            for path in due:
                for _ in _write_shard(path, islice(made, len(plan[path])), digests[path], sample_rate):
                    done += 1
                    if progress is not None:
                        progress(done, len(entries))
        _remove_others(folder, [path.name for path in plan])
        names = [path.name for path in plan]
        _write_json(folder / SHARDS_FILE, {"version": SHARDS_VERSION, "songs": len(entries), "shards": names})
        size = sum(path.stat().st_size for path in plan)
    except OSError as error:
        raise StageError(
            f"cannot write shards to {display_name(folder)}",
            why=error.strerror or str(error),
            next_step="repair that and run the same command: finished shards are kept",
        ) from error
    return ShardReport(folder=folder, songs=len(entries), shards=len(plan), kept=len(plan) - len(due), size=size)


def _remove_unfinished(folder: Path) -> None:
    """Delete what a killed run has left half-written."""
    for path in folder.glob(".shard*.part"):
        path.unlink(missing_ok=True)


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


def _write_shard(target: Path, songs: Iterator[SongMembers], digest: str, sample_rate: int | None) -> Iterator[None]:
    """Write a shard, then the index beside it; each has its name only when it is whole. Yields after each song."""
    described: list[SongMembers] = []
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for song in songs:
                    add_song(tar, song)
                    described.append(replace(song, audio=dict.fromkeys(song.audio, b"")))
                    yield
            file.flush()
            os.fsync(file.fileno())
        with tarfile.open(part) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        index = [
            {"features": song.features.to_dict(), "members": {name: places[name] for name in song.audio}}
            for song in described
        ]
        target.with_suffix(".json").unlink(missing_ok=True)  # of another content
        part.replace(target)
        content = {"version": SHARDS_VERSION, "source": digest, "sample_rate": sample_rate, "songs": index}
        _write_json(target.with_suffix(".json"), content)
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
