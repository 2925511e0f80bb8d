"""Ctrl-C and SIGTERM: the first one saves, the second one does not wait; and one run to a folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stage_cli.core.training import distributed
from stage_cli.core.training.distributed import StopRequests, locked
from stage_cli.core.training.events import Event, Interrupted, Stepped, Validated
from stage_cli.errors import Cancelled, UsageError
from training.toy_task import ToyTask, ToyValidation, joined, toy_config, toy_process, train_toy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the requests see, as its only entry."""
    now = [100.0]
    monkeypatch.setattr(distributed, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_the_first_signal_is_noted_and_a_later_one_goes_where_it_went_before(clock: list[float]) -> None:
    arrived: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    try:
        with StopRequests() as stops:
            signal.raise_signal(signal.SIGTERM)
            assert (stops.number, arrived) == (signal.SIGTERM, [])
            clock[0] += 0.9  # the same one, by another way
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert (stops.number, arrived) == (signal.SIGTERM, [])
            clock[0] += 0.2
            signal.raise_signal(signal.SIGTERM)
            assert arrived == [signal.SIGTERM]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert arrived == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_of_several_processes_is_patient(clock: list[float]) -> None:
    with StopRequests(patient=True) as stops:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            clock[0] += 10
        assert stops.number == signal.SIGINT


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stops:
            signal.raise_signal(signal.SIGHUP)
            assert stops.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_work_that_can_be_done_again_asks_whether_to_stop() -> None:
    with StopRequests() as stops:
        stops.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Cancelled):
            stops.check()


def test_a_validation_is_abandoned_and_made_up_for(tmp_path: Path) -> None:
    config = toy_config(tmp_path, validate={"every": 4})
    validated: list[int] = []

    def run(*, resume: bool) -> tuple[Any, list[Event]]:
        from stage_cli.core.training.loop import Loop

        def validate(step: int, check: Callable[[], None]) -> ToyValidation:
            validated.append(step)
            if len(validated) == 2:
                signal.raise_signal(signal.SIGINT)
                check()
                pytest.fail("the validation went on")
            return ToyValidation({"validation/loss": 1 / step})

        events: list[Event] = []
        with joined(config.run) as processes:
            loop = Loop(config, ToyTask(), processes, validate=validate, identity={}, on_event=events.append)
            return loop.run(resume=resume), events

    result, events = run(resume=False)
    assert result.signal == signal.SIGINT
    assert events[-1] == Interrupted(8, signal.SIGINT)
    result, events = run(resume=True)
    assert validated == [4, 8, 8, 12]
    assert [event.step for event in events if isinstance(event, Validated)] == [8, 12]


def test_a_process_saves_and_ends_by_its_signal_which_its_workers_survive(tmp_path: Path) -> None:
    tables = {"train": {"steps": 100_000}, "seconds_per_step": 0.01, "loading": {"workers": 1}}
    process = toy_process("train", tmp_path, tables)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("Stepped 3"):
        assert line
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=60)
    last = output.split("\n")[-2]
    assert last.startswith("Interrupted "), output + errors
    step = int(last.split()[1])
    assert (tmp_path / f"checkpoints/step-{step:08d}/progress.json").is_file()
    assert process.returncode == -signal.SIGINT
    assert "Error" not in errors


def test_a_signal_after_bad_steps_saves_nothing_worse(tmp_path: Path) -> None:
    task = ToyTask()

    def change(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            task.dataset.bad = set(range(40))
        if isinstance(event, Stepped) and event.step == 7:
            signal.raise_signal(signal.SIGTERM)

    _, events = train_toy(toy_config(tmp_path), task, on_event=change)
    assert events[-1] == Interrupted(4, signal.SIGTERM)


def test_two_runs_cannot_write_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with (
            pytest.raises(UsageError, match=r"another process is training in .*run · wait for it"),
            locked(tmp_path / "run"),
        ):
            pytest.fail("the lock was taken twice")
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass
