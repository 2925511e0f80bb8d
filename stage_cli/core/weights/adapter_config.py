"""What an adapter's `config.json` says, and where its base lies. Imports no torch, so that listing models is quick.

An adapter is what a LoRA run learns (https://arxiv.org/abs/2106.09685): for some matrices W of its base a product B · A
of low rank, so that the trained matrix is W + alpha / rank · B · A.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stage_cli.core.model_config import StageConfig, read_config
from stage_cli.core.weights.hub import hub_repository, resolve
from stage_cli.errors import UsageError, WeightsError

ADAPTER_TYPE = "stage-adapter"
ADAPTER_VERSION = 1
ADAPTER_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class AdapterConfig:
    """An adapter, and the model that it makes of its base.

    Attributes:
        model: the result's config; its `text_encoder` may be a directory relative to the base's.
        base: a name or Hub id, or the absolute path of a directory.
        base_nearby: that directory as it lies from the adapter's own one; it is found when both were moved together.
        rank: of the products.
        alpha: they count alpha / rank.
        targets: linears of each layer that have one (`attention_qkv`).
    """

    model: StageConfig
    base: str
    base_nearby: str | None
    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        nearby = self.base_nearby is None or isinstance(self.base_nearby, str)
        named = all(isinstance(target, str) for target in self.targets)
        for name, fits, allowed in (
            ("rank", whole and self.rank >= 1, "a whole number ≥ 1"),
            ("alpha", number and math.isfinite(self.alpha), "a number"),
            ("base", isinstance(self.base, str) and bool(self.base), "text"),
            ("base_nearby", nearby, "text or null"),
            ("targets", named and bool(self.targets), "a list of names"),
        ):
            if not fits:
                raise WeightsError(
                    f"{name} = {getattr(self, name)!r} in the adapter's config", why=f"allowed: {allowed}"
                )

    @property
    def scale(self) -> float:
        """How much the products count."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, headed by the format's name and version."""
        return {
            "model_type": ADAPTER_TYPE,
            "format_version": ADAPTER_VERSION,
            "base": self.base,
            "base_nearby": self.base_nearby,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "model": self.model.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Read what `to_dict` wrote.

        Raises:
            WeightsError: another type of model, a newer format, an unknown key, a value that is not allowed.
        """
        kind, version = values.get("model_type"), values.get("format_version")
        if kind != ADAPTER_TYPE:
            raise WeightsError(f"config.json is for a model of type {kind!r}, not {ADAPTER_TYPE!r}")
        if not isinstance(version, int) or version > ADAPTER_VERSION:
            raise WeightsError(
                f"The adapter has format version {version!r}; this stage-cli reads up to {ADAPTER_VERSION}",
                next_step="update stage-cli",
            )
        names = {field.name for field in fields(cls)}
        given: dict[str, Any] = {
            name: value for name, value in values.items() if name not in ("model_type", "format_version")
        }
        for label, wrong in (("has no", names - given.keys()), ("has an unknown key", given.keys() - names)):
            if wrong:
                raise WeightsError(f"The adapter's config.json {label} {min(wrong)!r}")
        if not isinstance(given["model"], dict) or not isinstance(given["targets"], list):
            raise WeightsError("The adapter's config.json has a key of another type", why="model or targets")
        given["model"], given["targets"] = StageConfig.from_dict(given["model"]), tuple(given["targets"])
        return cls(**given)


def read_adapter_config(directory: Path) -> AdapterConfig | None:
    """Read the config of an adapter's directory; None if it holds something else.

    Raises:
        WeightsError: the config cannot be used.
    """
    path = directory / "config.json"
    if not path.exists():
        return None
    values = read_config(path)
    return AdapterConfig.from_dict(values) if values.get("model_type") == ADAPTER_TYPE else None


def name_base(base: str, directory: Path) -> tuple[str, str | None]:
    """Say where a base lies in a way that does not depend on the working directory.

    Args:
        base: as a user gave it: a directory, a name, a Hub id.
        directory: the adapter's.

    Returns:
        `AdapterConfig.base` and `AdapterConfig.base_nearby`.
    """
    path = Path(base).expanduser()
    if not path.is_dir():
        return base, None
    whole = path.resolve()
    try:
        nearby = Path(os.path.relpath(whole, directory.resolve())).as_posix()
    except ValueError:  # another drive
        nearby = None
    return str(whole), nearby


def find_base(config: AdapterConfig, directory: Path, *, offline: bool = False) -> Path:
    """Find the directory of an adapter's base, fetching it if needed.

    Args:
        config: the adapter's.
        directory: the adapter's.
        offline: use only files that are already on this machine.

    Raises:
        WeightsError: the base is not where the adapter says.
        HubError: it cannot be fetched.
    """
    places = [Path(config.base)] if Path(config.base).is_absolute() else []
    if config.base_nearby is not None:
        places.append(directory / config.base_nearby)
    for place in places:
        if place.is_dir():
            return resolve(str(place))
    why = f"no directory at {' or '.join(str(place.absolute()) for place in places)}"
    if not places:
        try:
            return resolve(config.base, offline=offline)
        except UsageError as error:
            why = error.what
    raise WeightsError(
        f"The base of the adapter {directory} is not here: {config.base}",
        why=why,
        next_step=f"put it back, or say where it is: stage models merge {directory} OUT --base DIRECTORY",
    )


def text_encoder_of(config: AdapterConfig, base: Path) -> str | None:
    """Name the text encoder in a way that does not depend on whose directory it is named in.

    Args:
        config: the adapter's.
        base: directory of its base.
    """
    name = config.model.text_encoder
    if name is None or not (base / name).is_dir():
        return name
    repository = hub_repository(config.base) if not Path(config.base).is_absolute() else None
    return repository if name == "." and repository is not None else str((base / name).resolve())
