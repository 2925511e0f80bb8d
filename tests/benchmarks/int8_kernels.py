"""Compare what torch has for the linears of a decode step: all those of MusicGen-small, one after the other.

    uv run python tests/benchmarks/int8_kernels.py --rows 2 8

Each kernel gets the same weights: 24 layers of 1024 → 3072, 1024 → 1024, 1024 → 4096, 4096 → 1024, and the heads
1024 → 8192. They are more than the caches hold, as in a real step. Printed: milliseconds for all of them (median of the
rounds, in which the kernels take turns), and the error beside fp32 (root mean square, relative).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

# What the program itself sets; the timing of threads is part of what is measured.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from environment import describe
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.lm.linear import Int8Linear

SHAPES = [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096)] * 24 + [(8192, 1024)]
Product = Callable[[Tensor], Tensor]


def floats(weight: Tensor, dtype: torch.dtype) -> Product:
    kept = weight.to(dtype)
    return lambda x: F.linear(x.to(dtype), kept)


def int8pack(weight: Tensor) -> Product:
    rounded, scale = Int8Linear.quantize(weight)
    scale = scale.bfloat16()
    return lambda x: torch.ops.aten._weight_int8pack_mm(x.bfloat16(), rounded, scale)


def dynamic(weight: Tensor, engine: str) -> Product:
    """8-bit activations with one scale for all rows: what a row gives depends on its neighbours."""
    rounded, scale = Int8Linear.quantize(weight)
    torch.backends.quantized.engine = engine
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    packed = torch.ops.quantized.linear_prepack(
        torch._make_per_channel_quantized_tensor(rounded, scale.double(), zeros, 0), None
    )
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed)


def ours(weight: Tensor) -> Product:
    layer = Int8Linear(weight.shape[1], weight.shape[0])
    layer.keep(weight)
    return layer


KERNELS: dict[str, Callable[[Tensor], Product]] = {
    "float32": lambda weight: floats(weight, torch.float32),
    "bfloat16": lambda weight: floats(weight, torch.bfloat16),
    "int8 weights, bfloat16 activations (_weight_int8pack_mm)": int8pack,
    "int8, one scale for all rows (oneDNN)": lambda weight: dynamic(weight, "onednn"),
    "int8, one scale for all rows (FBGEMM)": lambda weight: dynamic(weight, "fbgemm"),
    "int8, a scale a row (FBGEMM): ours": ours,
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(describe("torch"))
    torch.manual_seed(0)
    weights = [torch.randn(shape) * shape[1] ** -0.5 for shape in SHAPES]
    kernels = {name: [make(weight) for weight in weights] for name, make in KERNELS.items()}
    for rows in arguments.rows:
        inputs = {width: torch.randn(rows, width) for width in (1024, 4096)}
        times: dict[str, list[float]] = {name: [] for name in kernels}
        for _ in range(arguments.rounds):
            for name, products in kernels.items():
                for _ in range(2):  # the first finds the caches full of another kernel's weights
                    began = time.perf_counter()
                    for product, (_, width) in zip(products, SHAPES, strict=True):
                        product(inputs[width])
                    seconds = time.perf_counter() - began
                times[name].append(seconds)
        print(f"\n| {rows} rows | ms | × bfloat16 | error |\n| --- | --- | --- | --- |")
        bfloat16 = statistics.median(times["bfloat16"])
        for name, products in kernels.items():
            x = inputs[1024]
            exact = F.linear(x, weights[0])
            error = ((products[0](x).float() - exact).norm() / exact.norm()).item()
            median = statistics.median(times[name])
            print(f"| {name} | {1e3 * median:.1f} | {bfloat16 / median:.2f} | {error:.4f} |")


if __name__ == "__main__":
    main()
