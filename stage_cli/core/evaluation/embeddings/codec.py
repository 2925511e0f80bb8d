"""`codec`: what a codec's encoder writes before quantization, one vector for each frame (50 a second).

Always there and offline: the model that is evaluated carries its codec. Frames hear what sounds together at one moment,
not form or phrasing. The reference toolkits' `encodec-emb` does the same with another EnCodec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stage_cli.core.codec.codec import Codec
from stage_cli.core.evaluation.embeddings.embedding import Embedding


class CodecEmbedding(Embedding):
    """The latents of a codec, `[frames, D]`.

    Args:
        codec: a model's (`StageModel.codec`), or one read by `load_codec`.
    """

    name = "codec"

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.sample_rate = codec.config.sample_rate
        self.width = codec.config.dimension

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the latents of each clip; a codec of several channels gets the clip in each."""
        return [self._latents(clip) for clip in clips]

    @torch.inference_mode()
    def _latents(self, clip: np.ndarray) -> np.ndarray:
        weight = next(self._codec.parameters())
        audio = torch.from_numpy(clip).to(weight.device, weight.dtype).expand(1, self._codec.config.channels, -1)
        return self._codec.latents(audio)[0].T.float().cpu().numpy()
