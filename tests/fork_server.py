"""The process that those of `forked.py` are forked from: it imports all that they need, and then forks what is asked.

It never runs an operation of torch: threads that OpenMP has started would be missing in a forked process, which then
waits for them for ever.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import socket
import sys
import types
from pathlib import Path
from typing import Any

IMPORTED = ("torch", "scipy.signal", "soundfile", "soxr")
# What nothing may import here: a setting of it is read from the environment while it is imported.
LEFT_TO_EACH = ("huggingface_hub", "transformers", "wandb")
LONGEST_REQUEST = 1 << 17


def main() -> None:
    """Serve until a request's own process returns here, and run that."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    import stage_cli

    for module in pkgutil.walk_packages(stage_cli.__path__, "stage_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    too_early = [name for name in LEFT_TO_EACH if name in sys.modules]
    assert not too_early, f"{too_early} read their settings too early"
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a process with threads cannot be forked"
    gc.collect()
    gc.freeze()
    request = serve(control)
    if request is not None:
        become(request)


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; returns in the forked process with its request, else None when no more can come."""
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is control:
                try:
                    message, numbers, _, _ = socket.recv_fds(control, LONGEST_REQUEST, 4)
                except ConnectionResetError:
                    return None
                if not message:
                    return None
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    control.close()
                    os.close(numbers[0])
                    for number, stream in enumerate(numbers[1:]):
                        os.dup2(stream, number)
                        os.close(stream)
                    return json.loads(message)
                for number in numbers[1:]:
                    os.close(number)
                status = socket.socket(fileno=numbers[0])
                status.sendall(str(pid).encode())
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
            else:
                pid, status = key.data
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError), status:  # nobody waits for it any more
                    status.sendall(str(code).encode())


def become(request: dict[str, Any]) -> None:
    """Be `python ARGUMENTS`."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _output(1, "strict")
    sys.stderr = sys.__stderr__ = _output(2, "backslashreplace")
    how, *arguments = request["arguments"]
    if how == "-m":
        name, *rest = arguments
        sys.argv = [name, *rest]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif how == "-c":
        program, *rest = arguments
        sys.argv = ["-c", *rest]
        sys.path[0] = ""
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), module.__dict__)
    else:
        sys.argv = [how, *arguments]
        sys.path[0] = str(Path(how).absolute().parent)
        runpy.run_path(how, run_name="__main__")


def _output(number: int, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(number, "w", closefd=False)
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=lines)


if __name__ == "__main__":
    main()
