"""Trains the toy task in a process of its own, for the tests that stop one: `python toy_run.py MODE DIRECTORY TABLES`.

TABLES is JSON: tables of the configuration, "task": arguments of `ToyTask`, and "seconds_per_step"; or "toml": a file
that describes a whole run, of the real task. MODE is "train", "resume", or

- "kills": train, killed again and again at random moments, until it is done;
- "pairs": for each NAME in TABLES train in DIRECTORY/NAME on two processes; they speak in DIRECTORY/NAME.0 and .1.

The last two train in copies of this process: torch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage_cli.core.training.events import Event, Stepped, Validated
from stage_cli.errors import StageError
from training.toy_task import ToyTask, toy_config, train_toy


def run(directory: Path, tables: dict[str, Any], *, resume: bool) -> None:
    """Train, and print a line for each event."""
    tables = dict(tables)
    if "toml" in tables:
        from stage_cli.core.training.run import train
        from stage_cli.core.training.toml import load_config

        train(load_config(tables["toml"], []), offline=True)
        return
    options = tables.pop("task", {})
    seconds = tables.pop("seconds_per_step", 0.0)

    def tell(event: Event) -> None:
        if isinstance(event, Validated | Stepped):
            time.sleep(seconds)
        print(type(event).__name__, getattr(event, "step", ""), flush=True)

    config = toy_config(directory, **tables)
    result, _ = train_toy(config, ToyTask(**options), resume=resume, on_event=tell)
    if result.signal is not None:
        signal.raise_signal(result.signal)


def fork_and_run(directory: Path, tables: dict[str, Any], kill_after: float | None) -> int:
    """Train in a copy of this process, which is killed after some seconds; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            # Writing takes its time, so that many of the kills hit it.
            fsync = os.fsync
            os.fsync = lambda handle: (time.sleep(0.005), fsync(handle))[1]
            run(directory, tables, resume=True)
            os._exit(0)
        except BaseException as error:
            print("failed:", repr(error), flush=True)
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_two_and_run(directory: Path, tables: dict[str, Any]) -> list[int]:
    """Train on two processes, as torchrun starts them; return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            with Path(f"{directory}.{rank}").open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="127.0.0.1")
            try:
                run(directory, tables, resume=False)
            except StageError as error:
                print("error:", error, flush=True)
                os._exit(error.exit_code)
            except BaseException:
                traceback.print_exc()
                os._exit(99)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    mode, directory, tables = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if mode in ("train", "resume"):
        try:
            run(directory, tables, resume=mode == "resume")
        except StageError as error:
            print("error:", error, file=sys.stderr)
            sys.exit(error.exit_code)
        return
    if mode == "pairs":
        import accelerate  # noqa: F401 - once, here
        import torch._dynamo
        import torch.distributed.fsdp  # noqa: F401

        ends = {name: fork_two_and_run(directory / name, one) for name, one in tables.items()}
        (directory / "ends.json").write_text(json.dumps(ends))
        return
    chance, kills = random.Random(tables.pop("seed", 0)), tables.pop("kills")
    run(directory.with_name(f"{directory.name}-whole"), tables, resume=False)  # also imports everything, once
    for _ in range(kills):
        assert fork_and_run(directory, tables, chance.uniform(0.0, 1.0)) in (0, -signal.SIGKILL)
    assert fork_and_run(directory, tables, None) == 0


if __name__ == "__main__":
    main()
