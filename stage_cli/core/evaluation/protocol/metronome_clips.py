"""The metronome set, as published: every tempo from 100 to 179, two takes each, each beginning at a random moment."""

from __future__ import annotations

import numpy as np

from stage_cli.core.evaluation.protocol.clips import Clip, ClipPlan, ClipSource, numbered
from stage_cli.core.evaluation.protocol.settings import EvaluationConfig
from stage_cli.core.evaluation.protocol.song_clips import RATE
from stage_cli.core.rhythm import constant_grid, metronome

TEMPI = range(100, 180)
"""Beats a minute."""

TAKES = 2

LATEST_BEAT = 0.3
"""Seconds of the first beat, at most."""

_BEATS_PER_BAR = 4


class MetronomeClips(ClipSource):
    """Click tracks in 4/4. Takes of one tempo count as one song.

    Args:
        config: of the evaluation.
    """

    has_targets = False

    def __init__(self, config: EvaluationConfig) -> None:
        self._seconds = config.clip_seconds
        pairs = [(bpm, take) for bpm in TEMPI for take in range(TAKES)]
        plans = [
            ClipPlan("", f"{bpm} bpm", f"{bpm} bpm, take {take + 1}", "metronome", f"{bpm} bpm {take}")
            for bpm, take in pairs
        ]
        self.plans = numbered(plans, config.generation.seed)
        self._tempi = [bpm for bpm, _ in pairs]

    def clip(self, index: int, digest: str) -> Clip:
        """Make a click track."""
        offset = float(np.random.default_rng(self.plans[index].seed).uniform(0, LATEST_BEAT))
        bpm = float(self._tempi[index])
        grid = constant_grid(bpm, _BEATS_PER_BAR, self._seconds, offset)
        return Clip(
            plan=self.plans[index],
            digest=digest,
            start=0.0,
            context_stems=(),
            beats=np.array(grid.beats),
            downbeats=np.array(grid.downbeats),
            bpm=bpm,
            key=None,
            description="",
            context=metronome(grid, self._seconds, RATE),
            target=None,
            sample_rate=RATE,
        )
