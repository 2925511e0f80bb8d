"""The checkpoints of a run: which there are, which is whole, which are kept."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.training.engine.whole_folder import recover_all, whole_folder
from stage_cli.errors import StageError

PROGRESS_FILE = "progress.json"
FORMAT_VERSION = 1

_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The folders `step-00001000` in RUN/checkpoints.

    A checkpoint is written into a hidden folder, which is renamed when all of it has reached the disk; `progress.json`
    lists its files and their sizes. So one that can be seen is whole, unless somebody has changed it.

    Args:
        directory: RUN/checkpoints.
        keep_last: newest ones that are kept.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def folder(self, step: int) -> Path:
        """Return where a step's checkpoint is."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """List the steps with a whole checkpoint, the first one first."""
        if not self.directory.is_dir():
            return []
        found = {int(match[1]): path for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name))}
        return sorted(step for step, path in found.items() if _is_whole(path))

    def clean(self) -> None:
        """Delete what a process that was killed has left half-written."""
        recover_all(self.directory)

    def read(self, step: int) -> dict[str, Any]:
        """Return what `progress.json` says.

        Raises:
            StageError: it was written by a newer version.
        """
        content = json.loads((self.folder(step) / PROGRESS_FILE).read_text(encoding="utf-8"))
        if content["version"] > FORMAT_VERSION:
            raise StageError(
                f"{display_name(self.folder(step))} has format version {content['version']}",
                why=f"this stage-cli reads up to {FORMAT_VERSION}",
                next_step="update stage-cli",
            )
        return content

    @contextmanager
    def writing(self, step: int) -> Generator[tuple[Path, dict[str, Any]]]:
        """Give the folder to fill, and a dictionary to fill that becomes `progress.json`.

        Raises:
            StageError: the disk is full, or the folder cannot be written; earlier checkpoints are as they were.
        """
        try:
            with whole_folder(self.folder(step)) as part:
                content: dict[str, Any] = {"version": FORMAT_VERSION}
                yield part, content
                content["files"] = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
                text = json.dumps(content, indent=1) + "\n"
                (part / PROGRESS_FILE).write_text(text, encoding="utf-8")
        except OSError as error:
            raise cannot_save(f"the checkpoint of step {step}", self.directory, error) from None

    def prune(self, best: int | None) -> None:
        """Delete all but the newest ones and the best."""
        steps = self.steps()
        for step in steps[: -self.keep_last]:
            if step != best:
                # Under another name first: a checkpoint that is half deleted is not to be seen.
                hidden = self.directory / f".{self.folder(step).name}.part"
                try:
                    self.folder(step).rename(hidden)
                except OSError:
                    continue
                shutil.rmtree(hidden, ignore_errors=True)


def cannot_save(what: str, directory: Path, error: OSError) -> StageError:
    """Make the error for something of a run that cannot be written."""
    return StageError(
        f"cannot write {what} to {display_name(directory)}",
        why=error.strerror or str(error),
        next_step="free some space, then go on from the last whole checkpoint with --resume",
    )


def _is_whole(folder: Path) -> bool:
    try:
        content = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        files: Mapping[str, int] = content["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
