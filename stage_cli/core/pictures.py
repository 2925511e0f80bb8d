"""Pictures as files: whole, or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stage_cli.core.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Write a figure, whole or not at all.

    Raises:
        StageError: it cannot be written.
    """
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=dpi))
