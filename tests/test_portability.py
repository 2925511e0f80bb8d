"""What differs on Windows and macOS, as far as it can be told here: modules that are missing, names, syncs, locks."""

import ast
import errno
import os
import pickle
import sys
from pathlib import Path, PureWindowsPath
from types import ModuleType

import pytest

from stage_cli.core import files, machine
from stage_cli.core.audio.naming import output_path
from stage_cli.core.files import lock_file, whole_file, whole_folder
from stage_cli.core.stems import STEMS
from stage_cli.core.training.record import AUDIO_PARTS, demo_folder, demo_path

PACKAGE = Path(__file__).parents[1] / "stage_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Modules and functions that Windows lacks.
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
POSIX_FUNCTIONS = {
    "setsid", "killpg", "fork", "forkpty", "getuid", "geteuid", "getpgid", "mkfifo", "nice", "statvfs", "uname",
    "sysconf", "wait3", "wait4", "chown", "lchown", "getpgrp", "setpgid",
}  # fmt: skip
GUARDED = {"sched_getaffinity", "getloadavg"}  # each in a branch or a try of `core.machine`
POSIX_SIGNALS = {"SIGHUP", "SIGPIPE", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGCHLD", "SIGTSTP"}


def test_nothing_that_windows_lacks_is_used_without_a_guard():
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tried = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
        for node in ast.walk(tree):
            where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in tried:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [f"{where} {name}" for name in names if name in POSIX_MODULES]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "os" and node.attr in POSIX_FUNCTIONS:
                    found.append(f"{where} os.{node.attr}")
                if node.value.id == "os" and node.attr in GUARDED and path.name != "machine.py":
                    found.append(f"{where} os.{node.attr}")
                if node.value.id == "signal" and node.attr in POSIX_SIGNALS:
                    found.append(f"{where} signal.{node.attr}")
                if node.value.id == "os" and node.attr == "rename":
                    found.append(f"{where} os.rename does not replace on Windows: os.replace")
    assert found == []


def test_text_files_have_their_encoding_named():
    """Else Windows writes them in the code page of its country."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            named = {keyword.arg for keyword in node.keywords}
            if (
                node.func.attr in ("read_text", "write_text")
                and "encoding" not in named
                and not (node.func.attr == "write_text" and len(node.args) > 1)
            ):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []


def test_stop_signals_are_those_that_the_system_has():
    assert set(machine.STOP_SIGNALS) >= {machine.signal.SIGINT, machine.signal.SIGTERM}


@pytest.fixture
def synced(monkeypatch):
    """Like Windows: only what is open for writing can be synced, and folders cannot be opened at all."""
    import fcntl

    names = []
    sync, open_ = os.fsync, os.open

    def strict(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        names.append(handle)
        sync(handle)

    def no_folders(path, flags, *more, **options):
        if Path(os.fsdecode(path)).is_dir() and not options.get("dir_fd"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_(path, flags, *more, **options)

    monkeypatch.setattr(os, "fsync", strict)
    monkeypatch.setattr(files.os, "open", no_folders)
    return names


def test_files_are_synced_as_windows_allows_it(tmp_path, synced):
    with whole_file(tmp_path / "a.txt") as part:
        part.write_text("a", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "a"
    with whole_file(tmp_path / "a.txt") as part:  # one that is there is replaced
        part.write_text("b", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "b"
    assert len(synced) == 2


def test_folders_are_synced_as_windows_allows_it(tmp_path, synced, monkeypatch):
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # it opens folders, where that is possible
    with whole_folder(tmp_path / "step") as part:
        (part / "a").write_bytes(b"a")
        (part / "b").write_bytes(b"b")
    assert (tmp_path / "step/b").read_bytes() == b"b"
    assert len(synced) == 2


class WindowsLocks(ModuleType):
    """Locks on a byte of a file, as Microsoft's C library has them."""

    LK_NBLCK = 2

    def __init__(self):
        super().__init__("msvcrt")
        self.held = {}

    def locking(self, handle, mode, count):
        assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR)) == (self.LK_NBLCK, 1, 0)
        file = os.fstat(handle).st_ino
        if self.held.setdefault(file, handle) != handle:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_locks_of_windows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", WindowsLocks())
    with (tmp_path / "lock").open("wb+") as one, (tmp_path / "lock").open("rb+") as two:
        assert lock_file(one.fileno())
        assert not lock_file(two.fileno())


def test_a_system_without_locks_keeps_nothing_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with (tmp_path / "lock").open("wb+") as one, (tmp_path / "lock").open("rb+") as two:
        assert lock_file(one.fileno())
        assert lock_file(two.fileno())


def test_memory_and_load_without_the_modules_of_posix(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(machine, "_STATUS", Path("missing"))
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.resident_peak() is None
    assert machine.load_average() is None
    assert machine.available_cores() == os.cpu_count()


def test_written_names_are_names_on_windows(tmp_path):
    written = [output_path(Path("mix.v2.wav"), stem, 3, mixed=True) for stem in STEMS]
    written += [demo_path(demo_folder(Path("run"), 1), 2, part) for part in (*AUDIO_PARTS, "picture")]
    for path in written:
        for name in PureWindowsPath(path).parts:
            assert not PureWindowsPath(name).is_reserved(), name
            assert not set(name) & set('<>:"|?*'), name
            assert not name.endswith((".", " ")), name


def test_settings_travel_to_processes_that_are_started_anew():
    """Windows and macOS do not fork: what a worker gets is pickled."""
    from stage_cli.core.data.config import DataConfig
    from stage_cli.core.data.settings import PrepareSettings
    from stage_cli.core.evaluation.settings import EvaluationConfig

    for settings in (
        DataConfig(("songs",)),
        PrepareSettings(),
        EvaluationConfig(out=Path("report"), models=("model",), metronome_set=True),
    ):
        assert pickle.loads(pickle.dumps(settings)) == settings
