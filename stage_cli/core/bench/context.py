"""Something to accompany: clicks over faint noise, as a stereo file at the rate of a CD."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.rhythm import constant_grid, metronome_blocks

RATE = 44_100  # Hz
_BPM, _BEATS_PER_BAR = 120, 4
_CLICKS, _NOISE = 0.5, 0.01


def write_context(path: Path, seconds: float) -> None:
    """Write it as a WAV file.

    Raises:
        AudioError: the disk is full.
    """
    # Noise, for nothing is ever silent in a real song; a network's numbers may die away in silence, which is slow.
    noise = np.random.default_rng(0)
    grid = constant_grid(_BPM, _BEATS_PER_BAR, seconds, 0.0)
    with AtomicAudioWriter(path, RATE, 2) as file:
        for block in metronome_blocks(grid, seconds, RATE):
            sides = _NOISE * noise.standard_normal((len(block), 2), dtype=np.float32)
            file.write(np.clip(_CLICKS * block[:, None] + sides, -1.0, 1.0))
