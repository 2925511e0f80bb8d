"""The machine that this runs on: its processor, its load, and the memory that a process has taken. Imports no torch.

Processes that work beside this one: none works on without it, and a killed one is told.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from stage_cli.errors import StageError

STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""The signals by which a user, a terminal or a batch system ends a program, where the system knows them."""

_PROCESSOR = Path("/proc/cpuinfo")
_ARITHMETIC = {"avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}
_STATUS = Path("/proc/self/status")


def processor() -> str:
    """Return the processor's name, as its maker calls it where the system knows that, and its widest arithmetic.

    Machines of a cloud bear one name and compute at very different speeds: "AMD EPYC (AVX2)".
    """
    try:
        text = _PROCESSOR.read_text(encoding="utf-8")
    except OSError:
        text = ""
    if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
        flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
        known = flags[1].split() if flags else []
        widest = next((f" ({name})" for flag, name in _ARITHMETIC.items() if flag in known), "")
        return match[1].strip() + widest
    return _told_by_macos() or platform.processor() or platform.machine()


def load_average() -> tuple[float, float, float] | None:
    """Return how many threads were at work or waited for a core, mean of 1, 5 and 15 minutes; None: not known here."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):  # Windows has none
        return None


def resident_peak() -> int | None:
    """Return the most bytes of memory that this process has held so far; None: not known here."""
    # Not getrusage where there is something else: a process that Linux starts takes its parent's peak for its own.
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        if match is not None:
            return 1024 * int(match[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _told_by_macos() -> str:
    if sys.platform != "darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def available_cores() -> int:
    """Return how many processor cores this process may use (batch systems grant fewer than there are)."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin_worker(number: int = 0) -> None:
    """Prepare a process that works for another one: the first call in it.

    Ctrl-C, which reaches every process of a terminal, is left to the parent process, which decides. When the parent is
    gone, whatever has killed it, the worker ends at once. A pool that is finished is not kept alive.

    Args:
        number: not used; a DataLoader's `worker_init_fn` is given the worker's number.
    """
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A forked worker has inherited its parent's handler, which would wait for the end of whatever C is at work.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, whatever signals it ignores."""
    # A daemon, as nobody should wait for a thread that waits for the end of the parent.
    threading.Thread(target=_wait_for_parent, name="end-with-parent", daemon=True).start()


@contextmanager
def worker_pool(jobs: int) -> Generator[ProcessPoolExecutor]:
    """Run processes that begin with `begin_worker`, until what is in the `with` block is done.

    After an exception in the block, a Ctrl-C included, they are ended at once, in the middle of their work.

    Raises:
        StageError: a process was killed.
    """
    # Not forked: a copy of a process with threads (a progress bar is one) may hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker)
    before = set(multiprocessing.active_children())
    try:
        yield executor
    except BrokenProcessPool:
        raise StageError(
            "a process of `jobs` was killed",
            why="perhaps it ran out of memory",
            next_step="run the same command again with fewer `jobs`: it goes on where it stopped",
        ) from None
    except BaseException:
        # Not by an exception in them: one that arrives in a callback of libsndfile would be lost.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def in_order(function: Callable[[_Given], _Made], inputs: Iterable[_Given], jobs: int) -> Generator[_Made]:
    """Yield what a function makes of each input, in order; a few results at most are made before they are asked for.

    Args:
        function: of a module, so that another process can import it.
        inputs: for it.
        jobs: processes; 1 works in this one.

    Raises:
        StageError: a process was killed. And whatever the function raises.
    """
    if jobs <= 1:
        yield from map(function, inputs)
        return
    remaining = iter(inputs)
    with worker_pool(jobs) as pool:
        pending: deque[Future[_Made]] = deque(pool.submit(function, value) for value in islice(remaining, jobs + 1))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(function, value) for value in islice(remaining, 1))


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
