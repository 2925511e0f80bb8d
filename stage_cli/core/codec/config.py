"""Checks that the configs of all codecs share. Knows nothing of torch.

The codec's shape: what defines an EnCodec, checked where it is made. Knows nothing of torch.

The shape of a spectral codec, checked where it is made. Knows nothing of torch.

What the rest of the program asks of a codec's config, of whatever kind it is. Knows nothing of torch.

Which codec a config describes. Imports torch only where a codec is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeGuard

from stage_cli.errors import WeightsError

if TYPE_CHECKING:
    from stage_cli.core.codec.codec import Codec


def is_whole(value: object) -> TypeGuard[int]:
    """Tell a whole number from anything else; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def not_allowed(key: str, value: object, allowed: str) -> WeightsError:
    """Make the error for a value that is not allowed."""
    shown = list(value) if isinstance(value, tuple) else value
    return WeightsError(f"The codec's config has {key} = {shown!r}", why=f"allowed: {allowed}")


def check_at_least(key: str, value: object, smallest: int) -> None:
    """Raise WeightsError unless a value is a whole number of at least `smallest`."""
    if not is_whole(value) or value < smallest:
        raise not_allowed(key, value, f"a whole number of at least {smallest}")


def check_keys(kind: Any, keys: Iterable[str]) -> None:
    """Raise WeightsError if a key is no field of the config class `kind`."""
    known = [field.name for field in fields(kind)]
    for key in keys:
        if key not in known:
            raise WeightsError(
                f"The codec's config has an unknown key '{key}'",
                why=f"known are: {', '.join(known)}",
                next_step="remove the key, or use the version of stage-cli that wrote the model",
            )


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


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists of JSON and TOML into the tuples of a config."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


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
        if not isinstance(self.ratios, tuple) or not self.ratios or not all(is_whole(r) for r in self.ratios):
            raise not_allowed("ratios", self.ratios, "a list of whole numbers, for example [8, 5, 4, 4]")
        if min(self.ratios) < 2:
            raise not_allowed("ratios", self.ratios, "whole numbers of at least 2")
        if not isinstance(self.conv_shortcut, bool):
            raise not_allowed("conv_shortcut", self.conv_shortcut, "true or false")
        if self.compress > self.filters:
            raise not_allowed("compress", self.compress, f"at most filters = {self.filters}")

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
        return cls(**_with_tuples(values))


_AT_LEAST_ONE = (
    "sample_rate",
    "channels",
    "hop_length",
    "spectrum_hop",
    "spectrum_size",
    "width",
    "expansion",
    "dimension",
    "codebooks",
)


@dataclass(frozen=True)
class SpectralConfig:
    """The shape of a spectral codec (`codec/spectral.py`); the defaults are those of the bundled one.

    Args:
        sample_rate: Hz.
        channels: audio channels; 1.
        hop_length: audio samples in a frame; a multiple of `spectrum_hop`.
        spectrum_hop: audio samples from one short-time spectrum to the next.
        spectrum_size: samples of its window; even, at least `spectrum_hop`, and differing from it by an even number.
        width: channels of the convolutions.
        encoder_layers: blocks at the spectra's rate, then blocks at the frames' rate.
        decoder_layers: blocks at the frames' rate, then blocks at the spectra's rate.
        kernel_size: of the blocks' convolution over time; odd.
        expansion: a block works on `expansion · width` channels inside.
        dimension: D, width of the latents and of the codebook vectors.
        codebooks: K.
        codebook_size: entries in each codebook.
        tones: semitones that the decoder can let sound as steady tones, one oscillator each; 0 is none. A frame's
            latents alone repeat with each frame: without oscillators, what holds on has no pitch but multiples of the
            frame rate.
        lowest_tone: the lowest of them, as a MIDI note (69 is 440 Hz).
        pitch_size: samples of a longer window, under which the encoder tells them apart; even.
        tone_codebooks: the last of the codebooks, which are for the tones alone.
        tone_dimension: the last of the latents' dimensions, likewise. These three only count where there are tones.

    Raises:
        WeightsError: a value is not allowed; the message names it.
    """

    KIND: ClassVar[str] = "spectral"

    sample_rate: int = 24000
    channels: int = 1
    hop_length: int = 960
    spectrum_hop: int = 240
    spectrum_size: int = 960
    width: int = 256
    encoder_layers: tuple[int, int] = (2, 4)
    decoder_layers: tuple[int, int] = (4, 6)
    kernel_size: int = 7
    expansion: int = 3
    dimension: int = 64
    codebooks: int = 4
    codebook_size: int = 1024
    tones: int = 0
    lowest_tone: int = 28
    pitch_size: int = 4096
    tone_codebooks: int = 1
    tone_dimension: int = 24

    def __post_init__(self) -> None:
        for key in _AT_LEAST_ONE:
            check_at_least(key, getattr(self, key), 1)
        if self.channels != 1:
            raise not_allowed("channels", self.channels, "1")
        check_at_least("codebook_size", self.codebook_size, 2)
        if not is_whole(self.kernel_size) or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise not_allowed("kernel_size", self.kernel_size, "an odd whole number")
        if self.hop_length % self.spectrum_hop:
            raise not_allowed("hop_length", self.hop_length, f"a multiple of spectrum_hop = {self.spectrum_hop}")
        size, hop = self.spectrum_size, self.spectrum_hop
        if size % 2 or size < hop or (size - hop) % 2:
            raise not_allowed("spectrum_size", size, f"spectrum_hop = {hop} plus an even number, itself even")
        self._check_tones()
        for key in ("encoder_layers", "decoder_layers"):
            layers = getattr(self, key)
            if not isinstance(layers, tuple) or len(layers) != 2 or not all(is_whole(n) and n >= 0 for n in layers):
                raise not_allowed(key, layers, "two whole numbers, for example [2, 4]")

    def _check_tones(self) -> None:
        for key in ("tones", "lowest_tone"):
            check_at_least(key, getattr(self, key), 0)
        if self.tones and self.tone_hertz(self.tones - 1) >= self.sample_rate / 2:
            below = f"few enough to lie below {self.sample_rate / 2:g} Hz, from MIDI note {self.lowest_tone} on"
            raise not_allowed("tones", self.tones, below)
        if not is_whole(self.pitch_size) or self.pitch_size % 2 or self.pitch_size < self.hop_length:
            raise not_allowed("pitch_size", self.pitch_size, f"an even whole number from {self.hop_length} on")
        if self.tones and (self.pitch_size - self.spectrum_hop) % 2:
            raise not_allowed("pitch_size", self.pitch_size, "spectrum_hop plus an even number")
        for key, whole in (("tone_codebooks", "codebooks"), ("tone_dimension", "dimension")):
            check_at_least(key, getattr(self, key), 1)
            if self.tones and getattr(self, key) >= getattr(self, whole):
                raise not_allowed(key, getattr(self, key), f"less than {whole} = {getattr(self, whole)}")

    @property
    def frame_rate(self) -> float:
        """Frames a second, in Hz."""
        return self.sample_rate / self.hop_length

    @property
    def spectra_per_frame(self) -> int:
        """Short-time spectra in a frame."""
        return self.hop_length // self.spectrum_hop

    @property
    def bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.spectrum_size // 2 + 1

    @property
    def pitch_bins(self) -> int:
        """Frequencies of the longer window's spectrum up to a semitone above the highest tone."""
        return math.ceil(self.tone_hertz(self.tones) * self.pitch_size / self.sample_rate) + 1

    def tone_hertz(self, tone: int) -> float:
        """Return the frequency of one of the tones, in Hz; equal temperament, A4 is 440 Hz."""
        return 440.0 * 2 ** ((self.lowest_tone + tone - 69) / 12)

    @property
    def encoder_margin(self) -> int:
        """Frames to either side that a frame's latents depend on."""
        # A tone is heard under a long window, and under all the short ones that this one covers.
        heard = -(-(self.pitch_size + self.spectrum_size + self.spectrum_hop) // self.hop_length) + 1
        return max(self._margin(*self.encoder_layers), heard if self.tones else 0)

    @property
    def decoder_margin(self) -> int:
        """Frames to either side that a frame's audio depends on."""
        return self._margin(*reversed(self.decoder_layers))

    def frames(self, samples: int) -> int:
        """Return T, the frames that `samples` audio samples encode to; a begun frame counts."""
        return -(-samples // self.hop_length)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, headed by the kind."""
        lists = {key: list(getattr(self, key)) for key in ("encoder_layers", "decoder_layers")}
        return {"kind": self.KIND, **asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpectralConfig:
        """Make a config from what `to_dict` returned; absent keys take their default.

        Raises:
            WeightsError: an unknown key, or a value that is not allowed.
        """
        content = {key: value for key, value in values.items() if key != "kind"}
        check_keys(cls, content)
        return cls(**_with_tuples(content))

    def _margin(self, fine_layers: int, coarse_layers: int) -> int:
        """Frames that the blocks, the resampling (one) and the overlap of the spectra reach to one side."""
        reach = self.kernel_size // 2
        fine = fine_layers * reach + -(-self.spectrum_size // self.spectrum_hop)
        return coarse_layers * reach + -(-fine // self.spectra_per_frame) + 2


class CodecShape(Protocol):
    """Sizes that every codec has."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def channels(self) -> int:
        """Audio channels."""
        ...

    @property
    def hop_length(self) -> int:
        """Audio samples in a frame."""
        ...

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        ...

    @property
    def dimension(self) -> int:
        """D, width of the latents."""
        ...

    @property
    def codebooks(self) -> int:
        """K."""
        ...

    @property
    def codebook_size(self) -> int:
        """Entries in each codebook."""
        ...

    def frames(self, samples: int) -> int:
        """T, the frames that `samples` audio samples encode to."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        ...


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
