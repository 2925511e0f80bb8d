"""Replaces a folder in copies of this process, each killed at the next system call; prints what is there afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage_cli.core.files import recover_all, whole_folder

CALLS = ("fsync", "rename", "mkdir", "rmdir", "unlink")


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as part:
        for name in ("a", "b"):
            (part / name).write_text(text)


def killed_at(number: int) -> None:
    made = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def main() -> None:
    parent = Path(sys.argv[1])
    folder = parent / "folder"
    number, status = 0, -1
    while status != 0:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, "old")
        child = os.fork()
        if child == 0:
            killed_at(number)
            write(folder, "new")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        recover_all(parent)
        assert [path.name for path in parent.iterdir()] == ["folder"]
        contents = {path.read_text() for path in folder.iterdir()}
        assert len(contents) == 1
        assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
        print(number, contents.pop())


if __name__ == "__main__":
    main()
