"""Gradients between the backward pass and the optimizer: completed, measured, clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli.core.training.config.train import TrainConfig


def complete(parameters: Sequence[nn.Parameter]) -> None:
    """Give a zero gradient to each parameter that no pass of the step has used.

    An optimizer leaves parameters without one alone, and keeps their moments as they are. Whether a parameter was used
    may depend on how a batch was divided (a text that all items of a micro-batch lack); the step must not.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@torch.no_grad()
def total_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together, a scalar on the device; it is finite only if all of them are."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return whole(norm)


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], config: TrainConfig, norm: Tensor) -> None:
    """Limit the gradients as the config says; `norm` is what `total_norm` returned."""
    if config.clip == "value":
        nn.utils.clip_grad_value_(parameters, config.clip_at)
    elif config.clip == "norm":
        nn.utils.clip_grads_with_norm_(parameters, config.clip_at, norm)


def whole(tensor: Any) -> Tensor:
    """Return a tensor that may be sharded over processes (FSDP2) as a whole one; then all of them must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
