"""Small files that are there whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.errors import StageError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file in the same folder, which gets its name when all of it has reached the disk.

    Args:
        path: where the file will be; missing folders are made.
        write: called with the path of the hidden file.

    Raises:
        StageError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        StageError: it cannot be written.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def cannot_write(path: Path, error: OSError) -> StageError:
    """Make the error for a file that cannot be written."""
    return StageError(
        f"cannot write {display_name(path)}",
        why=error.strerror or str(error),
        next_step="free some space, or choose another run.directory",
    )
