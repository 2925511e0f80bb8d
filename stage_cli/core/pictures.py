"""Pictures as files: whole, or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stage_cli.core.files import display_name
from stage_cli.errors import StageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure to a temporary name in the same folder, and rename it when it is whole.

    Raises:
        StageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(temporary, format="png", dpi=110)
        temporary.replace(path)
    except OSError as error:
        raise StageError(f"cannot write {display_name(path)}", why=error.strerror or str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)
