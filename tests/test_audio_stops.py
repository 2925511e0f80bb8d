"""Ctrl-C and a batch system's stop while libsndfile works: none is lost, none is raised in its midst."""

from __future__ import annotations

import gc
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import soundfile

from stage_cli.core.audio.reading import read_blocks
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.files import GuardedFile


@pytest.fixture
def stops() -> Iterator[None]:
    """SIGTERM ends the program by an exception, as `cli.app.main` has it."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_stop_waits_for_the_end_of_the_block(stops: None, number: int, raised: type[BaseException]) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    guard = GuardedFile(io.BytesIO())
    reached = False
    with pytest.raises(raised), guard:  # noqa: PT012
        signal.raise_signal(number)
        reached = True
    assert reached
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    with guard:  # it is told once
        pass


def test_a_signal_that_is_ignored_stays_so(stops: None) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with GuardedFile(io.BytesIO()):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_no_handler_is_touched() -> None:
    seen = []

    def work() -> None:
        with GuardedFile(io.BytesIO()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("work", ["read", "write"])
def test_no_ctrl_c_is_lost(tmp_path: Path, work: str) -> None:
    """Libsndfile is at work nearly all of the time: most signals arrive in it."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((5 * 44100, 2)).astype(np.float32)
    soundfile.write(tmp_path / "noise.flac", noise, 44100)

    def read() -> None:
        for _ in read_blocks(tmp_path / "noise.flac"):
            pass

    def write() -> None:
        with AtomicAudioWriter(tmp_path / "copy.flac", 44100, 2, "flac", overwrite=True) as writer:
            writer.write(noise)

    for number in range(10):
        timer = threading.Timer(0.005 + 0.003 * number, os.kill, (os.getpid(), signal.SIGINT))
        deadline = time.monotonic() + 10
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            timer.start()
            while time.monotonic() < deadline:
                {"read": read, "write": write}[work]()
        timer.join()
        assert list(tmp_path.glob("*.part")) == []


def test_a_ctrl_c_that_comes_as_the_file_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, and nobody holds it yet."""
    made = Path.open

    def interrupted(self: Path, *args: object, **named: object) -> None:
        made(self, "xb").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), AtomicAudioWriter(tmp_path / "copy.wav", 44100, 2):
        pass
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_ctrl_c_at_the_very_end_leaves_nothing(tmp_path: Path) -> None:
    """It is raised on the way into `__exit__`, which does nothing at all then."""
    writer = AtomicAudioWriter(tmp_path / "copy.wav", 44100, 2)
    writer.__enter__()
    assert len(list(tmp_path.iterdir())) == 1
    del writer
    gc.collect()
    assert list(tmp_path.iterdir()) == []
