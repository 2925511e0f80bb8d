"""COCOLA's network: EfficientNet-B0, a projection, layer norm, tanh; and a bilinear form over two such vectors.

score(x, y) = hₓᵀ·W·h_y with h = tanh(norm(projection(EfficientNet(features)))). It is not symmetric: x is the context
and y the stem. The published code's own `score` has left the norm and the tanh out in some of its versions; training
has them in all, and so have we.

Harmonic-only and percussive-only scores come from the same weights: the other channel is set to 0 in both inputs, as it
was at random in training. The published `score` sets nothing to 0 whatever mode is chosen, so that all three of its
scores are one number.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from stage_cli.core.evaluation.cocola.efficientnet import WIDTH, EfficientNet, published_name

Mode = Literal["both", "harmonic", "percussive"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""What is listened to."""

CHANNELS = 2
_MASKED: dict[Mode, int] = {"harmonic": 1, "percussive": 0}  # the channel that each mode does not hear


class CocolaNetwork(nn.Module):
    """Features `[B, 2, 64, frames]` to vectors `[B, D]`, and vectors to scores.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.backbone = EfficientNet(CHANNELS)
        self.projection = nn.Linear(WIDTH, dimension)
        self.norm = nn.LayerNorm(dimension)
        self.bilinear = nn.Parameter(torch.zeros(dimension, dimension))

    def forward(self, features: Tensor, mode: Mode = "both") -> Tensor:
        """Return the vectors of features, which are left as they are."""
        return self.norm(self.projection(self.backbone(masked(features, mode)))).tanh()

    def score(self, contexts: Tensor, stems: Tensor) -> Tensor:
        """Return the scores of pairs of vectors, `[B, D]` and `[B, D]` → `[B]`."""
        return ((contexts @ self.bilinear) * stems).sum(dim=-1)


def masked(features: Tensor, mode: Mode) -> Tensor:
    """Return features `[B, 2, bands, frames]` with the channel at 0 that the mode does not hear.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}, not {mode!r}")
    if mode == "both":
        return features
    heard = torch.ones(CHANNELS, 1, 1, dtype=features.dtype, device=features.device)
    heard[_MASKED[mode]] = 0
    return features * heard


def published_names(network: CocolaNetwork) -> dict[str, str]:
    """Return the name that the published checkpoints give to each tensor of the network."""
    outer = {
        "projection.weight": "encoder.projection.weight",
        "projection.bias": "encoder.projection.bias",
        "norm.weight": "layer_norm.weight",
        "norm.bias": "layer_norm.bias",
        "bilinear": "similarity.w",
    }
    inner = "backbone."
    return {
        name: outer.get(name) or "encoder.encoder.model.0." + published_name(name.removeprefix(inner))
        for name in network.state_dict()
    }
