"""Ctrl-C and SIGTERM while a run goes: the first one is a wish, the next one an order."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from stage_cli.errors import Cancelled

SIGNALS: tuple[int, ...] = tuple(
    int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

_ONE_WISH = 1.0  # seconds


class StopRequests:
    """Notes the first signal, and lets a later one do what it did before. Use it as a context manager.

    What arrives within a second of the first one is the same wish: terminals and batch systems signal all processes,
    and programs that start others pass their own signals on. Signals that are ignored (`nohup`) stay ignored. Outside
    the main thread nothing is noted: Python allows it only there.

    Args:
        patient: only ever note signals, for processes whose launcher (`torchrun`) kills them if they do not end.

    Attributes:
        number: of the first signal, or None.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.number: int | None = None
        self._patient = patient
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """End work that can be done again, if somebody has asked to stop.

        An exception that the signal itself raises could come in the middle of anything: of an import, say, which leaves
        half a module behind.

        Raises:
            Cancelled: somebody has.
        """
        if self.number is not None:
            raise Cancelled

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number is None:
            self.number, self._noted = number, time.monotonic()
        elif not self._patient and time.monotonic() - self._noted > _ONE_WISH:
            signal.signal(number, self._before.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
