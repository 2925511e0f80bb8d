"""Folders that are there whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PART, _OLD = ".part", ".old"


@contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """Fill a hidden folder beside `folder`; when all of it has reached the disk it takes that name.

    A folder that has the name already is replaced; between two renames there may be none, which `recover` mends.

    Raises:
        OSError: it cannot be written; then nothing has changed, and nothing half-written is left.
    """
    part = _beside(folder, _PART)
    old = _beside(folder, _OLD)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        _sync(part)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        part.rename(folder)
        _sync_entry(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        recover(folder)


def recover(folder: Path) -> None:
    """Delete what an end in the middle of `whole_folder` has left, and give the older content its name back."""
    old = _beside(folder, _OLD)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for rest in (_beside(folder, _PART), old):
        shutil.rmtree(rest, ignore_errors=True)


def recover_all(parent: Path) -> None:
    """`recover` each folder in another one."""
    if parent.is_dir():
        for entry in sorted(parent.iterdir()):
            name = entry.name
            for ending in (_PART, _OLD):
                if name.startswith(".") and name.endswith(ending):
                    recover(parent / name.removeprefix(".").removesuffix(ending))


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}{ending}")


def _sync(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_entry(Path(parent))


def _sync_entry(folder: Path) -> None:
    """Let the names in a folder reach the disk; some systems cannot open folders, and need not."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
