"""Python processes that start in milliseconds: forked from one that has imported torch and the package.

`Popen` and `run` take a command that starts with `sys.executable`, as those of `subprocess` do, and behave alike: the
process has its own arguments, folder, environment, streams, signals and exit code, and its end is the interpreter's.
What differs: variables that a library reads while it is imported have been read already, and so have the locale and
the encoding of the streams. Tests of those, of what is imported and of memory start a process of their own.

Where there is no `fork` or no `pidfd`, both are those of `subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

SERVER = Path(__file__).with_name("fork_server.py")
_LONGEST_REQUEST = 1 << 17
_server: tuple[socket.socket, subprocess.Popen[bytes]] | None = None


def _connection() -> socket.socket:
    """The server's socket; the server is started by the first call, and ends with this process."""
    global _server
    if _server is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        _server = ours, process
        atexit.register(_stop)
    return _server[0]


def _stop() -> None:
    assert _server is not None
    _server[0].close()
    _server[1].wait()


class ForkedProcess:
    """What of `subprocess.Popen` a test needs."""

    def __init__(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        start_new_session: bool = False,
    ) -> None:
        self.args = [os.fspath(part) for part in args]
        assert self.args[0] == sys.executable, "only Python is forked"
        self.returncode: int | None = None
        self._text = text
        theirs: list[int] = []
        self.stdin = self._stream(0, stdin, theirs)
        self.stdout = self._stream(1, stdout, theirs)
        self.stderr = self.stdout if stderr == subprocess.STDOUT else None
        if stderr == subprocess.STDOUT:
            theirs.append(os.dup(theirs[1]))
        else:
            self.stderr = self._stream(2, stderr, theirs)
        self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "arguments": self.args[1:],
            "folder": os.fspath(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "new_session": start_new_session,
        }
        connection = _connection()
        socket.send_fds(connection, [json.dumps(request).encode()], [status.fileno(), *theirs])
        for number in theirs:
            os.close(number)
        status.close()
        self.pid = int(self._status.recv(16))

    def _stream(self, number: int, wanted: int | IO[Any] | None, theirs: list[int]) -> IO[Any] | None:
        """Append the process's end of a stream; return ours, where it is a pipe."""
        if wanted == subprocess.PIPE:
            reader, writer = os.pipe()
            theirs.append(reader if number == 0 else writer)
            ours = writer if number == 0 else reader
            mode = "w" if number == 0 else "r"
            return os.fdopen(ours, mode, encoding="utf-8") if self._text else os.fdopen(ours, mode + "b")
        if wanted == subprocess.DEVNULL:
            theirs.append(os.open(os.devnull, os.O_RDWR))
        elif wanted is None:
            theirs.append(os.dup(number))
        else:
            theirs.append(os.dup(wanted if isinstance(wanted, int) else wanted.fileno()))
        return None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                told = self._status.recv(16)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            assert told, "the server of processes has ended"
            self.returncode = int(told)
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read both streams to their ends and wait."""
        if self.stdin is not None:
            self.stdin.close()
        read: dict[str, Any] = {}

        def drain(name: str, stream: IO[Any]) -> None:
            read[name] = stream.read()
            stream.close()

        streams = {"stdout": self.stdout, "stderr": self.stderr}
        open_streams = {name: stream for name, stream in streams.items() if stream is not None and not stream.closed}
        threads = [threading.Thread(target=drain, args=item, daemon=True) for item in open_streams.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        empty = "" if self._text else b""
        return tuple(None if stream is None else read.get(name, empty) for name, stream in streams.items())

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def run_forked(
    args: Sequence[str | os.PathLike[str]],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = ForkedProcess(args, **options)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(process.args, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


if hasattr(os, "pidfd_open") and hasattr(os, "fork"):
    Popen, run = ForkedProcess, run_forked
else:
    Popen, run = subprocess.Popen, subprocess.run
