"""`mert`: the last layer of MERT-v1 (Li et al., arXiv 2306.00107), 75 vectors a second.

MERT's repository brings Python code, which we do not run. It is not needed: as published, MERT-v1 (95M and 330M) is a
HuBERT, which the transformers library has built in. What MERT's code adds (constant-Q features, DeepNorm, batch norm of
the positions) is switched off in both configs; one that switches it on is refused. `attention_relax`, set in the 330M
model, is only read by the DeepNorm layers. Checked against the config and the code that are published beside the
weights. Licence of the weights: CC-BY-NC-4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stage_cli.core.evaluation.embeddings.embedding import Embedding, padded, pieces
from stage_cli.core.evaluation.embeddings.pretrained import build, network_directory, read_tensors
from stage_cli.core.model_config import read_config
from stage_cli.errors import WeightsError

MERT_DEFAULT = "m-a-p/MERT-v1-95M"

_TYPES = ("mert_model", "hubert")
_NOT_HUBERT = ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")
_PREPROCESSOR = "preprocessor_config.json"
_SECONDS = 30  # attention grows with the square of the length


class MertEmbedding(Embedding):
    """The last hidden states of a MERT-v1, `[frames, width]`.

    Args:
        source: a directory or Hub id.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: no such source.
        HubError: it cannot be fetched.
        WeightsError: it is not a MERT-v1, or not whole.
    """

    name = "mert"

    def __init__(self, source: str = MERT_DEFAULT, *, device: str = "cpu", offline: bool = False) -> None:
        from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

        directory = network_directory(source, offline=offline)
        values = read_config(directory / "config.json")
        if values.get("model_type") not in _TYPES:
            raise WeightsError(f"{directory} is not a MERT", why=f"its config.json says {values.get('model_type')!r}")
        if extra := [name for name in _NOT_HUBERT if values.get(name)]:
            raise WeightsError(
                f"{directory} is a MERT that only its own code can run",
                why=f"its config.json asks for {', '.join(extra)}, and code from elsewhere is never executed",
                next_step=f"use {MERT_DEFAULT}",
            )
        if not (directory / _PREPROCESSOR).exists():
            raise WeightsError(f"{directory} has no {_PREPROCESSOR}", next_step="fetch the MERT again")
        config = HubertConfig(
            **{name: value for name, value in values.items() if name not in ("auto_map", "model_type")}
        )
        self._device = torch.device(device)
        self._model: Any = build(HubertModel, config, read_tensors(directory), directory).to(self._device)
        self._features: Any = Wav2Vec2FeatureExtractor.from_pretrained(directory, local_files_only=True)
        self.sample_rate = int(self._features.sampling_rate)
        self.width = int(config.hidden_size)
        self._shortest = _receptive_field(config.conv_kernel, config.conv_stride)

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the hidden states of each clip, of which at most 30 s are heard at once."""
        return [
            np.concatenate([self._hidden(piece) for piece in pieces(clip, _SECONDS * self.sample_rate)])
            for clip in clips
        ]

    @torch.inference_mode()
    def _hidden(self, piece: np.ndarray) -> np.ndarray:
        clip = padded(piece, self._shortest)
        batch = self._features(clip, sampling_rate=self.sample_rate, return_tensors="pt")
        output = self._model(input_values=batch["input_values"].float().to(self._device))
        return output.last_hidden_state[0].float().cpu().numpy()


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the fewest samples that make a frame."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field
