"""What holds for the whole process: signals, threads, the garbage collector, streams, and how it ends.

All of it is set here, at the entrance. The core sets none of it.

Signals that end the program delete what is half-written on the way, as an exception does. An exception that a signal's
handler raises is lost where Python was in a finalizer, or in a function that a library written in C had called: both
print it, or not even that, and go on. So it is remembered, and raised again at the next progress that is told.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, ParamSpec

from stage_cli.core.machine import STOP_SIGNALS

P = ParamSpec("P")

_requested: BaseException | None = None


def begin() -> None:
    """Prepare the process; the first call in it, before torch is imported."""
    # Threads that spin for long while they wait for each other take the processor from what they wait for as soon as
    # anything else runs beside them; those that never spin are slower on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    install_signals()
    # A name may hold what the terminal's encoding does not: better an escape than no answer.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def install_signals() -> None:
    """Let what a batch system or a closed terminal sends (SIGTERM, SIGHUP, SIGBREAK) end the program as Ctrl-C does."""
    for number in STOP_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores some, and so do we
            signal.signal(number, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise what a signal has requested, if one has come."""
    if _requested is not None:
        raise _requested


def checked(callback: Callable[P, None]) -> Callable[P, None]:
    """Return the callback with a `check` before it."""

    def called(*arguments: P.args, **named: P.kwargs) -> None:
        check()
        callback(*arguments, **named)

    return called


@contextmanager
def importing() -> Generator[None]:
    """Import torch in here: it makes hundreds of thousands of objects, all of which stay.

    Looking through them for rubbish, again and again, is a tenth of the time that the import takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave_quickly(code: Any) -> None:
    """End the process, if that is safe, without taking torch down module by module: that takes half a second."""
    if "torch" not in sys.modules or not isinstance(code, int | None) or threading.active_count() > 1:
        return
    # What was registered to be done at the end is done; only then nothing is left but memory.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return  # closed, or nobody reads it: Python says what there is to say
    os._exit(code or 0)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    _stop(SystemExit(128 + number))


def _interrupt(*_: object) -> NoReturn:
    _stop(KeyboardInterrupt())


def _stop(error: BaseException) -> NoReturn:
    global _requested
    _requested = error
    raise error
