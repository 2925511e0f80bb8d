"""What the files of a validation's demos are called, for those who write them and those who show them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DEMOS_FOLDER = "demos"
AUDIO_PARTS: tuple[str, ...] = ("context", "generated", "mix", "target")
"""The audio of a demo: what was given, what was written, both together, and what the song really has there."""

UNCHANGING_PARTS = frozenset({"context", "target"})
"""Parts that are the same in every validation, as its items are."""

_NAME = re.compile(r"(\d+)\.(?:(\w+)\.flac|png)")


@dataclass(frozen=True)
class DemoFile:
    """One file of a demo.

    Attributes:
        number: of the demo, from 1.
        part: one of `AUDIO_PARTS`, or "picture".
        path: of the file.
    """

    number: int
    part: str
    path: Path

    @property
    def name(self) -> str:
        """What it is called where all demos are shown together."""
        return f"demos/{self.number:02d}/{self.part}"


def demo_folder(run: Path, step: int) -> Path:
    """Return the folder for the demos of a step."""
    return run / DEMOS_FOLDER / f"step-{step:08d}"


def demo_path(folder: Path, number: int, part: str) -> Path:
    """Return the path of one file of a demo."""
    return folder / (f"{number:02d}.png" if part == "picture" else f"{number:02d}.{part}.flac")


def demo_files(paths: Iterable[Path]) -> list[DemoFile]:
    """Tell what files are, by their names; others are left out."""
    matches = [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [DemoFile(int(match[1]), match[2] or "picture", path) for path, match in matches]
