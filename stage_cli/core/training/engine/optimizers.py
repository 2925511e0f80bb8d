"""The optimizers of a run, as one: AdamW for all parameters, or Muon for matrices of hidden states beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli.core.precision import computes_bfloat16
from stage_cli.core.training.config.train import TrainConfig
from stage_cli.core.training.engine.float32_muon import Float32Muon
from stage_cli.core.training.engine.schedules import learning_rate_share
from stage_cli.core.training.engine.task import ParameterGroup

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
