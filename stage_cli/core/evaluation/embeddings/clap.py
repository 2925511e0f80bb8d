"""`clap`: vectors of a CLAP, which hears audio and reads text into one space (Wu et al., arXiv 2211.06687).

One vector of length 1 for each 10 s. Needs a checkpoint of the transformers library: a directory, or a Hub id.
The music checkpoint is the default (Apache-2.0).

CLAP's text score: the cosine of the angle between the vectors of a description and of audio, −1 to 1, the mean over
the audio's pieces. Real pairs reach some 0.2 to 0.5; compare with the score of true stems, not with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stage_cli.core.evaluation.embeddings.embedding import Embedding, pieces
from stage_cli.core.evaluation.embeddings.pretrained import build, network_directory, read_tensors
from stage_cli.core.model_config import read_config
from stage_cli.errors import WeightsError

CLAP_DEFAULT = "laion/larger_clap_music"

_CLAP_BATCH = 8
_NEEDED = ("preprocessor_config.json", "tokenizer.json")


class ClapEmbedding(Embedding):
    """The audio and text vectors of a CLAP.

    Args:
        source: a directory or Hub id.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: no such source.
        HubError: it cannot be fetched.
        WeightsError: it is not a CLAP, or not whole.
    """

    name = "clap"

    def __init__(self, source: str = CLAP_DEFAULT, *, device: str = "cpu", offline: bool = False) -> None:
        from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

        directory = network_directory(source, offline=offline)
        values = read_config(directory / "config.json")
        if values.get("model_type") != "clap":
            raise WeightsError(f"{directory} is not a CLAP", why=f"its config.json says {values.get('model_type')!r}")
        for file in _NEEDED:
            if not (directory / file).exists():
                raise WeightsError(f"{directory} has no {file}", next_step="fetch the CLAP again")
        self._device = torch.device(device)
        self._model: Any = build(ClapModel, ClapConfig(**values), read_tensors(directory), directory).to(self._device)
        self._features: Any = ClapFeatureExtractor.from_pretrained(directory, local_files_only=True)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.sample_rate = int(self._features.sampling_rate)
        self.width = int(self._model.config.projection_dim)

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one vector for each 10 s; shorter audio is repeated, as the feature extractor does it."""
        cut = [pieces(clip, int(self._features.nb_max_samples)) for clip in clips]
        flat = [piece for several in cut for piece in several]
        rows = np.concatenate([self._audio(flat[first : first + _CLAP_BATCH]) for first in range(0, len(flat), _CLAP_BATCH)])
        return np.split(rows, np.cumsum([len(several) for several in cut])[:-1])

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of B descriptions, `[B, width]` float32, each of length 1.

        Raises:
            ValueError: there is none, or one is empty.
        """
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("descriptions must not be empty")
        # RoBERTa counts positions from 2: two fewer tokens than positions.
        longest = int(self._model.config.text_config.max_position_embeddings) - 2
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt").to(
            self._device
        )
        output = self._model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return output.pooler_output.float().cpu().numpy()

    @torch.inference_mode()
    def _audio(self, clips: list[np.ndarray]) -> np.ndarray:
        batch = self._features(clips, sampling_rate=self.sample_rate, return_tensors="pt").to(self._device)
        # The library marks one clip of each batch at random as longer than it is; none of ours is.
        longer = torch.zeros(len(clips), 1, dtype=torch.bool, device=self._device)
        output = self._model.get_audio_features(input_features=batch["input_features"].float(), is_longer=longer)
        return output.pooler_output.float().cpu().numpy()


def text_score(clap: ClapEmbedding, audio: np.ndarray, sample_rate: int, description: str) -> float:
    """Return how well audio fits a description, −1 to 1; nan if the description is empty or the audio silent.

    Args:
        clap: the embedding.
        audio: mono `[samples]`.
        sample_rate: Hz.
        description: what it should sound like.

    Raises:
        ValueError: the audio is empty, not mono or not finite.
    """
    heard = clap.embed(audio, sample_rate)
    if not description.strip() or not np.any(audio):
        return float("nan")
    return cosine(heard, clap.embed_text([description]))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean cosine of the angles between all rows of two tables, `[n, width]` and `[m, width]`."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return float(np.mean((a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))))
