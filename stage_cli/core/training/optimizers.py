"""The learning rate as a function of the step alone, so that nothing of it needs to be saved. Imports no torch.

Muon for processors without arithmetic for bfloat16.

torch's Muon makes each update orthogonal in bfloat16. Where that has to be imitated, one step of a small model takes a
minute; in float32 it is a fraction of the step.

The optimizers of a run, as one: AdamW for all parameters, or Muon for matrices of hidden states beside it.

A moving average of the weights (EMA), which takes part in nothing but validation and the result.

Gradients between the backward pass and the optimizer: completed, measured, clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stage_cli.core.precision import computes_bfloat16
from stage_cli.core.training.settings import TrainConfig
from stage_cli.core.training.task import ParameterGroup


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Return the share of the peak learning rate that a step, counted from 1, is made with.

    It grows linearly and reaches 1 at step `warmup_steps`; then it stays, or falls along a half cosine, or stays until
    half of the steps are done and falls evenly, to `final_learning_rate` at the last step.
    """
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant" or config.steps == config.warmup_steps:
        return 1.0
    done = min(1.0, (step - config.warmup_steps) / (config.steps - config.warmup_steps))
    if config.schedule == "late":
        falling = min(1.0, 2 * (config.steps - step) / config.steps)
    else:
        falling = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (1 - config.final_learning_rate) * falling


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its default settings, all of it in float32: the same state, the same updates but for rounding.

    Source: Jordan et al., 2024, kellerjordan.github.io/posts/muon; arXiv 2502.16982.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Change all parameters that have gradients.

        Args:
            closure: computes the loss anew, with gradients; or None.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[parameter], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(mean, momentum), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Bring all singular values of a matrix near 1, by Newton and Schulz's iteration.

    Args:
        matrix: `[m, n]`.
        coefficients: of the polynomial's first, third and fifth power.
        steps: iterations.
        eps: the smallest norm that is divided by.

    Returns:
        `[m, n]`.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


_FUSED = ("cpu", "cuda", "mps")


class Optimizers:
    """What changes the parameters.

    Args:
        config: which, and how.
        parameters: the trainable ones by name.
        groups: of their names.

    Raises:
        ValueError: a parameter is in no group, or in two, or Muon shall change one that is no matrix.
    """

    def __init__(
        self, config: TrainConfig, parameters: Mapping[str, nn.Parameter], groups: Sequence[ParameterGroup]
    ) -> None:
        listed = [name for group in groups for name in group.names]
        if sorted(listed) != sorted(parameters):
            odd = sorted({name for name in listed if listed.count(name) > 1} | (set(listed) ^ set(parameters)))
            raise ValueError(f"not in exactly one group of trainable parameters: {', '.join(odd)}")
        self.config = config
        self.parameters = parameters
        shares: dict[str, list[ParameterGroup]] = {"adamw": [], "muon": []}
        for group in groups:
            is_muon = config.optimizer == "muon" and group.kind == "matrix"
            shares["muon" if is_muon else "adamw"].append(group)
        self._names = {kind: [name for group in share for name in group.names] for kind, share in shares.items()}
        makers = {"adamw": self._adamw, "muon": self._muon}
        self.members = {kind: makers[kind](share) for kind, share in shares.items() if self._names[kind]}

    def learning_rates(self, step: int) -> dict[str, float]:
        """Return the learning rate of each optimizer at a step, by name."""
        share = learning_rate_share(self.config, step)
        peaks = {"adamw": self.config.learning_rate, "muon": self.config.muon_learning_rate}
        return {kind: share * peaks[kind] for kind in self.members}

    def step(self, step: int, scaler: Any = None) -> None:
        """Change the parameters by their gradients, and drop these.

        Args:
            step: counted from 1.
            scaler: a `GradScaler` that has unscaled the gradients; it skips the step if they are not finite.
        """
        for kind, rate in self.learning_rates(step).items():
            for group in self.members[kind].param_groups:
                group["lr"] = rate
            if scaler is None:
                self.members[kind].step()
            else:
                scaler.step(self.members[kind])
        if scaler is not None:
            scaler.update()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for member in self.members.values():
            member.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what the optimizers remember, by `optimizer/parameter/name`."""
        for kind, member in self.members.items():
            for name in self._names[kind]:
                remembered = member.state.get(self.parameters[name], {})
                yield from ((f"{kind}/{name}/{key}", remembered[key]) for key in sorted(remembered))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` yielded, placed as the parameters are."""
        for kind, member in self.members.items():
            content = member.state_dict()
            content["state"] = {}
            for number, name in enumerate(self._names[kind]):
                prefix = f"{kind}/{name}/"
                found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                if found:
                    content["state"][number] = found
            member.load_state_dict(content)

    def _groups(self, share: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
        return [
            {
                "params": [self.parameters[name] for name in group.names],
                "weight_decay": self.config.weight_decay if group.decay else 0.0,
            }
            for group in share
            if group.names
        ]

    def _adamw(self, share: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        fused = all(parameter.device.type in _FUSED for parameter in self.parameters.values())
        return torch.optim.AdamW(
            self._groups(share),
            lr=self.config.learning_rate,
            betas=self.config.betas,
            eps=self.config.epsilon,
            fused=fused,
        )

    def _muon(self, share: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        flat = [name for group in share for name in group.names if self.parameters[name].ndim != 2]
        if flat:
            raise ValueError(f"no matrices: {', '.join(flat)}")
        quick = all(computes_bfloat16(parameter.device) for parameter in self.parameters.values())
        kind = torch.optim.Muon if quick else Float32Muon
        return kind(self._groups(share), lr=self.config.muon_learning_rate)


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
