"""MusicGen's delay pattern: codebook k runs k steps late, after one step of pads.

    frame           0  1  2  3                 step      0  1  2  3  4  5
    codebook 0      a0 a1 a2 a3     →          codebook 0  ·  a0 a1 a2 a3 ·
    codebook 1      b0 b1 b2 b3                codebook 1  ·  ·  b0 b1 b2 b3

T frames make S = T + K steps (https://arxiv.org/abs/2306.05284, section 2.2). Pure functions, invertible.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delay(tokens: Tensor, fill: float) -> Tensor:
    """Shift codebook k right by k + 1 steps.

    Args:
        tokens: `[B, K, T]`, of any type.
        fill: what stands where no frame is (the pad token).

    Returns:
        `[B, K, T + K]`.
    """
    B, K, T = tokens.shape
    delayed = torch.full((B, K, T + K), fill, dtype=tokens.dtype, device=tokens.device)
    for k in range(K):
        delayed[:, k, k + 1 : k + 1 + T] = tokens[:, k]
    return delayed


def undelay(delayed: Tensor) -> Tensor:
    """Invert `delay`: `[B, K, S]` → `[B, K, S − K]`."""
    K, S = delayed.shape[1:]
    return torch.stack([delayed[:, k, k + 1 : k + 1 + S - K] for k in range(K)], dim=1)
