"""EfficientNet-B0 without its classifier (Tan and Le, arXiv 1905.11946), as the package efficientnet_pytorch has it.

Its padding is that of 224 × 224 pictures whatever comes in: at stride 2 one side gets one more zero than the other.
Checkpoints name the layers as that package does; `published_name` translates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 1280
"""Channels that come out."""

_STEM = 32
_EPSILON = 1e-3
_SQUEEZE = 0.25


@dataclass(frozen=True)
class _Stage:
    """Blocks of one shape; only the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

_NAMES = {
    "stem.conv": "_conv_stem",
    "stem.norm": "_bn0",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "squeeze": "_se_reduce",
    "excite": "_se_expand",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}


class EfficientNet(nn.Module):
    """Pictures `[B, channels, H, W]` to `[B, 1280]`, the mean over what is left of height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = _Convolution(channels, _STEM, kernel=3, stride=2)
        blocks, width = [], _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                blocks.append(_Block(width, stage, stride=stage.stride if number == 0 else 1))
                width = stage.width
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(width, WIDTH, kernel=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the pooled features."""
        hidden = F.silu(self.stem(pictures))
        for block in self.blocks:
            hidden = block(hidden)
        return F.silu(self.head(hidden)).mean(dim=(2, 3))


def published_name(name: str) -> str:
    """Translate the name of a tensor of `EfficientNet` to that of efficientnet_pytorch."""
    match = re.fullmatch(r"(blocks\.\d+\.)?(.+)\.(\w+)", name)
    if match is None:
        raise ValueError(f"{name} is not a tensor of an EfficientNet")
    block, layer, tensor = match.groups()
    return f"{'_' + block if block else ''}{_NAMES[layer]}.{tensor}"


class _Convolution(nn.Module):
    """A convolution without bias, padded at its ends, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=_EPSILON)
        padding = kernel - stride
        before, after = padding // 2, padding - padding // 2
        self._padding = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.pad(x, self._padding)))


class _Block(nn.Module):
    """An inverted bottleneck: widen, convolve each channel, weigh the channels, narrow; around it a skip path."""

    def __init__(self, inputs: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = _Convolution(inputs, inner, kernel=1) if stage.expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel=stage.kernel, stride=stride, groups=inner)
        squeezed = max(1, int(inputs * _SQUEEZE))
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, inner, 1)
        self.project = _Convolution(inner, stage.width, kernel=1)
        self._skips = stride == 1 and inputs == stage.width

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.silu(self.expand(x))
        hidden = F.silu(self.depthwise(hidden))
        weights = self.excite(F.silu(self.squeeze(hidden.mean(dim=(2, 3), keepdim=True))))
        hidden = self.project(weights.sigmoid() * hidden)
        return hidden + x if self._skips else hidden
