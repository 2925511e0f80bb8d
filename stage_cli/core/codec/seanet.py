"""SEANet: the convolutional encoder and decoder of EnCodec (arXiv 2210.13438, section 3.1), not causal.

Nothing here knows of codebooks or of long audio: `quantizer.py` and `streaming.py` do. Weights are plain
(folded); `add_weight_norm` puts EnCodec's weight normalisation on for training, `fold_weight_norm` takes it off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from stage_cli.core.codec.config import CodecConfig


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Pad the last dimension by reflection; what is too short to be reflected is first extended by zeros.

    Shapes: `[..., n]` → `[..., left + n + right]`, n ≥ 1. Source: EnCodec's `pad1d`.
    """
    length = x.shape[-1]
    extension = max(0, max(left, right) - length + 1)
    if extension:
        x = F.pad(x, (0, extension))
    if left or right:
        x = F.pad(x, (left, right), mode="reflect")
    return x[..., : left + length + right]


def elu(x: Tensor) -> Tensor:
    """Return x where x > 0, else exp(x) - 1; `x` is left as it is.

    On a CPU torch's own takes longer than the convolution after it, because of `expm1`. Without gradients, and in
    fp32, exp(x) - 1 takes a fifth of that and is off by at most the rounding of numbers near 1 (6e-8).
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or (torch.is_grad_enabled() and x.requires_grad):
        return F.elu(x)
    negative = torch.exp_(x.clamp(max=0)).sub_(1)
    return torch.maximum(x, negative, out=negative)


class Conv(nn.Conv1d):
    """A convolution that turns n samples into ceil(n / stride), by reflection padding on both sides.

    Shapes: `[B, in, n]` → `[B, out, ceil(n / stride)]`, n ≥ 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, dilation=dilation)
        self.step = stride
        self.reach = (kernel - 1) * dilation + 1
        self.right = max(0, self.reach - stride) // 2
        self.left = max(0, self.reach - stride) - self.right

    def padding_right(self, length: int) -> int:
        """Return the right padding for `length` samples in all: the last stride is filled up."""
        return self.right + -length % self.step

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        return super().forward(reflect_pad(input, self.left, self.padding_right(input.shape[-1])))


class Upsample(nn.ConvTranspose1d):
    """A transposed convolution of kernel 2 · ratio that turns n samples into n · ratio.

    Shapes: `[B, in, n]` → `[B, out, n · ratio]`. For an odd ratio the left side is trimmed by one sample more.
    """

    def __init__(self, inputs: int, outputs: int, ratio: int) -> None:
        trim = (ratio + 1) // 2
        super().__init__(inputs, outputs, 2 * ratio, stride=ratio, padding=trim, output_padding=ratio % 2)
        self.ratio = ratio
        self.trim = trim


class ResidualBlock(nn.Module):
    """A dilated and a pointwise convolution, each after an ELU, added to their input.

    Shapes: `[B, channels, n]` → the same.
    """

    def __init__(self, config: CodecConfig, channels: int, dilation: int) -> None:
        super().__init__()
        hidden = channels // config.compress
        self.dilated = Conv(channels, hidden, config.residual_kernel_size, dilation=dilation)
        self.pointwise = Conv(hidden, channels, 1)
        self.shortcut = Conv(channels, channels, 1) if config.conv_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block; `x` is left as it is."""
        skipped = x if self.shortcut is None else self.shortcut(x)
        return self.pointwise(elu(self.dilated(elu(x)))).add_(skipped)


class SkipLSTM(nn.LSTM):
    """An LSTM over time whose input is added to its output.

    Shapes: `[B, channels, T]` → the same; the state is `nn.LSTM`'s pair, None at the beginning.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__(channels, channels, layers)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over `x` from `state`; return the output and the state after it."""
        by_time = x.permute(2, 0, 1)
        output, state = super().forward(by_time, state)
        return (output + by_time).permute(1, 2, 0), state

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override]
        """Run over the whole of `x`."""
        return self.step(x, None)[0]


class EncoderStage(nn.Module):
    """Residual blocks, then a convolution that divides the rate by `ratio` and doubles the channels."""

    def __init__(self, config: CodecConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.residuals = _residuals(config, channels)
        self.downsample = Conv(channels, 2 * channels, 2 * ratio, stride=ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: `[B, channels, n]` → `[B, 2 · channels, ceil(n / ratio)]`."""
        for block in self.residuals:
            x = block(x)
        return self.downsample(elu(x))


class DecoderStage(nn.Module):
    """A transposed convolution that multiplies the rate by `ratio` and halves the channels, then residual blocks."""

    def __init__(self, config: CodecConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.upsample = Upsample(channels, channels // 2, ratio)
        self.residuals = _residuals(config, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: `[B, channels, n]` → `[B, channels / 2, n · ratio]`."""
        x = self.upsample(elu(x))
        for block in self.residuals:
            x = block(x)
        return x


class SeanetEncoder(nn.Module):
    """Audio to latents.

    Shapes: `[B, channels, samples]` → `[B, D, ceil(samples / hop)]`, samples ≥ 1.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = config.stage_channels
        self.input = Conv(config.channels, config.filters, config.kernel_size)
        self.stages = nn.ModuleList(
            EncoderStage(config, width, ratio) for width, ratio in zip(widths, reversed(config.ratios), strict=False)
        )
        self.lstm = SkipLSTM(widths[-1], config.lstm_layers) if config.lstm_layers else None
        self.output = Conv(widths[-1], config.dimension, config.last_kernel_size)

    def forward(self, audio: Tensor) -> Tensor:
        """Encode the whole of `audio` at once."""
        x = self.input(audio)
        for stage in self.stages:
            x = stage(x)
        if self.lstm is not None:
            x = self.lstm(x)
        return self.output(elu(x))


class SeanetDecoder(nn.Module):
    """Latents to audio.

    Shapes: `[B, D, T]` → `[B, channels, T · hop]`, T ≥ 1.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = config.stage_channels[:0:-1]
        self.input = Conv(config.dimension, widths[0], config.kernel_size)
        self.lstm = SkipLSTM(widths[0], config.lstm_layers) if config.lstm_layers else None
        self.stages = nn.ModuleList(
            DecoderStage(config, width, ratio) for width, ratio in zip(widths, config.ratios, strict=True)
        )
        self.output = Conv(config.filters, config.channels, config.last_kernel_size)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode the whole of `latents` at once."""
        x = self.input(latents)
        if self.lstm is not None:
            x = self.lstm(x)
        for stage in self.stages:
            x = stage(x)
        return self.output(elu(x))


def fold(g: Tensor, v: Tensor) -> Tensor:
    """Return the weight that weight normalisation stores as length `g` and direction `v`.

    Shapes: g `[n, 1, 1]`, v `[n, m, kernel]` → `[n, m, kernel]`; n is `in` for a transposed convolution, `out` else.
    Source: torch's `weight_norm` with dim 0.
    """
    return v * (g / torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True))


def add_weight_norm(module: nn.Module) -> None:
    """Put weight normalisation on every convolution in `module`, in place; the function stays the same."""
    for layer in _convolutions(module):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrizations.weight_norm(layer)


def fold_weight_norm(module: nn.Module) -> None:
    """Turn every weight-normed convolution in `module` back into a plain one, in place."""
    for layer in _convolutions(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]


def _residuals(config: CodecConfig, channels: int) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(config, channels, config.dilation_growth**layer) for layer in range(config.residual_layers)
    )
