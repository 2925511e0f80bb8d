"""Whole files and folders, locks, names in messages, and files that libsndfile reads and writes through Python.

libsndfile reports a full disk as "System error", may not report it at all when it happens on closing, and a
Ctrl-C that arrives while it works would be raised in one of its callbacks, printed there and forgotten: `GuardedFile`.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from stage_cli.core.machine import STOP_SIGNALS
from stage_cli.errors import StageError


def display_name(path: Path) -> str:
    """Return a path as an error message shows it: line breaks and other control characters are escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def shown(value: object) -> str:
    """Return a setting as a message shows it: what is left out is "nothing"."""
    return "nothing" if value is None else str(value)


class GuardedFile:
    """A binary file for `soundfile.SoundFile` that keeps the first exception that its callbacks meet.

    After that exception every read and write does nothing. `with guarded:` goes around calls of libsndfile, and
    raises the exception in place of what libsndfile made of it. Signals that end a program wait for the end of the
    block: their handlers raise exceptions wherever Python is at work, which then is a callback.

    Args:
        file: open, at position 0; whoever opened it closes it.
        hide_length: once libsndfile itself has learned the length, tell nobody else. mpg123, which then cannot
            guess an MP3's duration from its size, counts its frames instead.
        overlay: bytes that are seen in place of the file's own, by position.
    """

    def __init__(
        self, file: io.BufferedIOBase, *, hide_length: bool = False, overlay: Mapping[int, bytes] | None = None
    ):
        self._file = file
        self._hide_length = hide_length
        self._length_asked = False
        self._overlay = overlay or {}
        self._error: BaseException | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._stop: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> GuardedFile:
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # no other one runs handlers
            try:
                for number in STOP_SIGNALS:
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self._handlers[number] = handler
                        signal.signal(number, self._hold)
            except BaseException:
                self._restore_handlers()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._restore_handlers()
        finally:
            self._restore_handlers()  # again: a signal in the midst of the first time must not leave any behind
        if self._stop is not None:
            (number, frame), self._stop = self._stop, None
            self._handlers[number](number, frame)
        if self._error is not None:
            raise self._error

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._stop = self._stop or (number, frame)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from the file; return the number of bytes."""
        if self._error is not None:
            return 0
        try:
            position = self._file.tell()
            count = self._file.readinto(buffer)
            for at, replacement in self._overlay.items():
                first, last = max(at, position), min(at + len(replacement), position + count)
                if first < last:
                    buffer[first - position : last - position] = replacement[first - at : last - at]
        except BaseException as error:
            self._error = error
            return 0
        return count

    def write(self, data: bytes) -> int:
        """Write all the data; return the number of bytes, 0 after a failure."""
        if self._error is not None:
            return 0
        try:
            return self._file.write(data)
        except BaseException as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move in the file; return the new position in bytes."""
        try:
            if whence == os.SEEK_END and self._hide_length:
                if self._length_asked:
                    return self._file.tell()
                self._length_asked = True
            return self._file.seek(offset, whence)
        except BaseException as error:
            self._error = self._error or error
            return -1

    def tell(self) -> int:
        """Return the position in the file in bytes."""
        try:
            return self._file.tell()
        except BaseException as error:
            self._error = self._error or error
            return -1


def lock_file(handle: int) -> bool:
    """Lock an open file for this process alone, without waiting.

    Args:
        handle: the file's descriptor.

    Returns:
        False if another process holds it; True also where the system or the file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lock_on_windows(handle: int) -> bool:
    try:
        msvcrt: Any = importlib.import_module("msvcrt")
    except ImportError:
        return True
    os.lseek(handle, 0, os.SEEK_SET)  # the lock is on one byte, which need not exist
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EDEADLK)
    return True


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Fill a hidden file beside `path`; when all of it has reached the disk it takes that name.

    Missing folders are made; a file that has the name already is replaced.

    Raises:
        OSError: it cannot be written; then nothing has changed, and nothing half-written is left.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # what went wrong is being raised already
            part.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill the hidden file of `whole_file`.

    Raises:
        StageError: the file cannot be written.
    """
    try:
        with whole_file(path) as part:
            write(part)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file, line ends as they are, whole or not at all; return its path.

    Raises:
        StageError: it cannot be written.
    """
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))
    return path


def cannot_write(path: Path, error: OSError) -> StageError:
    """Make the error for a file that cannot be written."""
    return StageError(
        f"cannot write {display_name(path)}",
        why=error.strerror or str(error),
        next_step="free some space, or choose another folder",
    )


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
        sync_folder(folder.parent)
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
            with (Path(parent) / name).open("rb+") as file:  # as above
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system lets folders be synchronised (not Windows)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
