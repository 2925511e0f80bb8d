"""What the `config.json` of a codec of our own says, where it lies in a directory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stage_cli.core.codec.kinds import AnyCodecConfig, codec_config_from_dict
from stage_cli.core.model_config import FORMAT_VERSION
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
