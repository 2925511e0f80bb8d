"""Audio to tokens: targets and contexts of a batch through the frozen codec, in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.codec.codec import Codec
from stage_cli.core.data.collate import AudioBatch
from stage_cli.core.training.task.batches import CodeBatch
from stage_cli.core.training.task.labels import label_batch


@torch.no_grad()
def encode_batch(codec: Codec, batch: AudioBatch, *, labels: bool = False) -> CodeBatch:
    """Encode a batch, in fp32 whatever the precision around it is.

    Each context is followed by silence up to the target's length and goes through the codec together with the targets,
    as 2·B rows of one length: what an item's neighbours are changes neither what is computed of it nor its codes. Of
    the context's codes those are its own that hold at least one of its samples.

    Args:
        codec: in evaluation mode; the codes come back to the batch's device.
        batch: no context longer than the targets.
        labels: also label the frames.

    Returns:
        Codes with Tt = ceil(samples of a target / hop).
    """
    rows, samples = batch.target.shape
    context = F.pad(batch.context, (0, samples - batch.context.shape[1]))
    audio = torch.cat([batch.target, context])[:, None].to(_device(codec))
    with torch.autocast(audio.device.type, enabled=False):
        codes = codec.encode(audio).to(batch.target.device)
    frames = tuple(codec.config.frames(own) for own in batch.context_samples.tolist())
    labelled = label_batch(batch, codec.config) if labels else None
    return CodeBatch(codes[rows:, :, : max(frames)], frames, codes[:rows], batch.descriptions, batch.items, labelled)


def _device(codec: Codec) -> torch.device:
    codebooks: Tensor = codec.quantizer.codebooks
    return codebooks.device
