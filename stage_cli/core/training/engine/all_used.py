"""Gradients that all arrive, also those of parameters that a pass does not use.

A pass in which no item has a description uses no weight that reads one. Processes that share gradients wait for each
of them. DDP can search the graph for such parameters, in each pass; FSDP2 cannot at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class AllUsed(nn.Module):
    """Calls a module, and ties its trainable parameters to the loss, without changing a gradient.

    Those that are not used then report that they have none, which DDP takes for zero.

    Args:
        module: `forward(inputs)` returns a dictionary with "loss".
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Return what the module returns."""
        outputs = self.module(inputs)
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return {**outputs, "loss": _Tie.apply(outputs["loss"], *parameters)}


def give_zeros(unit: nn.Module, units: Sequence[nn.Module]) -> None:
    """Let the trainable parameters that a unit does not use have zero gradients, for FSDP2; call it before sharding.

    Inside its forward pass, and nowhere else, a unit's parameters are whole.

    Args:
        unit: its `forward` is replaced; it returns a tensor, a tuple that begins with one, or a dictionary
            with "loss".
        units: all of them; the parameters of those inside this one are theirs.
    """
    places = _own_parameters(unit, {id(other) for other in units if other is not unit})
    forward = unit.forward

    def tied(*arguments: Any, **options: Any) -> Any:
        outputs = forward(*arguments, **options)
        parameters = [getattr(module, name) for module, name in places]
        if isinstance(outputs, Mapping):
            return {**outputs, "loss": outputs["loss"] + _Zero.apply(outputs["loss"], *parameters)}
        first, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
        tied_first = first + _Zero.apply(first, *parameters)  # a sum: FSDP2 wants no views
        return (tied_first, *rest) if isinstance(outputs, tuple) else tied_first

    unit.forward = tied


def _own_parameters(module: nn.Module, others: set[int]) -> list[tuple[nn.Module, str]]:
    found = [(module, name) for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    for child in module.children():
        if id(child) not in others:
            found += _own_parameters(child, others)
    return found


class _Tie(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        return (gradient, *[None] * ctx.count)


class _Zero(torch.autograd.Function):
    """A scalar zero of an output's kind, as if it was computed of the parameters."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        ctx.kinds = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        del gradient
        return (None, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.kinds))
