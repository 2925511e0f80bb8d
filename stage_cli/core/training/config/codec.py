"""Training a codec instead of a language model: the tables `[codec]` and `[codec.shape]` of a run's TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stage_cli.core.codec.kinds import AnyCodecConfig, codec_config_from_dict
from stage_cli.core.codec.spectral_config import SpectralConfig
from stage_cli.core.training.config.checks import check_number, check_text, check_whole
from stage_cli.errors import UsageError, WeightsError


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a codec is trained: the `[codec]` table.

    Attributes:
        base: a codec to go on from: its encoder and its codebooks stay as they are, and only the decoder learns, so
            that models which were trained on it go on to work. "" starts from scratch.
        shape: the codec's sizes, the table `[codec.shape]`; its "kind" is "spectral" or "encodec".
        crop_seconds: contexts and targets of the data set are cut into crops of this length.
        unquantized_steps: forward passes before the quantizer joins.
        mel_weight: of the loss on mel spectra.
        spectrum_weight: of the loss on magnitudes.
        phase_weight: of the loss on compressed complex spectra.
        level_weight: of the loss on the energy of mel bands over 0.1 s.
        pitch_weight: of the loss on semitones under long windows.
        tone_weight: of the loss on the amplitudes of a spectral codec's tones.
        commitment_weight: of the distance of latents from their codes.
        quietest_gain: dB; each crop is turned down by a random amount between this and 0.
        codebook_decay: of the codebooks' moving averages, a forward pass.
        licence: of the result.

    Raises:
        UsageError: a value is not allowed; the error names its key.
    """

    shape: AnyCodecConfig = field(default_factory=SpectralConfig)
    base: str = ""
    crop_seconds: float = 1.6
    unquantized_steps: int = 150
    mel_weight: float = 10.0
    spectrum_weight: float = 1.0
    phase_weight: float = 1.0
    level_weight: float = 0.0
    pitch_weight: float = 0.0
    tone_weight: float = 0.0
    commitment_weight: float = 1.0
    quietest_gain: float = -12.0
    codebook_decay: float = 0.97
    licence: str = "unknown"

    def __post_init__(self) -> None:
        check_text("codec.base", self.base)
        check_number("codec.crop_seconds", self.crop_seconds, 0, 60, above=True)
        check_whole("codec.unquantized_steps", self.unquantized_steps, 0)
        for loss in ("mel", "spectrum", "phase", "level", "pitch", "tone", "commitment"):
            check_number(f"codec.{loss}_weight", getattr(self, f"{loss}_weight"), 0, 1e6)
        check_number("codec.quietest_gain", self.quietest_gain, -60, 0)
        check_number("codec.codebook_decay", self.codebook_decay, 0, 1, below=True)
        check_text("codec.licence", self.licence)


def read_shape(values: Mapping[str, Any]) -> AnyCodecConfig:
    """Read the table `[codec.shape]`.

    Raises:
        UsageError: an unknown key, or a value that is not allowed.
    """
    try:
        return codec_config_from_dict({"kind": SpectralConfig.KIND, **values})
    except WeightsError as error:
        raise UsageError(f"[codec.shape]: {error.what}", why=error.why) from None
