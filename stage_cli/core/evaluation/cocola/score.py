"""The COCOLA score of a context and a stem, and what true and shuffled pairs score.

Audio is brought to 16 kHz and cut into windows of 5 s that begin every 2.5 s; the score is the mean over the windows in
which both sound, and nan where there is none: audio shorter than 5 s, or silence. No unit and no fixed range: it is a
logit of the contrastive training, so read it between its anchors. True pairs are contexts with their own stems,
shuffled pairs contexts with the stems of other songs. Higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stage_cli.core.data.audio_chunks import resample
from stage_cli.core.evaluation.cocola.checkpoint import load_network
from stage_cli.core.evaluation.cocola.features import BANDS, FRAMES, RATE, SAMPLES, features
from stage_cli.core.evaluation.cocola.network import CHANNELS, MODES, CocolaNetwork, Mode
from stage_cli.core.evaluation.embeddings.spectra import frames
from stage_cli.core.evaluation.metrics.pairing import other_songs

SILENCE = 1e-4
"""A window whose peak is below this (−80 dBFS) is silent."""

_BATCH = 8


@dataclass(frozen=True)
class CocolaVectors:
    """What the network makes of one piece of audio.

    Attributes:
        vectors: for each mode `[windows, D]`, on the CPU.
        sounds: which windows are not silent, `[windows]`.
    """

    vectors: dict[Mode, torch.Tensor]
    sounds: np.ndarray


@dataclass(frozen=True)
class CocolaScore:
    """The three scores; nan where no window of both sounds."""

    both: float
    harmonic: float
    percussive: float

    def metrics(self) -> dict[str, float]:
        """Return the scores under the names of the metrics."""
        return {"cocola": self.both, "cocola_harmonic": self.harmonic, "cocola_percussive": self.percussive}


@dataclass(frozen=True)
class PairAnchor:
    """Mean scores of true and of shuffled pairs; nan counts for nothing."""

    true: CocolaScore
    shuffled: CocolaScore


class Cocola:
    """A COCOLA model.

    Args:
        network: with its weights.
        device: where it runs.
    """

    def __init__(self, network: CocolaNetwork, *, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu") -> Cocola:
        """Load the user's checkpoint.

        Raises:
            WeightsError: it cannot be read, wants to run code, or is not a COCOLA of harmonic and percussive mels.
        """
        return cls(load_network(Path(path)), device=device)

    @torch.inference_mode()
    def vectors(self, audio: np.ndarray, sample_rate: int) -> CocolaVectors:
        """Return the vectors of mono audio `[samples]`, which serve for any number of pairs.

        Raises:
            ValueError: the audio is not mono or not finite.
        """
        windows = _windows(audio, sample_rate)
        heard = np.array([features(window) for window in windows], dtype=np.float32).reshape(
            -1, CHANNELS, BANDS, FRAMES
        )
        batches = torch.from_numpy(heard).to(self._device).split(_BATCH)
        made = {mode: torch.cat([self._network(batch, mode) for batch in batches]).cpu() for mode in MODES}
        return CocolaVectors(made, np.abs(windows).max(axis=1, initial=0.0) >= SILENCE)

    @torch.inference_mode()
    def compare(self, context: CocolaVectors, stem: CocolaVectors) -> CocolaScore:
        """Return the scores of a context and a stem that begin together; the longer one's end is left out."""
        count = min(len(context.sounds), len(stem.sounds))
        sounds = torch.from_numpy(context.sounds[:count] & stem.sounds[:count])
        found = {}
        for mode in MODES:
            first, second = (side.vectors[mode][:count][sounds].to(self._device) for side in (context, stem))
            found[mode] = float(self._network.score(first, second).mean()) if len(first) else float("nan")
        return CocolaScore(found["both"], found["harmonic"], found["percussive"])

    def score(self, context: np.ndarray, stem: np.ndarray, sample_rate: int) -> CocolaScore:
        """Return the scores of a context and a stem, mono `[samples]`, that begin together.

        Raises:
            ValueError: the audio is not mono or not finite.
        """
        return self.compare(self.vectors(context, sample_rate), self.vectors(stem, sample_rate))


def pair_anchor(
    cocola: Cocola,
    contexts: Sequence[CocolaVectors],
    stems: Sequence[CocolaVectors],
    songs: Sequence[str],
    *,
    seed: int,
) -> PairAnchor:
    """Score contexts with their own stems, and with the stems of other songs.

    Args:
        cocola: the model that made the vectors.
        contexts: of each item.
        stems: the true stem of each item.
        songs: the song of each item.
        seed: of the shuffle.

    Raises:
        ValueError: the lists differ in length, or there are not two songs.
    """
    if not len(contexts) == len(stems) == len(songs):
        raise ValueError(f"{len(contexts)} contexts, {len(stems)} stems and {len(songs)} songs")
    others = other_songs(songs, seed=seed)
    true = [cocola.compare(context, stem) for context, stem in zip(contexts, stems, strict=True)]
    shuffled = [cocola.compare(context, stems[other]) for context, other in zip(contexts, others, strict=True)]
    return PairAnchor(mean_score(true), mean_score(shuffled))


def mean_score(scores: Sequence[CocolaScore]) -> CocolaScore:
    """Return the means of scores; nan counts for nothing, and is what is left of nothing."""
    table = np.array([[score.both, score.harmonic, score.percussive] for score in scores]).reshape(-1, 3)
    kept = table[~np.isnan(table).any(axis=1)]
    return CocolaScore(*(kept.mean(axis=0).tolist() if len(kept) else [float("nan")] * 3))


def _windows(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the windows of audio, `[windows, 80000]` float32 at 16 kHz."""
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"audio must be mono, [samples], not {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("audio must be finite")
    if len(samples):
        samples = resample(samples, sample_rate, RATE)
    if len(samples) < SAMPLES:
        return np.zeros((0, SAMPLES), dtype=np.float32)
    return frames(samples, SAMPLES, SAMPLES // 2)
