"""What every embedding does: check the audio, bring it to the embedding's sample rate, return vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from stage_cli.core.data.audio_chunks import resample


class Embedding(ABC):
    """Audio to vectors.

    Attributes:
        name: as in the metrics' names (`fad_clap`).
        sample_rate: Hz, what the network takes.
        width: of the vectors.
    """

    name: str
    sample_rate: int
    width: int

    @abstractmethod
    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return `[frames, width]`, at least one row, for each clip `[samples]` float32 at `sample_rate`."""

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the vectors of mono audio `[samples]`: `[frames, width]` float32, at least one row.

        Raises:
            ValueError: the audio is empty, not mono or not finite.
        """
        return self.embed_batch([audio], sample_rate)[0]

    def embed_batch(self, audios: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Return the vectors of several pieces of audio, which may differ in length: a list of `[frames, width]`.

        Raises:
            ValueError: audio is empty, not mono or not finite.
        """
        clips = [resample(_checked(audio), sample_rate, self.sample_rate) for audio in audios]
        found = self.vectors(clips) if clips else []
        return [np.ascontiguousarray(rows, dtype=np.float32) for rows in found]


def padded(clip: np.ndarray, samples: int) -> np.ndarray:
    """Return the clip, with silence behind it if it is shorter than `samples`."""
    return np.pad(clip, (0, max(0, samples - len(clip))))


def pieces(clip: np.ndarray, samples: int) -> list[np.ndarray]:
    """Cut a clip `[n]` into pieces of `samples`; a last one shorter than half of that is left out, if not the only."""
    cut = [clip[first : first + samples] for first in range(0, len(clip), samples)]
    return cut[:-1] if len(cut) > 1 and 2 * len(cut[-1]) < samples else cut


def _checked(audio: np.ndarray) -> np.ndarray:
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"audio must be mono, [samples] and not empty, not {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("audio must be finite")
    return samples
