"""MusicGen's positions (https://arxiv.org/abs/2306.05284)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, dimension: int) -> Tensor:
    """Sinusoidal positions `[cos | sin]`, in fp32 whatever the model's precision is.

    Args:
        positions: `[…]`, whole numbers.
        dimension: D, even.

    Returns:
        `[…, D]` fp32; half i has the frequency 10000 ** (−i / (D/2 − 1)).
    """
    half = dimension // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / max(half - 1, 1)
    phase = positions[..., None].float() * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)
