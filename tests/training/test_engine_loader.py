"""Micro-batches from processes of their own: the same ones, and no process that outlives its training."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from stage_cli.core.training.loader import DataOrder, Loader
from stage_cli.errors import StageError
from training.toy_task import PointSet, ToyTask, toy_process

ORDER = DataOrder(11, 4, 2, seed=0)


def test_workers_make_the_same_batches_through_all_epochs() -> None:
    made = {}
    for workers in (0, 2):
        with Loader(PointSet(11), ToyTask.collate, ORDER, workers=workers) as loader:
            made[workers] = list(loader.start(2, 9))
    assert [part for part, _ in made[0]] == [part for step in range(2, 10) for part in ORDER.micro_batches(step)]
    for (one, here), (other, there) in zip(made[0], made[2], strict=True):
        assert one == other
        assert torch.equal(here.x, there.x)
        assert [(item.epoch, item.index) for item in there.items] == list(one.draws)


def test_a_process_gets_its_share() -> None:
    with Loader(PointSet(11), ToyTask.collate, ORDER, process=1, processes=2) as loader:
        assert [part.number for part, _ in loader.start(1, 3)] == [1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_an_item_arrives_as_it_was(workers: int) -> None:
    broken = ORDER.batch(2)[3][1]
    with Loader(PointSet(11, broken=broken), ToyTask.collate, ORDER, workers=workers) as loader:
        batches = loader.start(1, 2)
        for _ in range(3):
            next(batches)
        with pytest.raises(StageError, match=rf"^song-{broken} cannot be read · it is torn · mend it$"):
            next(batches)


def test_nothing_is_drawn_from_torchs_own_generator() -> None:
    before = torch.random.get_rng_state()
    with Loader(PointSet(11), ToyTask.collate, ORDER) as loader:
        next(loader.start(1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def children(process: int) -> list[int]:
    """Ids of a process' children that read data."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == process and b"spawn_main" in command:
            found.append(int(path.name))
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_training_that_is_killed_and_signals_to_all_are_survived(tmp_path: Path) -> None:
    tables = {"loading": {"workers": 2}, "train": {"steps": 100_000}, "seconds_per_step": 0.02}
    process = toy_process("train", tmp_path, tables)
    try:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Stepped 3"):
            assert line, process.stderr and process.stderr.read()
        workers = children(process.pid)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        after = {process.stdout.readline() for _ in range(40)}
        assert "Stepped 15\n" in after  # beyond what was prefetched
        assert children(process.pid) == workers
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
