"""Which codec a config describes. Imports torch only where a codec is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.spectral_config import SpectralConfig
from stage_cli.errors import WeightsError

if TYPE_CHECKING:
    from stage_cli.core.codec.codec import Codec

AnyCodecConfig = CodecConfig | SpectralConfig

ENCODEC = "encodec"


def codec_config_from_dict(values: Mapping[str, Any]) -> AnyCodecConfig:
    """Read what a codec config's `to_dict` wrote; without a kind it is an EnCodec's.

    Raises:
        WeightsError: an unknown kind or key, or a value that is not allowed.
    """
    if not isinstance(values, Mapping):
        raise WeightsError(f"codec = {values!r} in the model's config.json", why="it must be a JSON object")
    kind = values.get("kind", ENCODEC)
    if kind == SpectralConfig.KIND:
        return SpectralConfig.from_dict(values)
    if kind != ENCODEC:
        raise WeightsError(
            f"The codec is of an unknown kind {kind!r}",
            why=f"known are: {ENCODEC}, {SpectralConfig.KIND}",
            next_step="update stage-cli",
        )
    return CodecConfig.from_dict({key: value for key, value in values.items() if key != "kind"})


def make_codec(config: AnyCodecConfig) -> Codec:
    """Make a codec with untrained weights."""
    if isinstance(config, SpectralConfig):
        from stage_cli.core.codec.spectral import SpectralCodec

        return SpectralCodec(config)
    from stage_cli.core.codec.encodec import Encodec

    return Encodec(config)
