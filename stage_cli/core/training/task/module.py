"""The trainable part and its loss: the language model, with the projection of the text in front of it.

Rows of one batch have contexts of unequal lengths. What STAGE masks (step 0, left padding, dropped contexts) always
lies before the first attended step of a row, so each row is moved to begin with that step. Shorter rows then end in
padding, which a causal model never sees: there is no mask, positions are the same in all rows (unless they restart at
the separator), and attention takes the fastest kernel. The outputs are those of the masked sequence (docs/model.md).

A model that reads its context first (`LanguageModelConfig.reads_context_first`) does so with masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.delay_pattern import delay
from stage_cli.core.lm.prefix import Layout, delayed_sequence, join
from stage_cli.core.lm.transformer import LanguageModel, ReadContext
from stage_cli.core.training.task.batches import TokenBatch
from stage_cli.core.training.task.listening import Listening

_IGNORED = -100


class StemModule(nn.Module):
    """Tokens to loss.

    Args:
        lm: the language model.
        text_projection: text encoder's width → model width; None for a model without text.
        codebook_weights: share of each codebook in the loss, K of them, that sum to one.
        listening: further losses on what the model hears in its context, for one that reads that first; or None.
    """

    codebook_weights: Tensor

    def __init__(
        self,
        lm: LanguageModel,
        text_projection: nn.Linear | None,
        codebook_weights: Sequence[float],
        listening: Listening | None = None,
    ) -> None:
        super().__init__()
        if len(codebook_weights) != lm.config.codebooks:
            raise ValueError(f"{len(codebook_weights)} weights for {lm.config.codebooks} codebooks")
        self.lm = lm
        self.text_projection = text_projection
        self.listening = listening
        self.register_buffer("codebook_weights", torch.tensor(list(codebook_weights)), persistent=False)

    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the loss.

        Returns:
            "loss", a scalar in fp32: the weighted mean over the codebooks of "codebook_losses" `[K]`, which have no
            gradient. In training, with `listening`, its weighted losses are added, and "beat_loss" and "harmony_loss"
            are there.
        """
        if self.listening is None or not self.training:
            losses = codebook_losses(self.target_logits(batch), batch.target)
            return {"loss": (losses * self.codebook_weights).sum(), "codebook_losses": losses.detach()}
        logits, context = self.after_context(batch)
        losses = codebook_losses(logits, batch.target)
        labels = batch.labels
        if labels is None:
            raise ValueError("learning from the context alone needs labels")
        heard = self.listening(context.states[..., : self.lm.config.dimension], context.attended, labels)
        loss = (losses * self.codebook_weights).sum() + heard.pop("loss")
        return {"loss": loss, "codebook_losses": losses.detach(), **heard}

    def target_logits(self, batch: TokenBatch) -> Tensor:
        """Return logits `[B, Tt, K, codebook_size]` fp32 at the steps that predict the target.

        At [b, j, k] stands what predicts frame j − k of codebook k; where j < k, what is given already.
        """
        if self.lm.config.reads_context_first:
            return self.after_context(batch)[0]
        tokens, first_outputs = training_sequence(batch, self.lm.config)
        positions = torch.arange(tokens.shape[2], device=tokens.device)[None]
        if self.lm.config.restarts:
            # What predicts the target's first frame is the separator's first step.
            own, restart = positions.expand(len(batch), -1), first_outputs[:, None]
            positions = torch.where(own >= restart, own - restart, own)
        text, text_mask = self._text(batch)
        x = self.lm.hidden(tokens, positions, text, text_mask=text_mask)
        outputs = first_outputs[:, None] + torch.arange(batch.target.shape[2], device=tokens.device)
        # The heads are as wide as the whole model: only the steps that are learned go through them.
        learned = x.gather(1, outputs[..., None].expand(-1, -1, x.shape[2]))
        return self.lm.logits(learned).transpose(1, 2)

    def after_context(self, batch: TokenBatch) -> tuple[Tensor, ReadContext]:
        """Return what `target_logits` does, and the context as it was read, for a model that reads that first."""
        config = self.lm.config
        tokens, attended, positions = delayed_sequence(batch.context, batch.seen_target(config.pad), config)
        # Step 0 holds nothing; the separator's first step predicts the target's first frame.
        read = slice(1, batch.context.shape[2] + 1)
        learned = slice(read.stop, read.stop + batch.target.shape[2])
        text, text_mask = self._text(batch)
        context = self.lm.read_context(tokens[:, :, read], attended[:, read], positions[:, read], text, text_mask)
        x = self.lm.hidden_after(context, tokens[:, :, learned], positions[:, learned], text, text_mask)
        return self.lm.logits(x).transpose(1, 2), context

    def _text(self, batch: TokenBatch) -> tuple[Tensor | None, Tensor | None]:
        """Projected text `[B, L, D]` and where it takes part `[B, 1, 1, L]`; None for a model without text."""
        if self.text_projection is None:
            return None, None
        vectors, mask = batch.text, batch.text_mask
        if vectors is None or mask is None:
            # Zeros add nothing. They go through all the same: each weight has a gradient in each pass, as the
            # gradients' mean over processes and passes needs.
            width = self.text_projection.in_features
            vectors = batch.target.new_zeros(len(batch), 1, width, dtype=torch.float32)
            mask = batch.target.new_zeros(len(batch), 1, dtype=torch.bool)
        projected = self.text_projection(vectors)
        projected = projected * mask[..., None].to(projected.dtype)
        # Where there is no description at all, the zeros are attended to, for a softmax over nothing is not a number.
        return projected, (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]


def training_sequence(batch: TokenBatch, config: LanguageModelConfig) -> tuple[Tensor, Tensor]:
    """Lay out a batch: delayed, cut to S = T + 1 steps, each row from its first attended step on.

    Returns:
        Tokens `[B, K, steps]` (the last step predicts nothing and is left out), and the step `[B]` of each row whose
        output predicts the target's first frame of codebook 0.
    """
    context_frames, target_frames = batch.context.shape[2], batch.target.shape[2]
    layout = Layout(context_frames, target_frames, config.separator, config.codebooks)
    delayed = delay(join(batch.context, batch.seen_target(config.pad), config), config.pad)[:, :, : layout.frames]
    starts = [layout.first_step + context_frames - own for own in batch.context_frames]
    device = delayed.device
    moved = torch.tensor(starts).to(device, non_blocking=True)
    steps = torch.arange(layout.frames - min(starts), device=device) + moved[:, None]
    steps = steps.clamp(max=layout.frames - 1)[:, None].expand(-1, config.codebooks, -1)
    return delayed.gather(2, steps), layout.target_column - moved


def codebook_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of each codebook over the items and the frames of the target that the cut leaves.

    Args:
        logits: `[B, Tt, K, codebook_size]` of `StemModule.target_logits`.
        target: `[B, K, Tt]`.

    Returns:
        `[K]`; codebook k has B · (Tt − k) tokens.
    """
    B, K, frames = target.shape
    labels = delay(target, _IGNORED)[:, :, 1 : frames + 1].transpose(1, 2)
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=_IGNORED, reduction="none")
    counts = B * (frames - torch.arange(K, device=target.device)).clamp(min=1)
    return losses.view(B, frames, K).sum(dim=(0, 1)) / counts
