"""Convolutions over a context's embeddings, before the layers.

Where beats lie is told by what repeats, and by how far apart it is, wherever in the window that may be. Convolutions
have that built in, which attention over absolute positions has to learn for each position anew; trackers of beats are
made of dilated ones (M. Davies and S. Böck, Temporal convolutional networks for musical audio beat tracking, 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.lm.linear import linear

KERNEL = 5


class ContextConvolution(nn.Module):
    """A depthwise convolution and two linears, added to the input; it sees as far back as ahead.

    Args:
        dimension: D.
        dilation: steps between the kernel's taps.
        quantized: keep the linears' weights as int8.
    """

    def __init__(self, dimension: int, dilation: int, *, quantized: bool = False) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(dimension)
        self.kernel = nn.Parameter(torch.zeros(dimension, 1, KERNEL))
        self.inner = linear(dimension, dimension, quantized=quantized)
        self.outer = linear(dimension, dimension, quantized=quantized)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """`[B, C, D]` → `[B, C, D]`; what stands where `attended` `[B, C, 1]` is False is not heard."""
        known = (self.norm(x) * attended).transpose(1, 2)
        reach = self.dilation * (KERNEL // 2)
        around = F.conv1d(known, self.kernel, padding=reach, dilation=self.dilation, groups=x.shape[2])
        return x + self.outer(F.gelu(self.inner(around.transpose(1, 2))))


class ContextConvolutions(nn.Module):
    """Some of them, each with twice the dilation of the one before: six see 126 steps to either side.

    Args:
        dimension: D.
        count: how many.
        quantized: keep the linears' weights as int8.
    """

    def __init__(self, dimension: int, count: int, *, quantized: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ContextConvolution(dimension, 2**i, quantized=quantized) for i in range(count))

    def forward(self, embedded: Tensor, attended: Tensor | None = None) -> Tensor:
        """Compute what is to be added to a context's embeddings.

        Args:
            embedded: `[B, C, D]`, without positions.
            attended: `[B, C]`, False where a step is no row's own; None is True everywhere.

        Returns:
            `[B, C, D]`. A row's own steps get what they would get in a batch of their own.
        """
        steps = embedded.shape[1]
        own = torch.ones_like(embedded[..., :1]) if attended is None else attended[..., None].to(embedded.dtype)
        # No context is one step of silence: a kernel wants something to run over, and a gradient a way to be zero.
        x, own = (F.pad(each, (0, 0, 0, int(steps == 0))) for each in (embedded, own))
        for block in self.blocks:
            x = block(x, own)
        return x[:, :steps] - embedded
