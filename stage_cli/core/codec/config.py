"""The codec's shape: what defines an EnCodec, checked where it is made. Knows nothing of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stage_cli.core.codec.checks import check_at_least, check_keys, is_whole, not_allowed

_SMALLEST = {
    "sample_rate": 1,
    "channels": 1,
    "filters": 1,
    "dimension": 1,
    "kernel_size": 1,
    "last_kernel_size": 1,
    "residual_kernel_size": 1,
    "residual_layers": 0,
    "dilation_growth": 1,
    "compress": 1,
    "lstm_layers": 0,
    "codebooks": 1,
    "codebook_size": 2,
}


@dataclass(frozen=True)
class CodecConfig:
    """The shape of an EnCodec (arXiv 2210.13438); the defaults are those of `facebook/encodec_32khz`.

    Args:
        sample_rate: Hz.
        channels: audio channels.
        filters: channels after the first convolution; they double with each downsampling.
        dimension: D, width of the latents and of the codebook vectors.
        ratios: upsampling of each decoder stage, in the decoder's order (the encoder runs them reversed).
        kernel_size: first convolution of encoder and decoder.
        last_kernel_size: last convolution of encoder and decoder.
        residual_kernel_size: the dilated convolution of a residual block.
        residual_layers: residual blocks in each stage.
        dilation_growth: block j of a stage has dilation `dilation_growth ** j`.
        compress: a residual block works on 1/compress of its channels.
        conv_shortcut: a 1x1 convolution, instead of nothing, on a residual block's skip path.
        lstm_layers: 0 leaves the LSTM out.
        codebooks: K.
        codebook_size: entries in each codebook.

    Raises:
        WeightsError: a value is not allowed; the message names it.
    """

    sample_rate: int = 32000
    channels: int = 1
    filters: int = 64
    dimension: int = 128
    ratios: tuple[int, ...] = (8, 5, 4, 4)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_growth: int = 2
    compress: int = 2
    conv_shortcut: bool = False
    lstm_layers: int = 2
    codebooks: int = 4
    codebook_size: int = 2048

    def __post_init__(self) -> None:
        for key, smallest in _SMALLEST.items():
            check_at_least(key, getattr(self, key), smallest)
        if not isinstance(self.ratios, list | tuple) or not self.ratios or not all(is_whole(r) for r in self.ratios):
            raise not_allowed("ratios", self.ratios, "a list of whole numbers, for example [8, 5, 4, 4]")
        if min(self.ratios) < 2:
            raise not_allowed("ratios", self.ratios, "whole numbers of at least 2")
        if not isinstance(self.conv_shortcut, bool):
            raise not_allowed("conv_shortcut", self.conv_shortcut, "true or false")
        if self.compress > self.filters:
            raise not_allowed("compress", self.compress, f"at most filters = {self.filters}")
        object.__setattr__(self, "ratios", tuple(self.ratios))  # JSON has lists only

    @property
    def hop_length(self) -> int:
        """Audio samples in a frame."""
        return math.prod(self.ratios)

    @property
    def frame_rate(self) -> float:
        """Frames a second, in Hz."""
        return self.sample_rate / self.hop_length

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels before each encoder stage, then those after the last one (the LSTM's)."""
        return tuple(self.filters * 2**stage for stage in range(len(self.ratios) + 1))

    def frames(self, samples: int) -> int:
        """Return T, the frames that `samples` audio samples encode to; a begun frame counts."""
        return -(-samples // self.hop_length)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "ratios": list(self.ratios)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodecConfig:
        """Make a config from what `to_dict` returned; absent keys take their default.

        Raises:
            WeightsError: an unknown key, or a value that is not allowed.
        """
        check_keys(cls, values)
        return cls(**values)
