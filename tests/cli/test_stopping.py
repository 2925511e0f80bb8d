"""A signal ends the program even where Python loses the exception that its handler raises."""

from __future__ import annotations

import sys

import forked
import pytest

LOST = """
import os, signal
from stage_cli.cli import process
from stage_cli.cli.console import audio_progress, count_progress, phase_progress

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        for _ in range(1000):  # the handler runs in here, and what it raises is lost
            pass

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
process.install_signals()
with audio_progress("song", quiet=True) as audio, count_progress("songs", 1, "songs", quiet=True) as count, \\
        phase_progress("songs", quiet=True) as phase:
    audio("read", 0.0, 1.0)
    Finalized()
    print("lost", flush=True)
    {call}
    print("went on", flush=True)
"""


@pytest.mark.parametrize("call", ["audio('read', 1.0, 1.0)", "count()", "phase('write', 1, 1)"])
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", -2)])
def test_a_lost_exception_is_raised_again(call: str, name: str, code: int) -> None:
    script = LOST.format(signal=name, call=call)
    done = forked.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "lost\n"
    assert done.returncode == code
    assert "Exception ignored in" in done.stderr
