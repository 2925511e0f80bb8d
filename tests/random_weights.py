"""Random weights that matter."""

from __future__ import annotations

import torch


def randomise(module: torch.nn.Module, seed: int = 0, scale: float = 1.0) -> None:
    """Give every weight a value that matters, codebooks and norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensor.copy_(1 + 0.1 * noise)
        elif "codebooks" in name or "embeddings" in name:
            tensor.copy_(noise * scale)
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 25
            tensor.copy_(noise * scale / fan_in**0.5)
