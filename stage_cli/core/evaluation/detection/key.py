"""The key of one stem, by the detector that prepares songs (essentia's KeyExtractor)."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.features import key
from stage_cli.core.data.features.accents import RATE
from stage_cli.core.data.features.annotations import Key
from stage_cli.core.evaluation.detection.mono import mono


def find_key(audio: np.ndarray, sample_rate: int) -> Key | None:
    """Find the key of what has pitch; None where nothing sounds for half a second.

    Args:
        audio: `[samples]`, without drums and percussion.
        sample_rate: Hz.

    Raises:
        ValueError: the audio is not mono or not finite.
        StageError: essentia is not installed.
    """
    return key.find_key(mono(audio, sample_rate, RATE))
