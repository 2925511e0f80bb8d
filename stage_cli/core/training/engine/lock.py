"""One run writes one folder."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.core.locks import lock_file
from stage_cli.errors import StageError, UsageError

_LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keep other runs out of a folder, which is made; the lock ends with this process, however that ends.

    Where the system has no such locks (Windows, some network disks) nothing is kept out.

    Raises:
        UsageError: another process holds it.
        StageError: the folder cannot be made.
    """
    path = directory / _LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise StageError(
            f"cannot use the folder {display_name(directory)}",
            why=error.strerror or str(error),
            next_step="choose another run.directory",
        ) from None
    try:
        if not lock_file(handle):
            raise UsageError(
                f"another process is training in {display_name(directory)}",
                next_step="wait for it, or choose another run.directory",
            )
        yield
    finally:
        os.close(handle)
