"""Audio to vectors, for the distribution metrics: one small class for each embedding, found by its name.

A new embedding is one class in one file here, and one line in `registry.py`:

    class Brightness(Embedding):
        name, sample_rate, width = "brightness", 16_000, 1

        def vectors(self, clips):
            return [np.abs(clip).mean(keepdims=True)[None] for clip in clips]

`vectors` gets mono clips at the class's own rate, checked and not empty, and returns `[frames, width]` for each.

Embeddings by name: `codec`, `clap`, `mert`, `vggish`, each also as `name=SOURCE`. The names need no torch.

What every embedding does: check the audio, bring it to the embedding's sample rate, return vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stage_cli.core.audio.chunks import resample
from stage_cli.core.evaluation.settings import EMBEDDINGS
from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.model import StageModel


def load_embedding(
    spec: str, *, model: StageModel | None = None, device: str = "cpu", offline: bool = False
) -> Embedding:
    """Load an embedding.

    Args:
        spec: its name; or `name=SOURCE`, a directory or Hub id (a file for `vggish`). Without one, `codec` is that of
            `model`, and `clap` and `mert` are the published ones.
        model: the model that is evaluated, for `codec`.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: an unknown name, or a source that is missing.
        HubError: it cannot be fetched.
        WeightsError: it cannot be used.
    """
    name, _, source = spec.partition("=")
    sources = (source,) if source else ()
    if name == "codec":
        from stage_cli.core.evaluation.pretrained import CodecEmbedding
        from stage_cli.core.weights.checkpoint import load_codec

        if source:
            return CodecEmbedding(load_codec(source, device=device, offline=offline))
        if model is not None:
            return CodecEmbedding(model.codec)
        raise UsageError(
            "The embedding 'codec' needs a codec", next_step="give a model, or codec=facebook/encodec_32khz"
        )
    if name == "clap":
        from stage_cli.core.evaluation.pretrained import ClapEmbedding

        return ClapEmbedding(*sources, device=device, offline=offline)
    if name == "mert":
        from stage_cli.core.evaluation.pretrained import MertEmbedding

        return MertEmbedding(*sources, device=device, offline=offline)
    if name == "vggish":
        from stage_cli.core.evaluation.pretrained import VggishEmbedding

        if not source:
            raise UsageError("The embedding 'vggish' needs its weights", next_step="name the file: vggish=FILE")
        return VggishEmbedding(source, device=device)
    raise UsageError(f"There is no embedding '{name}'", why=f"known are: {', '.join(EMBEDDINGS)}")


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
