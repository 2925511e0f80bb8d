"""What there is to know about a model without loading it: for `stage models list` and `show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.model_config import MODEL_TYPE, StageConfig, read_config
from stage_cli.core.weights.catalog import CATALOG, CatalogEntry, local_models
from stage_cli.core.weights.hub import cached_model
from stage_cli.errors import StageError


@dataclass(frozen=True)
class ModelSummary:
    """One line of the list of models.

    Attributes:
        name: what `--model` takes.
        stem: the stem that it writes, or None for a plain MusicGen.
        parameters: of the language model, in millions.
        licence: of the weights.
        where: its directory, or None: it has to be fetched.
        note: what else there is to say.
    """

    name: str
    stem: str | None
    parameters: float
    licence: str
    where: Path | None
    note: str = ""


def list_models() -> list[ModelSummary]:
    """List the user's own models, then those that can be fetched by name. Asks no network."""
    return [_own(path) for path in local_models()] + [_published(entry) for entry in CATALOG]


def missing_offline(config: StageConfig, directory: Path) -> list[str]:
    """List what the model would have to fetch: its text encoder, if that is not on this machine."""
    name = config.text_encoder
    if not config.takes_text or name is None or (directory / name).is_dir() or cached_model(name) is not None:
        return []
    return [f"text encoder {name} (for --description)"]


def _own(path: Path) -> ModelSummary:
    try:
        config = StageConfig.from_dict(read_config(path / "config.json"))
    except StageError as error:
        return ModelSummary(path.name, None, 0.0, "unknown", path, f"cannot be used: {error.what}")
    return ModelSummary(path.name, config.stem, config.lm.parameters / 1e6, config.licence, path)


def _published(entry: CatalogEntry) -> ModelSummary:
    where = cached_model(entry.repository)
    return ModelSummary(entry.name, None, entry.parameters, entry.licence, where, entry.summary)


def is_own_format(directory: Path) -> bool:
    """Tell whether a directory holds a model in our own format."""
    path = directory / "config.json"
    return path.exists() and read_config(path).get("model_type") == MODEL_TYPE
