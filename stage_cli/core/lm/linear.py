"""Linear layers in the precisions that the model can be kept in.

Quantized weights are int8 with one scale an output channel (symmetric, absmax / 127). On x86 they are multiplied with
bytes too: FBGEMM's product waits only for the weights, for a few rows as for one (docs/dev/benchmarks.md). Each row
of activations is taken apart into two rows of bytes, the second of what the first one's rounding left, for activations
of 8 bits alone would change more tokens than the weights' rounding does. A row is scaled by its own largest number: its
result does not depend on its neighbours. Elsewhere torch's kernel for int8 weights and activations that stay floats is
used.

Convolutions over a context's embeddings, before the layers.

Where beats lie is told by what repeats, and by how far apart it is, wherever in the window that may be. Convolutions
have that built in, which attention over absolute positions has to learn for each position anew; trackers of beats are
made of dilated ones (M. Davies and S. Böck, Temporal convolutional networks for musical audio beat tracking, 2019).
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Generator

# Without FBGEMM: above this many rows a product is bound by arithmetic, and a copy of the weights as floats is faster.
INT8_KERNEL_ROWS = 32

# Weights rounded at once: what fp32 copies of them take bounds the peak of memory while a model is loaded.
QUANTIZED_AT_ONCE = 2**20

# Steps from zero to a row's largest activation. Of the 127 that a byte has room for, processors without VNNI can use no
# more: they add two products in 16 bits. All do so: a product is then the same on each of them.
ACTIVATION_STEPS = 63

_ENGINE = "fbgemm"


def linear(in_features: int, out_features: int, *, quantized: bool) -> nn.Module:
    """A linear layer without bias, kept as floats or as int8."""
    return Int8Linear(in_features, out_features) if quantized else nn.Linear(in_features, out_features, bias=False)


def multiplies_bytes() -> bool:
    """Whether this machine has FBGEMM's product of 8-bit activations and weights."""
    # A later torch may do without these; it would have to be asked for another way of packing.
    packs = hasattr(torch, "_make_per_channel_quantized_tensor")
    return packs and _ENGINE in torch.backends.quantized.supported_engines


class Int8Linear(nn.Module):
    """`x · Wᵀ` with W kept as int8 and one scale an output channel.

    It has no weights until `keep` gives it some, and none are in its `state_dict`: FBGEMM has an order of its own for
    them.

    Shapes: x `[…, in_features]` floats → `[…, out_features]` likewise.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._plain: tuple[Tensor, Tensor] | None = None
        self._packed: Any = None
        self._bytes = multiplies_bytes()
        # The largest number of a row becomes so many steps, of its first byte and of its second.
        self._ranges = torch.tensor([ACTIVATION_STEPS, 2.0 * ACTIVATION_STEPS**2], device="cpu").view(2, 1, 1)

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `[out, in]` → int8 `[out, in]` and fp32 scales `[out]`."""
        quantized = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(weight.shape[0])
        step = max(1, QUANTIZED_AT_ONCE // weight.shape[1])
        for start in range(0, weight.shape[0], step):
            rows = weight[start : start + step].float()
            scale = (rows.abs().amax(dim=1) / 127).clamp(min=1e-30)
            scales[start : start + step] = scale
            quantized[start : start + step] = (rows / scale[:, None]).round_().clamp_(-127, 127)
        return quantized, scales

    def reserve(self) -> None:
        """Make room for the weights, before anything that is needed for a while only: it leaves no holes behind."""
        if self._plain is None:
            shape = self.out_features, self.in_features
            self._plain = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0])

    def keep(self, weight: Tensor) -> None:
        """Round weights `[out, in]` and keep them; FBGEMM's order is made when they are first used.

        So that what packing needs does not come on top of what loading needs.
        """
        self.reserve()
        assert self._plain is not None
        for room, rounded in zip(self._plain, self.quantize(weight), strict=True):
            room.copy_(rounded)
        self._packed = None

    def _pack(self) -> None:
        quantized, scales = self.weights
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with _engine(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*deprecated")
            rounded = torch._make_per_channel_quantized_tensor(quantized, scales.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(rounded, None)
        self._plain = None

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """A copy of what is kept: int8 `[out, in]` and fp32 scales `[out]`."""
        if self._packed is None:
            assert self._plain is not None, "nothing was kept yet"
            return self._plain
        rounded, _ = torch.ops.quantized.linear_unpack(self._packed)
        return rounded.int_repr(), rounded.q_per_channel_scales().float()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply; see the class for shapes."""
        if self._bytes and x.dim() == 2 and x.dtype == torch.float32:
            return self._of_bytes(x)
        flat = x.reshape(-1, self.in_features)
        product = self._of_bytes(flat.float()) if self._bytes else self._of_floats(flat)
        return product.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _of_bytes(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._pack()
        largest = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-30)
        scales = self._ranges / largest
        bytes_ = x * scales
        first, second = bytes_.unbind()
        # What rounding leaves is at most half a step: it is doubled, to fill the range of a byte.
        second.sub_(first.round_(), alpha=2 * ACTIVATION_STEPS)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        # Else torch asks the packed weights for a `__torch_function__`, and C++ throws and catches that there is none:
        # as much time as all other operations here together.
        with torch._C.DisableTorchFunctionSubclass():
            products = multiply(bytes_.reshape(2 * len(x), -1), 1.0, ACTIVATION_STEPS + 1, self._packed)
        first, second = products.chunk(2)
        return torch.add(first, second, alpha=0.5 / ACTIVATION_STEPS).div_(scales[0])

    def _of_floats(self, x: Tensor) -> Tensor:
        weight, scale = self.weights
        if len(x) <= INT8_KERNEL_ROWS:
            # It takes no transposed rows, which a product of torch's own would.
            return torch.ops.aten._weight_int8pack_mm(x.contiguous(), weight, scale.to(x.dtype))
        return F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)


@contextmanager
def _engine() -> Generator[None]:
    """Weights are packed for torch's current engine, which is the whole process's: changed for a moment only."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = _ENGINE
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


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
