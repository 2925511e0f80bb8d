"""Listen to an output once: beats, onsets and levels, vectors of embeddings, of mixes, of COCOLA."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from stage_cli.core.data.audio_chunks import resample
from stage_cli.core.data.features import beat_this, essentia_library
from stage_cli.core.evaluation.cocola.network import MODES
from stage_cli.core.evaluation.cocola.score import Cocola, CocolaVectors
from stage_cli.core.evaluation.embeddings.clap import ClapEmbedding
from stage_cli.core.evaluation.embeddings.embedding import Embedding
from stage_cli.core.evaluation.embeddings.registry import load_embedding
from stage_cli.core.evaluation.music import hear
from stage_cli.core.evaluation.protocol.clips import Clip
from stage_cli.core.evaluation.protocol.file_clips import content_of
from stage_cli.core.evaluation.protocol.folder import digest_of
from stage_cli.core.evaluation.protocol.models import codec_device
from stage_cli.core.evaluation.protocol.records import Listened, Made
from stage_cli.core.evaluation.protocol.settings import EvaluationConfig
from stage_cli.core.evaluation.protocol.systems import System

MEASUREMENT_VERSION = 1
"""Of what is listened for: another one, and outputs are listened to again."""

_SOUNDS = "cocola_sounds"


class Listener:
    """Ears: trackers, embeddings, COCOLA; loaded when they are first needed.

    Args:
        config: of the evaluation.
        codec_content: hash of the model whose codec is the embedding `codec`; "" without one.
    """

    def __init__(self, config: EvaluationConfig, codec_content: str = "") -> None:
        self._config = config
        self._specs = [self._full(spec) for spec in config.embedding_specs]
        self.names = [spec.partition("=")[0] for spec in config.embedding_specs]
        self._settings: list[Any] = [MEASUREMENT_VERSION, config.tracker, self._specs]
        self._settings += [codec_content if "codec" in config.embedding_specs else ""]
        self._settings += [None if config.cocola is None else content_of(config.cocola)]

    @cached_property
    def embeddings(self) -> list[Embedding]:
        """The embeddings, in the order of `names`.

        Raises:
            StageError: one cannot be loaded.
        """
        device = codec_device(self._config.device)
        return [load_embedding(spec, device=device, offline=self._config.offline) for spec in self._specs]

    @cached_property
    def cocola(self) -> Cocola | None:
        """The COCOLA model, if there is one.

        Raises:
            WeightsError: its checkpoint cannot be used.
        """
        path = self._config.cocola
        return None if path is None else Cocola.load(path, device=codec_device(self._config.device))

    @property
    def clap(self) -> ClapEmbedding | None:
        """The CLAP among the embeddings, which reads text, too."""
        if "clap" not in self.names:
            return None
        return next(found for found in self.embeddings if isinstance(found, ClapEmbedding))

    def load(self) -> None:
        """Load everything now: what is missing is told before an hour's work, not after it.

        Raises:
            StageError: something cannot be loaded.
        """
        _ = self.embeddings, self.cocola
        if self._config.tracker == "beat-this":
            beat_this.tracker(beat_this.CHECKPOINT)
        else:
            essentia_library.essentia_algorithms()

    def digest(self, system: System, clip: Clip, made: Made) -> str:
        """Return what decides on what is heard in an output."""
        return digest_of(made.digest, self._stem(system, clip), system.embedded, system.mixed, self._settings)

    def listen(self, system: System, clip: Clip, audio: np.ndarray, sample_rate: int, digest: str) -> Listened:
        """Listen to an output.

        Args:
            system: that made it.
            clip: that it was made for.
            audio: `[samples]`.
            sample_rate: Hz.
            digest: to be noted.

        Raises:
            StageError: a tracker is missing.
            ValueError: the audio is not finite, or too short for an embedding.
        """
        stem = self._stem(system, clip)
        heard = hear(audio, sample_rate, stem=stem, tracker=self._config.tracker)
        arrays: dict[str, np.ndarray] = {}
        if system.embedded:
            arrays |= self._rows("stem", audio, sample_rate)
            if self.cocola is not None:
                arrays |= _cocola_arrays(self.cocola.vectors(audio, sample_rate))
        if system.mixed and clip.plan.context_kind == "mix":
            arrays |= self._rows("mix", mixed(clip, audio, sample_rate), clip.sample_rate)
        return Listened(digest, heard, arrays)

    def _stem(self, system: System, clip: Clip) -> str:
        return system.hears.get(clip.plan.context_kind, self._config.stem)

    def _rows(self, what: str, audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
        return {
            f"{what}_{name}": embedding.embed(audio, sample_rate)
            for name, embedding in zip(self.names, self.embeddings, strict=True)
        }

    def _full(self, spec: str) -> str:
        """Return `codec` as `codec=MODEL`: one codec for all systems, that of the first model."""
        return f"codec={self._config.models[0]}" if spec == "codec" and self._config.models else spec


def mixed(clip: Clip, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return context and stem together, `[samples]` at the clip's rate; as loud as both, which may be above ±1."""
    stem = resample(audio, sample_rate, clip.sample_rate)[: len(clip.context)]
    return clip.context + np.pad(stem, (0, len(clip.context) - len(stem)))


def cocola_vectors(arrays: dict[str, np.ndarray]) -> CocolaVectors | None:
    """Return the COCOLA vectors among the arrays of an output; None if there are none."""
    if _SOUNDS not in arrays:
        return None
    vectors = {mode: torch.from_numpy(arrays[f"cocola_{mode}"]) for mode in MODES}
    return CocolaVectors(vectors, arrays[_SOUNDS])


def _cocola_arrays(vectors: CocolaVectors) -> dict[str, np.ndarray]:
    found = {f"cocola_{mode}": rows.numpy() for mode, rows in vectors.vectors.items()}
    return found | {_SOUNDS: vectors.sounds}
