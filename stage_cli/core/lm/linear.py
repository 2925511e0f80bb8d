"""Linear layers in the precisions that the model can be kept in.

Quantized weights are int8 with one scale an output channel (symmetric, absmax / 127); activations stay bfloat16, so
that an outlier in them costs nothing. On a CPU the product reads half the bytes of bfloat16, which is what a decode
step waits for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Above this many rows a product is bound by arithmetic, and a bfloat16 copy of the weights is faster.
INT8_KERNEL_ROWS = 32

# Weights rounded at once: what fp32 copies of them take bounds the peak of memory while a model is loaded.
QUANTIZED_AT_ONCE = 2**20


def linear(in_features: int, out_features: int, *, quantized: bool) -> nn.Module:
    """A linear layer without bias, kept as floats or as int8."""
    return Int8Linear(in_features, out_features) if quantized else nn.Linear(in_features, out_features, bias=False)


class Int8Linear(nn.Module):
    """`x · Wᵀ` with W kept as int8 and one scale an output channel.

    Shapes: x `[…, in_features]` bfloat16 → `[…, out_features]` bfloat16.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.bfloat16))

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `[out, in]` → int8 `[out, in]` and bfloat16 scales `[out]`.

        The scale is rounded to bfloat16 first and the weights are divided by the rounded one, so that rounding the
        scale costs no accuracy.
        """
        quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(weight.shape[0], dtype=torch.bfloat16, device=weight.device)
        step = max(1, QUANTIZED_AT_ONCE // weight.shape[1])
        for start in range(0, weight.shape[0], step):
            rows = weight[start : start + step].float()
            scale = (rows.abs().amax(dim=1) / 127).clamp(min=1e-12).to(torch.bfloat16)
            scales[start : start + step] = scale
            # A scale rounded down would send the largest weight past 127: the clamp costs it at most 0.4 %.
            quantized[start : start + step] = (rows / scale.float()[:, None]).round_().clamp_(-127, 127)
        return quantized, scales

    def forward(self, x: Tensor) -> Tensor:
        """Multiply; see the class for shapes."""
        rows = x.numel() // self.in_features
        if rows <= INT8_KERNEL_ROWS and x.device.type == "cpu":
            flat = x.reshape(rows, self.in_features)
            product = torch.ops.aten._weight_int8pack_mm(flat, self.weight, self.scale)
            return product.reshape(*x.shape[:-1], self.out_features)
        return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
