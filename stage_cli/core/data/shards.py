"""Where shards may be written: nowhere over songs, or over shards of something else. Imports no numpy.

One song as members of a shard. Imports no torch.

Write prepared songs into WebDataset shards: thousands of songs in a few hundred files. Imports no torch.

A shard is a tar file that any WebDataset reader takes (https://github.com/webdataset/webdataset): a song is one sample,
`000012-name.features.json`, `000012-name.drums.0.flac`, … Nothing in it is compressed, and `shard-000000.json` beside
it tells where each member lies, so that `find_songs` and `StemDataset` read the needed seconds of a stem from the tar
as they would from a folder.
"""

from __future__ import annotations

import hashlib
import io
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
from typing import IO, Any, BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.audio.reading import MonoReader
from stage_cli.core.audio.resample import expected_frames
from stage_cli.core.data.index import (
    SHARDS_FILE,
    SHARDS_VERSION,
    find_features,
    find_parts,
    part_folder,
    read_index,
    shard_name,
)
from stage_cli.core.data.settings import WHOLE_SET, Shard
from stage_cli.core.data.song import SongFeatures, StemFeatures, read_features
from stage_cli.core.files import GuardedFile, display_name, whole_file
from stage_cli.core.machine import in_order
from stage_cli.errors import AudioError, StageError, UsageError

_ANOTHER = "name another folder, or delete what is there"


def check_output(
    output: Path, folders: Sequence[Path], ids: set[str] | None, sample_rate: int | None, part: Shard = WHOLE_SET
) -> None:
    """Make sure that shards of some songs may be written to a folder, as `write_shards` does by itself.

    Args:
        output: folder of the shards.
        folders: of the songs.
        ids: of all songs of the set; None does not look for shards of other songs.
        sample_rate: Hz of the shards' audio, or None.
        part: of the set.

    Raises:
        UsageError: the folder is a file, or it holds the songs themselves, or shards of other songs, of another rate,
            or of another division into parts.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write shards to {display_name(output)}", why="it is a file", next_step=_ANOTHER)
    if any(output.resolve() in (folder.resolve(), *folder.resolve().parents) for folder in folders):
        raise UsageError(f"{display_name(output)} holds the songs themselves", next_step="name another folder")
    if not output.is_dir():
        return
    others = {other.count for other in find_parts(output).values()} - {part.count}
    if others or (part.count > 1 and (output / shard_name(0)).is_file()):
        raise UsageError(
            f"{display_name(output)} holds shards of another division",
            why=f"they are {f'one of {min(others)} parts' if others else 'a whole set'}",
            next_step=_ANOTHER,
        )
    found = _first_index(part_folder(output, part))
    if found is None:
        return
    names = [song["features"]["song"] for song in found["songs"]]
    if found.get("sample_rate") != sample_rate:
        raise UsageError(
            f"{display_name(output)} holds shards of another rate",
            why=f"{_rate(found.get('sample_rate'))} there, {_rate(sample_rate)} here",
            next_step=_ANOTHER,
        )
    if ids is not None and names and not ids.intersection(names):
        raise UsageError(
            f"{display_name(output)} holds shards of other songs", why=f"such as {names[0]}", next_step=_ANOTHER
        )


def _first_index(folder: Path) -> dict[str, Any] | None:
    """Read the index of the first shard of an earlier run; None if there is none that can be read."""
    try:
        found = read_index(folder / shard_name(0))
        return found if all(song["features"]["song"] for song in found["songs"]) else None
    except (StageError, KeyError, TypeError):
        return None


def _rate(sample_rate: int | None) -> str:
    return "files as they were" if sample_rate is None else f"{sample_rate} Hz"


@dataclass(frozen=True)
class ShardEntry:
    """A song to be written: its number, where its features are, and what they say."""

    number: int
    path: Path
    features: SongFeatures

    @property
    def key(self) -> str:
        """Of the sample; WebDataset ends a key at the first dot."""
        return f"{self.number:06d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', self.features.song)[:80]}"

    def source(self, file: str) -> Path:
        """Return where a file of the features is."""
        return self.path.parent / file

    def stat(self, file: str) -> os.stat_result:
        """Look at a file of the features.

        Raises:
            AudioError: it is missing; the error names the song.
        """
        try:
            return self.source(file).stat()
        except OSError as error:
            raise AudioError(
                f"song {self.features.song}: cannot read {display_name(self.source(file))}",
                why=error.strerror or str(error),
                next_step="run stage prepare-data again",
            ) from None


@dataclass(frozen=True)
class SongMembers:
    """What a shard will hold of a song.

    Attributes:
        key: of the sample.
        features: as they are stored, with the members' names for files.
        audio: by member name: a file to be copied, or its content.
    """

    key: str
    features: SongFeatures
    audio: dict[str, Path | bytes]


def song_members(entry: ShardEntry, sample_rate: int | None) -> SongMembers:
    """Make what a shard will hold of a song.

    Args:
        entry: the song.
        sample_rate: Hz of one mono file a stem; None copies the files.

    Raises:
        AudioError: a file cannot be read; the error names the song.
    """
    stems: dict[str, StemFeatures] = {}
    audio: dict[str, Path | bytes] = {}
    for name, stem in entry.features.stems.items():
        if sample_rate is None:
            sources: list[Path | bytes] = [entry.source(file) for file in stem.files]
            endings = [Path(file).suffix.lower() for file in stem.files]
        elif stem.active > 0:
            sound, ending = _mono(entry, name, sample_rate)
            sources, endings = [sound], [ending]
        else:
            sources, endings = [], []
        members = tuple(f"{entry.key}.{name}.{number}{ending}" for number, ending in enumerate(endings))
        audio |= zip(members, sources, strict=True)
        stems[name] = replace(stem, files=members)
    features = replace(entry.features, stems=stems)
    if sample_rate is not None:
        frames = expected_frames(features.frames, features.sample_rate, sample_rate)
        features = replace(features, sample_rate=sample_rate, frames=frames)
    return SongMembers(entry.key, features, audio)


def add_song(tar: tarfile.TarFile, song: SongMembers) -> None:
    """Add a song to a shard that is open for writing: its features, then its audio.

    Raises:
        OSError: the shard cannot be written, or a file cannot be read.
    """
    text = json.dumps(song.features.to_dict(), ensure_ascii=False).encode()
    for member, source in ((f"{song.key}.features.json", text), *song.audio.items()):
        if isinstance(source, bytes):
            _add(tar, member, io.BytesIO(source), len(source))
        else:
            with source.open("rb") as file:
                _add(tar, member, file, os.fstat(file.fileno()).st_size)


def _mono(entry: ShardEntry, stem: str, sample_rate: int) -> tuple[bytes, str]:
    """Sum a stem's tracks at a rate; return the file and its ending: FLAC, or WAV of floats where it passes ±1."""
    total = np.zeros(expected_frames(entry.features.frames, entry.features.sample_rate, sample_rate), dtype=np.float32)
    for file in entry.features.stems[stem].files:
        at = 0
        try:
            for block in MonoReader(entry.source(file), sample_rate):
                kept = block[: len(total) - at]
                total[at : at + len(kept)] += kept
                at += len(kept)
        except AudioError as error:
            raise AudioError(
                f"song {entry.features.song}, {stem}: {error.what}", why=error.why, next_step=error.next_step
            ) from error
    buffer = io.BytesIO()
    if np.abs(total).max() <= 1.0:
        with GuardedFile(buffer) as guard:
            soundfile.write(cast("BinaryIO", guard), total, sample_rate, format="FLAC", subtype="PCM_16")
        return buffer.getvalue(), ".flac"
    from scipy.io import wavfile

    # Not by libsndfile, which notes the time of day in a WAV file of floats: the same songs give the same bytes.
    wavfile.write(buffer, sample_rate, total)
    return buffer.getvalue(), ".wav"


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)  # without date and owner: the same songs give the same bytes
    member.size = size
    tar.addfile(member, file)


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
    with whole_file(target) as part:
        with tarfile.open(part, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for song in songs:
                add_song(tar, song)
                described.append(replace(song, audio=dict.fromkeys(song.audio, b"")))
                yield
        with tarfile.open(part) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        index = [
            {"features": song.features.to_dict(), "members": {name: places[name] for name in song.audio}}
            for song in described
        ]
        target.with_suffix(".json").unlink(missing_ok=True)  # of another content
    _write_json(
        target.with_suffix(".json"),
        {"version": SHARDS_VERSION, "source": digest, "sample_rate": sample_rate, "songs": index},
    )


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
    with whole_file(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
