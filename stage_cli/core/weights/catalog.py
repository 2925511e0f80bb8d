"""The models that have a name, and the folder of the user's own ones. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MUSICGEN_LICENCE = "CC-BY-NC-4.0 (no commercial use)"


@dataclass(frozen=True)
class CatalogEntry:
    """A model that can be pulled by a short name.

    Attributes:
        name: what users type.
        repository: Hub id.
        parameters: of the language model, in millions.
        licence: of the weights.
        summary: one line for the list.
    """

    name: str
    repository: str
    parameters: int
    licence: str
    summary: str


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        "musicgen-small", "facebook/musicgen-small", 420, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
    CatalogEntry(
        "musicgen-medium", "facebook/musicgen-medium", 1840, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
    CatalogEntry(
        "musicgen-large", "facebook/musicgen-large", 3220, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
)


def models_folder() -> Path:
    """Return where `stage models import` puts models: `$STAGE_MODELS`, else a folder of the user's data directory."""
    if folder := os.environ.get("STAGE_MODELS"):
        return Path(folder).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "stage-cli" / "models"


def local_models() -> list[Path]:
    """List the model directories in the models folder, by name."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / "config.json").is_file() and path.name[0] != ".")
