"""The one place that imports essentia (AGPL-3.0, https://essentia.upf.edu)."""

from __future__ import annotations

import functools
from typing import Any

from stage_cli.errors import StageError


@functools.cache
def essentia_algorithms() -> Any:
    """Return essentia's standard algorithms, without its messages on stdout and stderr.

    Raises:
        StageError: essentia is not installed.
    """
    try:
        import essentia
    except ImportError as error:
        raise StageError(
            "beats and keys need essentia, which is not installed",
            why=str(error),
            next_step="install stage-cli again, or essentia alone: pip install --pre essentia",
        ) from None
    essentia.log.infoActive = False
    essentia.log.warningActive = False
    import essentia.standard

    return essentia.standard
