"""How loud a model hears its context."""

from __future__ import annotations

import math

from stage_cli.core.model_config import StageConfig

# A peak under this is called silent, in dBFS.
SILENCE = -60.0

# Peaks of music, in dBFS, that models take as they are. A codec makes other tokens of quiet music, and models learn
# from songs: `bundled-drums` made nearly nothing of contexts of −50 dBFS (docs/dev/bundled-models.md).
USUAL = (-20.0, 3.0)


def decibels(peak: float) -> float:
    """Turn a peak into dBFS; that of nothing is −240."""
    return 20 * math.log10(max(peak, 1e-12))


def level_change(peak: float, config: StageConfig) -> float:
    """How much louder a model is to hear a context than it is, in dB: 0 for one of a usual level, and for silence.

    Others are brought to the middle of what is usual. A plain MusicGen hears all as they are: it goes on in their own
    sound, and is to go on at their own level.

    Args:
        peak: of the whole context, in mono, 1 is full scale.
        config: the model's.
    """
    level = decibels(peak)
    if not config.lm.separator or level < SILENCE or USUAL[0] <= level <= USUAL[1]:
        return 0.0
    return sum(USUAL) / 2 - level
