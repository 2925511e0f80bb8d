"""A further loss, for the training alone: to tell beats and harmony from what the layers make of the context.

The loss on tokens says little about either: a drummer's next token is mostly about how a drum sounds. Where beats are
annotated, and where the target's pitch classes can be heard, they are told directly (multi-task learning, R. Caruana,
1997). The linear read-out is thrown away afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.training.task.labels import BEATS, LABELS


class Listening(nn.Module):
    """Reads beats and pitch classes off the hidden states of a context.

    Args:
        dimension: D of the language model.
        beat_weight: of the loss on beats and downbeats.
        harmony_weight: of the loss on the target's pitch classes.
    """

    def __init__(self, dimension: int, beat_weight: float, harmony_weight: float) -> None:
        super().__init__()
        self.beat_weight, self.harmony_weight = beat_weight, harmony_weight
        self.read = nn.Linear(dimension, LABELS)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, states: Tensor, attended: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            states: `[B, C, D]`, normalized, of the context's steps; each row's own ones are the last, and the first of
                those belongs to the target's first frame.
            attended: `[B, C]`, False at steps that are no row's own.
            labels: `[B, Tt, LABELS]` of `label_batch`, Tt ≥ C.

        Returns:
            "loss", weighted, with a gradient; "beat_loss" (binary cross-entropy) and "harmony_loss" (cross-entropy)
            without. Each is a mean over the frames that have a label, 0 where none has.
        """
        read = self.read(states).float()
        C = attended.shape[1]
        frames = torch.arange(C, device=states.device) - (C - attended.sum(dim=1, keepdim=True))
        told = labels.gather(1, frames.clamp(min=0)[..., None].expand(-1, -1, LABELS))
        beats, classes = told[..., :BEATS], told[..., BEATS:]
        known = attended[..., None] & ~beats.isnan()
        beat = F.binary_cross_entropy_with_logits(read[..., :BEATS], beats.nan_to_num(), reduction="none")
        beat_loss = _mean(beat, known)
        harmony = -(classes * read[..., BEATS:].log_softmax(dim=2)).sum(dim=2)
        harmony_loss = _mean(harmony, attended & (classes.sum(dim=2) > 0))
        loss = self.beat_weight * beat_loss + self.harmony_weight * harmony_loss
        return {"loss": loss, "beat_loss": beat_loss.detach(), "harmony_loss": harmony_loss.detach()}


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)
