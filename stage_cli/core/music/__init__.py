"""What is heard in music: beats, keys, onsets, genres. And which libraries hear it here. Imports no numpy."""

from __future__ import annotations

import importlib.util

TRACKERS: tuple[str, ...] = ("essentia", "beat-this", "librosa")
"""Beat trackers, the first choice first."""


def default_tracker() -> str:
    """Return the first of `TRACKERS` that is installed: essentia and librosa have no wheels for some systems.

    Returns: "essentia" where none is; using it then says what to install.
    """
    return next((name for name in TRACKERS if is_installed(name)), TRACKERS[0])


def key_finder() -> str:
    """Return the library that finds keys: "essentia", or "librosa" where that is not installed."""
    return "librosa" if is_installed("librosa") and not is_installed("essentia") else "essentia"


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    except (ImportError, ValueError):
        return False
