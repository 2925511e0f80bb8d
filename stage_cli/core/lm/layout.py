"""MusicGen's delay pattern: codebook k runs k steps late, after one step of pads.

    frame           0  1  2  3                 step      0  1  2  3  4  5
    codebook 0      a0 a1 a2 a3     →          codebook 0  ·  a0 a1 a2 a3 ·
    codebook 1      b0 b1 b2 b3                codebook 1  ·  ·  b0 b1 b2 b3

T frames make S = T + K steps (https://arxiv.org/abs/2306.05284, section 2.2). Pure functions, invertible.

The prefix layout of STAGE: `[context | separator | target]`, its masks and its positions.

Columns are frames of the undelayed sequence, steps are those of the delayed one (`delay_pattern`). With Tc frames of
context the separator is column Tc, so that codebook k meets it at step Tc + 1 + k, and the target's frame t of codebook
k at step Tc + 2 + k + t. Plain MusicGen has no separator and no masks: `[context | target]`.

Source: STAGE, https://arxiv.org/abs/2504.05690, section 3; the exact semantics are in docs/dev/model.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig


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


@dataclass(frozen=True)
class Layout:
    """Where context, separator and target lie in one sequence.

    Attributes:
        context_frames: Tc.
        target_frames: Tt.
        separator: whether a separator column lies between them.
        codebooks: K.
    """

    context_frames: int
    target_frames: int
    separator: bool
    codebooks: int

    @property
    def target_column(self) -> int:
        """The column of the target's first frame."""
        return self.context_frames + int(self.separator)

    @property
    def frames(self) -> int:
        """T, all columns."""
        return self.target_column + self.target_frames

    @property
    def steps(self) -> int:
        """S = T + K, steps of the delayed sequence."""
        return self.frames + self.codebooks

    @property
    def first_step(self) -> int:
        """The first step that is attended to: step 0 is all pads, which STAGE masks and MusicGen does not."""
        return int(self.separator)

    @property
    def shared_steps(self) -> int:
        """Steps [first_step, shared_steps) hold context only, and one step is left before the target's first."""
        return self.target_column

    def first_step_of(self, target_frame: int) -> int:
        """The step at which codebook 0 of a target frame stands; all steps before it hold earlier frames only."""
        return self.target_column + target_frame + 1


def join(context: Tensor, target: Tensor, config: LanguageModelConfig) -> Tensor:
    """Join context and target with the separator column.

    Args:
        context: `[B, K, Tc]` codes; shorter contexts of a batch are left-padded with the pad token, a dropped context
            is all pads.
        target: `[B, K, Tt]`.
        config: the language model's.

    Returns:
        `[B, K, T]`, not delayed.
    """
    if not config.separator:
        return torch.cat([context, target], dim=2)
    column = context.new_full((*context.shape[:2], 1), config.separator_token)
    return torch.cat([context, column, target], dim=2)


def attended_steps(delayed: Tensor, context_frames: int, config: LanguageModelConfig) -> Tensor:
    """Which steps of a delayed sequence take part in attention.

    A pad at or before its own codebook's separator is invalid; a step is attended to if one of its K tokens is valid.
    So step 0, left padding and dropped contexts are masked, and pads inside the target are not.

    Args:
        delayed: `[B, K, S]`.
        context_frames: Tc, padding included.
        config: the language model's.

    Returns:
        `[B, S]`, True where a step is attended to.
    """
    B, K, S = delayed.shape
    if not config.separator:
        return torch.ones(B, S, dtype=torch.bool, device=delayed.device)
    steps = torch.arange(S, device=delayed.device)
    separator_step = context_frames + 1 + torch.arange(K, device=delayed.device)
    invalid = (delayed == config.pad) & (steps[None, :] <= separator_step[:, None])
    return (~invalid).any(dim=1)


def attention_mask(attended: Tensor, both_ways: int = 0) -> Tensor:
    """Who sees whom: `[B, 1, S, S]`, True where a step (row) attends to a step (column).

    Args:
        attended: `[B, S]`.
        both_ways: that many first steps see each other in both directions; all else is causal.
    """
    steps = torch.arange(attended.shape[1], device=attended.device)
    seen = (steps <= steps[:, None]) | ((steps < both_ways) & (steps[:, None] < both_ways))
    # A masked step sees itself, for a softmax over nothing is not a number; nobody else sees a masked step.
    itself = steps == steps[:, None]
    return ((seen & attended[:, None, :]) | itself)[:, None]


def positions(attended: Tensor, restart: int | None = None) -> Tensor:
    """Positions `[B, S]` that count from the first attended step of each row; masked steps before it get 0.

    Args:
        attended: `[B, S]`.
        restart: the step from which they count from 0 once more; None is nowhere.
    """
    first = attended.int().argmax(dim=1, keepdim=True)
    steps = torch.arange(attended.shape[1], device=attended.device)[None, :]
    counted = (steps - first).clamp(min=0)
    return counted if restart is None else torch.where(steps >= restart, steps - restart, counted)


def delayed_sequence(context: Tensor, target: Tensor, config: LanguageModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Everything that an uncached forward pass needs: delayed tokens, attended steps, positions.

    Args:
        context: `[B, K, Tc]`, left-padded with the pad token.
        target: `[B, K, Tt]`.
        config: the language model's.

    Returns:
        `[B, K, S]` tokens, `[B, S]` attended, `[B, S]` positions, with S = T + K.
    """
    delayed = delay(join(context, target, config), config.pad)
    attended = attended_steps(delayed, context.shape[2], config)
    # The separator's first step predicts the target's first frame: it gets the position of the context's first frame.
    restart = context.shape[2] + 1 if config.restarts else None
    return delayed, attended, positions(attended, restart)
