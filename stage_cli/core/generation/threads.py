"""How many threads a decode step gets on a CPU: all of them, or one where they only wait for each other.

A step is a hundred small products with a barrier after each. On an idle machine all threads together are fastest;
beside one other busy program a barrier waits for a whole time slice, and a step takes ten times as long as on one
thread (docs/dev/benchmarks.md). So both are measured now and then while decoding, and the faster one is taken.

That is for int8 models: their kernels give the same bits on any number of threads, so that a seed still fixes the
tokens. Others get all threads. Where a step is so small that more of them gain little, there is one always.

torch has one number of threads for the whole process. This is the only module of the core that changes it, around the
steps of a window, and puts it back whenever other work gets its turn.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType

import torch

from stage_cli.core.lm.transformer import LanguageModel

PROBE_STEPS = 2
PERIOD_STEPS = 40
# A step this many times slower than the other choice's last ones ends the period at once.
TOO_SLOW = 1.5
# Weights times rows up to which there is one thread. Two rows of a model of 7 million weights gain nothing by a second
# one (docs/dev/benchmarks.md), and what eight rows of it gain is lost as soon as something else runs.
SMALL_STEP = 32_000_000


class StepThreads:
    """A context manager around the steps of one window; torch's number of threads is as before when it is left.

    Args:
        lm: whose steps they are; nothing happens unless it is on a CPU, with more than one thread, and int8 or small.
        rows: of the batch.
    """

    def __init__(self, lm: LanguageModel, rows: int) -> None:
        self._all = torch.get_num_threads()
        on_cpu = self._all > 1 and lm.embeddings.device.type == "cpu"
        small = lm.config.parameters * rows <= SMALL_STEP
        self._measures = on_cpu and lm.quantized and not small
        self._active = self._measures or (on_cpu and small)
        self._seconds = {self._all: 0.0, 1: 0.0}
        self._step = 0
        self._began = 0.0
        self._paused = False

    def __enter__(self) -> StepThreads:
        self._began = time.perf_counter()
        if self._active:
            torch.set_num_threads(self._all if self._measures else 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            torch.set_num_threads(self._all)

    def step_done(self) -> None:
        """Take the time of the step that has just ended, and choose the threads of the next one."""
        if not self._measures:
            return
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        if self._paused:
            # Other work has taken time, and the processor's caches: this says nothing of a step.
            self._paused = False
            return
        current = torch.get_num_threads()
        # The first step after a change pays for the change: a probe counts its best one.
        probing, first = self._step < 2 * PROBE_STEPS, self._step % PROBE_STEPS == 0
        self._seconds[current] = seconds if first or not probing else min(seconds, self._seconds[current])
        self._step += 1
        other = 1 if current == self._all else self._all
        if not probing and seconds > TOO_SLOW * self._seconds[other]:
            self._step = 0
        if self._step >= PERIOD_STEPS:
            self._step = 0
        torch.set_num_threads(self._choice())

    @contextmanager
    def paused(self) -> Generator[None]:
        """Give all threads back to other work in the middle of a step; that step's time is not counted."""
        if not self._active:
            yield
            return
        chosen, self._paused = torch.get_num_threads(), True
        torch.set_num_threads(self._all)
        try:
            yield
        finally:
            torch.set_num_threads(chosen)

    def _choice(self) -> int:
        if self._step < PROBE_STEPS:
            return self._all
        if self._step < 2 * PROBE_STEPS:
            return 1
        return min(self._seconds, key=lambda threads: self._seconds[threads])
