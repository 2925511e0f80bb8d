"""Change speed and pitch of target and context together. Imports no torch.

The stretch is Signalsmith's (https://github.com/Signalsmith-Audio/signalsmith-stretch), through python-stretch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.config import DataConfig
from stage_cli.errors import StageError

LEAD_SECONDS = 0.24
"""Heard by the stretch before and after the chunk, at the speed of the song: more than one of its blocks (0.12 s)."""


@dataclass(frozen=True)
class Augmentation:
    """One change of speed and pitch.

    Attributes:
        speed: 1.2 plays 20 % faster.
        semitones: up, or down if negative.
    """

    speed: float = 1.0
    semitones: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.speed == 1.0 and self.semitones == 0

    def move(self, times: np.ndarray, start: float) -> np.ndarray:
        """Return where times of a song (seconds) lie in a chunk that begins at `start` and is played at `speed`."""
        return (times - start) / self.speed


def draw_augmentation(config: DataConfig, rng: np.random.Generator) -> Augmentation:
    """Draw a speed (in steps of 1 %) and a pitch (in semitones), each with its probability, else none."""
    changes_speed, changes_pitch = rng.random(2) < (config.speed_probability, config.pitch_probability)
    speed = round(float(rng.uniform(*config.speed)), 2)
    semitones = int(rng.integers(-config.pitch, config.pitch + 1))
    # All are drawn in any case, so that one setting does not change what another one draws.
    return Augmentation(speed if changes_speed else 1.0, semitones if changes_pitch else 0)


def stretch(
    audio: np.ndarray, augmentation: Augmentation, sample_rate: int, *, lead_frames: int, frames: int
) -> np.ndarray:
    """Change speed and pitch of all channels in one call, so that they cannot drift apart.

    Args:
        audio: `[channels, samples]` float32: the chunk with `lead_frames` of what comes before, and as much after it.
        augmentation: what to change.
        sample_rate: Hz.
        lead_frames: samples before the chunk.
        frames: samples to return.

    Returns:
        `[channels, frames]` float32; its first sample is where the chunk begins, within one sample.

    Raises:
        StageError: the stretch gave too little audio, or samples that are not finite.
    """
    import python_stretch

    processor = python_stretch.Signalsmith.Stretch(0)
    processor.preset(len(audio), sample_rate)
    processor.setTimeFactor(augmentation.speed)
    processor.setTransposeSemitones(augmentation.semitones)
    # It compensates its own latency: the first sample out is the first sample in.
    stretched = np.asarray(processor.process(np.ascontiguousarray(audio, dtype=np.float32)))
    first = round(lead_frames / augmentation.speed)
    chunk: np.ndarray = stretched[:, first : first + frames]
    if chunk.shape != (len(audio), frames) or not np.isfinite(chunk).all():
        raise StageError(
            f"the time stretch failed at speed {augmentation.speed:g}, {augmentation.semitones:+d} semitones",
            why=f"it made {stretched.shape[1] - first} samples of {frames}, or samples that are no numbers",
            next_step="set data.speed_probability and data.pitch_probability to 0, and report it",
        )
    return np.ascontiguousarray(chunk)
