"""The `[train]` table of a run's TOML file: steps, optimizer, loss, dropouts. The defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass

from stage_cli.core.training.config.checks import (
    check,
    check_choice,
    check_number,
    check_whole,
    contradiction,
    is_number,
)
from stage_cli.errors import UsageError

OPTIMIZERS: tuple[str, ...] = ("adamw", "muon")
SCHEDULES: tuple[str, ...] = ("constant", "cosine")
CLIPS: tuple[str, ...] = ("value", "norm", "none")
TRAINABLES: tuple[str, ...] = ("all",)


@dataclass(frozen=True)
class TrainConfig:
    """How the model learns.

    Attributes:
        steps: of the optimizer.
        batch_size: sequences an optimizer step, over all processes and passes.
        micro_batch_size: sequences that one process computes at a time; the rest of its share follows in more passes.
        learning_rate: peak of AdamW's.
        betas: of AdamW.
        weight_decay: of the matrices.
        epsilon: of AdamW.
        optimizer: "adamw", or "muon" for matrices that map hidden states to hidden states, with AdamW for the rest.
        muon_learning_rate: peak of Muon's.
        schedule: the learning rate stays ("constant") or falls along a half cosine ("cosine").
        warmup_steps: over which it first grows from zero.
        final_learning_rate: share of the peak at which "cosine" ends.
        clip: gradients by "value" each, by the "norm" of all, or "none".
        clip_at: the largest value, or norm.
        codebook_weights: share of each codebook in the loss, scaled to sum to one; empty is even.
        context_dropout: probability that an item is learned without its context.
        description_dropout: likewise without its description.
        word_dropout: probability of leaving out each word of a description.
        history_dropout: probability that pieces of the target's own past, half a second each, are hidden from the model
            while it learns an item: what comes next must then be found in the context.
        beat_weight: of a further loss, on beats and downbeats as told from what the layers make of the context alone;
            for models that read their context first. Nothing of it stays in the model.
        harmony_weight: likewise on the pitch classes that the target plays.
        ema_decay: of a moving average of the weights, which becomes the result; 0 is off.
        checkpoint_every: steps between checkpoints.
        keep_last: newest checkpoints that are kept.
        most_bad_steps: steps in a row whose loss or gradient is not finite, after which the run stops.
        trainable: which weights learn; "all", reserved for more.
    """

    steps: int = 100_000
    batch_size: int = 8
    micro_batch_size: int = 2
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-3
    epsilon: float = 1e-8
    optimizer: str = "adamw"
    muon_learning_rate: float = 0.02
    schedule: str = "constant"
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    clip: str = "value"
    clip_at: float = 1.0
    codebook_weights: tuple[float, ...] = ()
    context_dropout: float = 0.1
    description_dropout: float = 0.5
    word_dropout: float = 0.3
    history_dropout: float = 0.0
    beat_weight: float = 0.0
    harmony_weight: float = 0.0
    ema_decay: float = 0.0
    checkpoint_every: int = 1000
    keep_last: int = 2
    most_bad_steps: int = 5
    trainable: str = "all"

    def __post_init__(self) -> None:
        check_whole("train.steps", self.steps, 1)
        check_whole("train.batch_size", self.batch_size, 1, 1_000_000)
        check_whole("train.micro_batch_size", self.micro_batch_size, 1, 1_000_000)
        self._check_optimizer()
        self._check_schedule()
        check_choice("train.clip", self.clip, CLIPS)
        check_number("train.clip_at", self.clip_at, 0, 1e6, above=True)
        self._check_codebook_weights()
        for key in ("context_dropout", "description_dropout", "word_dropout", "history_dropout"):
            check_number(f"train.{key}", getattr(self, key), 0, 1)
        for key in ("beat_weight", "harmony_weight"):
            check_number(f"train.{key}", getattr(self, key), 0, 1e6)
        check_number("train.ema_decay", self.ema_decay, 0, 1, below=True)
        check_whole("train.checkpoint_every", self.checkpoint_every, 1)
        check_whole("train.keep_last", self.keep_last, 1, 10_000)
        check_whole("train.most_bad_steps", self.most_bad_steps, 1, 10_000)
        check_choice("train.trainable", self.trainable, TRAINABLES)
        if self.batch_size % self.micro_batch_size:
            raise contradiction(
                f"train.batch_size = {self.batch_size}",
                f"train.micro_batch_size = {self.micro_batch_size}",
                why="a batch is made of whole micro-batches",
                next_step="make train.batch_size a multiple of train.micro_batch_size",
            )

    @property
    def listens(self) -> bool:
        """Whether anything is learned from the context alone."""
        return self.beat_weight > 0 or self.harmony_weight > 0

    def accumulation(self, processes: int) -> int:
        """Return the passes that each of some processes makes for one optimizer step.

        Raises:
            UsageError: a batch cannot be divided evenly among them.
        """
        together = self.micro_batch_size * processes
        if self.batch_size % together:
            raise UsageError(
                f"train.batch_size = {self.batch_size} cannot be divided among {processes} processes",
                why=f"train.micro_batch_size = {self.micro_batch_size}, so together they compute {together} at a time",
                next_step=f"make train.batch_size a multiple of {together}, or start fewer processes",
            )
        return self.batch_size // together

    def loss_weights(self, codebooks: int) -> tuple[float, ...]:
        """Return the share of each of K codebooks in the loss; they sum to one.

        Raises:
            UsageError: `codebook_weights` is for another number of codebooks.
        """
        if not self.codebook_weights:
            return (1 / codebooks,) * codebooks
        if len(self.codebook_weights) != codebooks:
            raise UsageError(
                f"train.codebook_weights has {len(self.codebook_weights)} numbers, the model {codebooks} codebooks",
                next_step=f"allowed: a list of {codebooks} numbers, or an empty one (all count the same)",
            )
        total = sum(self.codebook_weights)
        return tuple(weight / total for weight in self.codebook_weights)

    def _check_optimizer(self) -> None:
        check_choice("train.optimizer", self.optimizer, OPTIMIZERS)
        check_number("train.learning_rate", self.learning_rate, 0, 1, above=True)
        check_number("train.muon_learning_rate", self.muon_learning_rate, 0, 1, above=True)
        is_pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        allowed = is_pair and all(is_number(beta) and 0 <= beta < 1 for beta in self.betas)
        check("train.betas", self.betas, allowed, "a list of two numbers from 0 to below 1")
        check_number("train.weight_decay", self.weight_decay, 0, 10)
        check_number("train.epsilon", self.epsilon, 0, 1, above=True)

    def _check_schedule(self) -> None:
        check_choice("train.schedule", self.schedule, SCHEDULES)
        check_whole("train.warmup_steps", self.warmup_steps, 0)
        check_number("train.final_learning_rate", self.final_learning_rate, 0, 1)
        if self.warmup_steps > self.steps:
            raise contradiction(
                f"train.warmup_steps = {self.warmup_steps}",
                f"train.steps = {self.steps}",
                why="the learning rate would never be reached",
                next_step="make train.warmup_steps at most train.steps",
            )

    def _check_codebook_weights(self) -> None:
        weights = self.codebook_weights
        listed = isinstance(weights, tuple) and all(is_number(weight) and weight >= 0 for weight in weights)
        allowed = listed and (not weights or sum(weights) > 0)
        check("train.codebook_weights", weights, allowed, "a list of numbers from 0 on, one a codebook, not all 0")
