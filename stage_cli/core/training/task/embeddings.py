"""First embeddings of a model from scratch that know what its codec's tokens sound like.

With random ones a model has to hear each of thousands of tokens many times before it knows that two of them sound
alike. The codec knows from its first day: the vectors of a frame's tokens sum to the latents that the frame sounds of.
So one random projection of the codebooks, the same for all of them, gives a model those latents, projected.
"""

from __future__ import annotations

import torch
from torch import Tensor


def embeddings_of_codec(embeddings: Tensor, codebooks: Tensor, seed: int) -> Tensor:
    """Mix random embeddings with a projection of the codebooks, half of the variance each.

    Args:
        embeddings: `[K, V, D]`, random; those of special tokens, behind the codes, stay.
        codebooks: `[K, codebook_size, latent dimension]` of the codec.
        seed: of the projection.

    Returns:
        `[K, V, D]`; codebooks keep their sizes beside each other, which tell how much each says.
    """
    K, size, latent = codebooks.shape
    centred = codebooks.float() - codebooks.float().mean(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    projected = centred @ torch.randn(latent, embeddings.shape[2], generator=generator)
    drawn = embeddings[:, :size]
    projected *= drawn.std() / projected.std().clamp(min=1e-12)
    mixed = embeddings.clone()
    mixed[:K, :size] = (drawn + projected) * 0.5**0.5
    return mixed
