"""A moving average of the weights (EMA), which takes part in nothing but validation and the result."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """After each step: average = decay · average + (1 − decay) · weights. It begins as the weights are.

    Args:
        parameters: by name; sharded ones are averaged part by part.
        decay: between 0 and 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters.values())
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in parameters.items()
        }  # fmt: skip
        self._update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        self._update(list(self.weights.values()), [parameter.detach() for parameter in self._parameters], None)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an earlier average."""
        for name, own in self.weights.items():
            own.copy_(weights[name])

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the module have the averaged weights for a while; afterwards it has its own again, bit by bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for own, parameter in zip(self.weights.values(), self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(own)
            own.copy_(kept)
