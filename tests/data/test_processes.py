"""Workers: they leave Ctrl-C to their parent, end with it, and keep nothing alive that is finished."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage_cli.core.machine import available_cores, begin_worker, in_order, worker_pool
from stage_cli.errors import StageError, UsageError

needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def fail(text: str) -> None:
    raise UsageError(text, next_step="another one")


def run(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_cores_are_those_that_are_granted() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


class TestInOrder:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_results_keep_their_order(self, jobs: int) -> None:
        assert list(in_order(math.sqrt, range(12), jobs)) == [math.sqrt(number) for number in range(12)]

    def test_little_is_made_ahead(self) -> None:
        taken = []

        def numbers() -> Iterator[int]:
            for number in range(100):
                taken.append(number)
                yield number

        results = in_order(math.sqrt, numbers(), 2)
        assert next(results) == 0
        assert len(taken) == 3
        assert next(results) == 1
        assert len(taken) == 4
        results.close()

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_an_error_keeps_its_words(self, jobs: int) -> None:
        with pytest.raises(UsageError, match="not this · another one"):
            list(in_order(fail, ["not this"], jobs))

    def test_a_killed_worker(self) -> None:
        with pytest.raises(StageError, match=r"a process of `jobs` was killed .* fewer `jobs`"), worker_pool(2) as pool:
            pool.submit(os.abort).result()

    def test_an_error_in_the_block_ends_the_workers_at_once(self) -> None:
        with pytest.raises(KeyError), worker_pool(1) as pool:  # noqa: PT012
            pool.submit(os.getpid).result()
            pool.submit(time.sleep, 3600)
            raise KeyError


WAITING = """
import os, time
from stage_cli.core.machine import worker_pool
with worker_pool(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    for _ in range(2):
        pool.submit(time.sleep, 120)
    time.sleep(120)
"""
FORKED = """
import multiprocessing, signal, time
from stage_cli.core.machine import begin_worker
signal.signal(signal.SIGTERM, lambda *_: None)  # workers inherit it
context = multiprocessing.get_context("fork")
def work(ready):
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.release()
    time.sleep(120)
ready = context.Semaphore(0)
workers = [context.Process(target=work, args=(ready,)) for _ in range(3)]
for worker in workers: worker.start()
for worker in workers: ready.acquire()
print(*[worker.pid for worker in workers], flush=True)
time.sleep(120)
"""


@needs_proc
@pytest.mark.parametrize("script", [WAITING, FORKED], ids=["pool", "forked"])
def test_workers_end_with_a_parent_that_is_killed(script: str) -> None:
    process = run(script)
    assert process.stdout is not None
    workers = [int(number) for number in process.stdout.readline().split()]
    assert workers
    assert all(is_running(worker) for worker in workers)
    process.kill()
    process.communicate(timeout=30)  # waits until no worker holds stdout open
    deadline = time.monotonic() + 30
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker works on"
        time.sleep(0.02)


def test_a_finished_pool_is_over() -> None:
    script = """
from stage_cli.core.machine import in_order, worker_pool
import math, multiprocessing, os
print(list(in_order(math.sqrt, [4, 9], 2)))
with worker_pool(2) as pool:
    workers = list(pool._processes.values()) if pool.submit(os.getpid).result() else []
print([worker.exitcode for worker in workers], multiprocessing.active_children())
"""
    process = run(script)
    output, errors = process.communicate(timeout=60)
    assert output.splitlines() == ["[2.0, 3.0]", "[0] []"], errors
    assert (process.returncode, errors) == (0, "")


def test_ctrl_c_is_left_to_the_parent() -> None:
    with worker_pool(1) as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert pool.submit(os.getpid).result() == worker


def test_a_data_loader_begins_its_workers_with_it() -> None:
    from torch.utils.data import DataLoader  # here: else each process of the tests above would import torch

    loader = DataLoader(list(range(8)), batch_size=None, num_workers=2, worker_init_fn=begin_worker)
    for _ in range(2):
        assert [int(number) for number in loader] == list(range(8))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, but nobody has asked for its exit code: in a container perhaps nobody will
