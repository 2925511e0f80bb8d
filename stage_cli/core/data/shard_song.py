"""One song as members of a shard. Imports no torch."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np
import soundfile

from stage_cli.core.audio import MonoReader, expected_frames
from stage_cli.core.audio.files import GuardedFile, display_name
from stage_cli.core.data.song import SongFeatures, StemFeatures
from stage_cli.errors import AudioError


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
