"""The learning rate as a function of the step alone, so that nothing of it needs to be saved. Imports no torch."""

from __future__ import annotations

import math

from stage_cli.core.training.config.train import TrainConfig


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Return the share of the peak learning rate that a step, counted from 1, is made with.

    It grows linearly and reaches 1 at step `warmup_steps`; then it stays, or falls along a half cosine to
    `final_learning_rate` at the last step.
    """
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant" or config.steps == config.warmup_steps:
        return 1.0
    done = min(1.0, (step - config.warmup_steps) / (config.steps - config.warmup_steps))
    falling = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (1 - config.final_learning_rate) * falling
