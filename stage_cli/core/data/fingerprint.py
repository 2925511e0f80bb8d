"""What a prepared song was made from: content hashes of its files, so that only what has changed is done again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.errors import AudioError


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
