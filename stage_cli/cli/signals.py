"""Signals that end the program: what is half-written is deleted on the way, as by an exception.

An exception that a signal's handler raises is lost where Python was in a finalizer, or in a function that a library
written in C had called: both print it, or not even that, and go on. So it is remembered, and raised again at the next
progress that is told.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec

P = ParamSpec("P")

_asked: BaseException | None = None


def listen() -> None:
    """Let SIGTERM and SIGHUP, which a batch system or a closed terminal sends, end the program as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores some, and so do we
            signal.signal(number, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise what a signal asked for, if one has come."""
    if _asked is not None:
        raise _asked


def checked(callback: Callable[P, None]) -> Callable[P, None]:
    """Return the callback with a `check` before it."""

    def called(*arguments: P.args, **named: P.kwargs) -> None:
        check()
        callback(*arguments, **named)

    return called


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    _stop(SystemExit(128 + number))


def _interrupt(*_: object) -> NoReturn:
    _stop(KeyboardInterrupt())


def _stop(error: BaseException) -> NoReturn:
    global _asked
    _asked = error
    raise error
