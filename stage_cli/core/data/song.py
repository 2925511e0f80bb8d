"""What a prepared song was made from: content hashes of its files, so that only what has changed is done again.

What is known of one song: the contract between preparing data and training on it, stored as `features.json`.

Times are seconds, counted from the first sample. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from stage_cli.core.files import display_name, whole_file
from stage_cli.core.music.rhythm import Key, Rhythm
from stage_cli.errors import AudioError, StageError


def file_fingerprint(path: Path, known: str = "") -> str:
    """Return "STAMP HASH" of a file: size and times, and SHA-256 of its content.

    Args:
        path: the file.
        known: an earlier fingerprint. Where its stamp still holds, its hash is taken for granted. The stamp holds the
            time of the last status change, too: that is no date that a program could set back.

    Raises:
        AudioError: the file cannot be read.
    """
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
        if known.startswith(f"{stamp} "):
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise AudioError(
            f"cannot read {display_name(path)}",
            why="there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error),
            next_step="restore it, or remove the song",
        ) from None
    return f"{stamp} {digest.hexdigest()}"


def fingerprints(files: Mapping[str, Path], known: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprint of each file, by the names that `files` gives them.

    Raises:
        AudioError: a file cannot be read.
    """
    return {name: file_fingerprint(path, known.get(name, "")) for name, path in files.items()}


def same_content(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two sets of fingerprints name the same files and contents, whatever their times.

    Texts without a stamp, such as settings, are compared whole.
    """
    return {name: _content(text) for name, text in one.items()} == {
        name: _content(text) for name, text in other.items()
    }


def _content(fingerprint: str) -> str:
    return fingerprint.rpartition(" ")[2]


SCHEMA_VERSION = 1
SCHEMA_KEY = "schema_version"
"""The first key of the file: it tells ours from others."""

FEATURES_FILE = "features.json"

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class StemFeatures:
    """One stem of a song.

    Attributes:
        files: audio of its tracks, to be summed; relative to the folder of `features.json`, or absolute. For drums this
            is the one file `drums_mixed/drums.wav`, however many tracks they have.
        active: seconds in which it can be heard (peak of a 0.1 s block ≥ −40 dBFS).
        loudness: LUFS of the whole stem; None if it is silent.
    """

    files: tuple[str, ...]
    active: float
    loudness: float | None


@dataclass(frozen=True)
class SongFeatures:
    """One prepared song.

    Attributes:
        song: id, the name of its folder, unique in the data set.
        title: as the data set tells it, or "".
        artist: as the data set tells it, or "".
        layout: "moisesdb", "musdb18", "slakh" or "folders".
        sample_rate: Hz of its audio; where tracks differ, the highest.
        frames: length at that rate; shorter tracks end in silence.
        stems: by the project's stem names; silent ones too, with `active` 0.
        rhythm: beats.
        key: None where none was found.
        genres: from the data set, or by model; may be empty.
        moods: likewise.
        fingerprint: of the audio's content and of the settings that made this file; other values mean: prepare again.
    """

    song: str
    title: str
    artist: str
    layout: str
    sample_rate: int
    frames: int
    stems: dict[str, StemFeatures]
    rhythm: Rhythm
    key: Key | None
    genres: tuple[str, ...] = ()
    moods: tuple[str, ...] = ()
    fingerprint: dict[str, str] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, headed by the schema's version."""
        return {SCHEMA_KEY: SCHEMA_VERSION, "duration": self.duration, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SongFeatures:
        """Read what `to_dict` wrote.

        Raises:
            StageError: another schema version, or fields that are missing, unknown or of a wrong type.
        """
        content = dict(values)
        version = content.pop(SCHEMA_KEY, None)
        if version != SCHEMA_VERSION:
            raise StageError(
                f"features of schema version {version!r}, not {SCHEMA_VERSION}",
                next_step="run stage prepare-data again",
            )
        content.pop("duration", None)
        try:
            stems = {name: _read(StemFeatures, stem) for name, stem in content.pop("stems").items()}
            rhythm, key = _read(Rhythm, content.pop("rhythm")), content.pop("key")
            return _read(
                cls, {**content, "stems": stems, "rhythm": rhythm, "key": None if key is None else _read(Key, key)}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StageError(
                f"{FEATURES_FILE} is damaged", why=f"{error}", next_step="run stage prepare-data again"
            ) from None


def read_features(path: Path) -> SongFeatures:
    """Read a `features.json`.

    Raises:
        StageError: it is missing, damaged, or of another schema version.
    """
    try:
        return SongFeatures.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StageError(f"cannot read {path}", why=error.strerror or str(error)) from None
    except ValueError as error:
        raise StageError(f"{path} is damaged", why=str(error), next_step="run stage prepare-data again") from None


def write_features(path: Path, features: SongFeatures) -> None:
    """Write a `features.json`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as part:
        part.write_text(json.dumps(features.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    known = {entry.name for entry in fields(kind)}  # ty: ignore[invalid-argument-type]
    unknown = set(values) - known
    if unknown:
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
