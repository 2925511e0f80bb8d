"""The key of a song from its audio."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.features.accents import RATE
from stage_cli.core.data.features.essentia_library import essentia_algorithms
from stage_cli.core.data.features.rhythm import sounding_range
from stage_cli.core.data.features.annotations import Key

_SHORTEST_FOR_KEY = 0.5  # seconds


def find_key(harmonic: np.ndarray) -> Key | None:
    """Find the key by essentia's KeyExtractor (profiles "bgate"); None where nothing sounds.

    Args:
        harmonic: what has pitch, without drums and percussion, `[frames]` float32 at 44.1 kHz.

    Raises:
        StageError: essentia is not installed.
    """
    first, last = sounding_range(harmonic)
    if last - first < _SHORTEST_FOR_KEY * RATE:
        return None
    sounding = np.ascontiguousarray(harmonic[first:last], dtype=np.float32)
    tonic, scale, strength = essentia_algorithms().KeyExtractor(sampleRate=RATE)(sounding)
    strength = round(min(1.0, max(0.0, float(strength))), 4)
    return Key(str(tonic), str(scale), strength, "essentia") if strength > 0 else None
