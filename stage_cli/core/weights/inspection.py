"""What there is to know about a model without loading it: for `stage models list` and `show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.model_config import MODEL_TYPE, StageConfig, read_config
from stage_cli.core.weights.adapter_config import ADAPTER_FILE, AdapterConfig, find_base, read_adapter_config
from stage_cli.core.weights.hub import (
    ASSETS,
    BUNDLED_PREFIX,
    CATALOG,
    HUB_ID,
    CatalogEntry,
    bundled_stems,
    cached_model,
    hub_repository,
    local_models,
)
from stage_cli.core.weights.own_format import read_own_config
from stage_cli.errors import StageError

_BUNDLED = "comes with stage-cli: small, trained on synthetic songs"


@dataclass(frozen=True)
class ModelSummary:
    """One line of the list of models.

    Attributes:
        name: what `model` takes.
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
    """List the bundled models, the user's own, then those that can be fetched by name. Asks no network."""
    bundled = [_own(ASSETS / stem, name=f"{BUNDLED_PREFIX}{stem}", note=_BUNDLED) for stem in bundled_stems()]
    return bundled + [_own(path) for path in local_models()] + [_published(entry) for entry in CATALOG]


def missing_offline(config: StageConfig, directory: Path) -> list[str]:
    """List what the model would have to fetch: its text encoder, if that is not on this machine."""
    name = config.text_encoder
    if not config.takes_text or name is None or (directory / name).is_dir():
        return []
    match = HUB_ID.fullmatch(hub_repository(name) or "")
    if match is not None and cached_model(match["repository"], match["revision"]) is not None:
        return []
    return [f"text encoder {name} (for `description`)"]


def adapter_missing_offline(adapter: AdapterConfig, directory: Path) -> list[str]:
    """List what an adapter would have to fetch, or does not find: its base, and the text encoder."""
    try:
        base = find_base(adapter, directory, offline=True)
    except StageError:
        return [f"base {adapter.base}"]
    return missing_offline(adapter.model, base)


def adapter_size(directory: Path) -> float:
    """Return the size of an adapter's tensors in MB; 0 if they are not there."""
    path = directory / ADAPTER_FILE
    return path.stat().st_size / 1e6 if path.exists() else 0.0


def _own(path: Path, *, name: str = "", note: str = "") -> ModelSummary:
    name = name or path.name
    try:
        if (adapter := read_adapter_config(path)) is not None:
            config = adapter.model
            note = f"adapter of rank {adapter.rank}, {adapter_size(path):.1f} MB, for {adapter.base}"
        else:
            config = read_own_config(path)
    except StageError as error:
        return ModelSummary(name, None, 0.0, "unknown", path, f"cannot be used: {error.what}")
    return ModelSummary(name, config.stem, config.lm.parameters / 1e6, config.licence, path, note)


def _published(entry: CatalogEntry) -> ModelSummary:
    where = cached_model(entry.repository)
    return ModelSummary(entry.name, None, entry.parameters, entry.licence, where, entry.summary)


def own_config(directory: Path) -> StageConfig | AdapterConfig | None:
    """Read the config of a model or an adapter in our own format; None if the directory holds something else."""
    path = directory / "config.json"
    if not path.exists():
        return None
    values = read_config(path)
    return (
        read_own_config(directory, values) if values.get("model_type") == MODEL_TYPE else read_adapter_config(directory)
    )
