"""The `config.json` of a model, or of a codec, in our own format. Imports no torch, so that showing a model is quick.

Models that were trained on one codec can share its file: their config then names the codec's directory instead of its
sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage_cli.core.codec.config import AnyCodecConfig, codec_config_from_dict
from stage_cli.core.model_config import FORMAT_VERSION, StageConfig, read_config
from stage_cli.errors import WeightsError

CODEC_TYPE = "stage-codec"


def codec_config_values(config: AnyCodecConfig, licence: str) -> dict[str, Any]:
    """Return the content of a codec's `config.json`."""
    return {
        "model_type": CODEC_TYPE,
        "format_version": FORMAT_VERSION,
        "licence": licence,
        "codec": config.to_dict(),
    }


def read_codec_config(values: Mapping[str, Any]) -> AnyCodecConfig:
    """Read what `codec_config_values` wrote.

    Raises:
        WeightsError: a newer format, or keys that are missing or unknown.
    """
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise WeightsError(
            f"The codec has format version {version!r}; this stage-cli reads up to {FORMAT_VERSION}",
            next_step="update stage-cli",
        )
    codec = values.get("codec")
    if not isinstance(codec, Mapping):
        raise WeightsError("config.json has no 'codec'", why="it should hold the codec's sizes")
    return codec_config_from_dict(codec)


# A neighbour, or a folder inside: a model from anywhere names no other place of this machine.
_NEARBY = re.compile(r"(\.\./)?\w[\w.-]*")


def read_own_config(directory: Path, values: Mapping[str, Any] | None = None) -> StageConfig:
    """Read a model's config, with the sizes of the codec that it shares.

    Args:
        directory: the model's.
        values: of its `config.json`, if that was read already.

    Raises:
        WeightsError: it, or the codec's, cannot be used.
    """
    values = read_config(directory / "config.json") if values is None else values
    shared = shared_codec(directory, values)
    if shared is None:
        return StageConfig.from_dict(values)
    found = read_config(shared / "config.json")
    if found.get("model_type") != CODEC_TYPE:
        raise WeightsError(f"{shared} holds no codec, and {directory} needs one")
    return StageConfig.from_dict({**values, "codec": read_codec_config(found).to_dict()})


def shared_codec(directory: Path, values: Mapping[str, Any]) -> Path | None:
    """Return the directory of the codec that a model shares; None if it has its own.

    Raises:
        WeightsError: it names a place that is not beside it or inside it.
    """
    name = values.get("codec")
    if not isinstance(name, str):
        return None
    if _NEARBY.fullmatch(name) is None:
        raise WeightsError(
            f"codec = {name!r} in the config of {directory}", why='it must be a directory beside it, such as "../codec"'
        )
    return directory / name
