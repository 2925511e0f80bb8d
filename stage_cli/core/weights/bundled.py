"""The models that the package carries: where they lie, and how they are made of trained ones.

`assets/codec` is a codec that all of them share, `assets/<stem>` one model each (docs/bundled-models.md).
"""

from __future__ import annotations

from pathlib import Path

BUNDLED_PREFIX = "bundled-"
ASSETS = Path(__file__).parents[2] / "assets"


def bundled_stems() -> tuple[str, ...]:
    """Return the stems that a bundled model writes, by name."""
    if not ASSETS.is_dir():
        return ()
    found = (path.parent.name for path in ASSETS.glob("*/config.json"))
    return tuple(sorted(name for name in found if name != "codec"))


def bundled_name(stem: str) -> str | None:
    """Return what `--model` calls the bundled model of a stem; None if there is none."""
    return f"{BUNDLED_PREFIX}{stem}" if stem in bundled_stems() else None


def bundled_directory(name: str) -> Path | None:
    """Return the directory of `bundled-drums`, `bundled-codec`, …; None for any other name."""
    kind = name.removeprefix(BUNDLED_PREFIX)
    if kind == name or kind not in (*bundled_stems(), "codec"):
        return None
    return ASSETS / kind if (ASSETS / kind).is_dir() else None
