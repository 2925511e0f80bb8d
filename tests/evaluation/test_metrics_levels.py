"""Loudness beside pyloudnorm; silence and clipping."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest

from stage_cli.core.evaluation.metrics import clipped, loudness, loudness_difference, silent


def noise(rate: int, gain: float = 0.1, seconds: float = 4.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    samples = np.random.default_rng(0).standard_normal(len(time)) * np.exp(-3 * (time % 0.7))
    return (gain * samples).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
def test_loudness_is_pyloudnorms(rate: int) -> None:
    reference = pyloudnorm.Meter(rate).integrated_loudness(noise(rate).astype(np.float64))
    assert loudness(noise(rate), rate) == pytest.approx(reference, abs=0.05)


def test_loudness_difference() -> None:
    loud, quiet = loudness(noise(32_000), 32_000), loudness(noise(32_000, 0.05), 32_000)
    assert loudness_difference(loud, quiet) == pytest.approx(6.02, abs=0.01)
    assert loudness_difference(quiet, loud) == loudness_difference(loud, quiet)
    assert math.isnan(loudness_difference(math.nan, loud))


def test_silence_has_no_loudness() -> None:
    assert math.isnan(loudness(np.zeros(64_000), 32_000))
    assert math.isnan(loudness(noise(32_000)[:12_000], 32_000))
    assert math.isnan(loudness(np.zeros(0), 32_000))


def test_silent() -> None:
    audio = np.zeros(1000, dtype=np.float32)
    assert silent(audio) == silent(audio[:0]) == 1
    audio[500] = -0.0099
    assert silent(audio) == 1
    audio[500] = -0.0101
    assert silent(audio) == 0


def test_clipped() -> None:
    sine = np.sin(np.arange(32_000) * 0.07)
    assert clipped(0.999 * sine) == 0
    assert clipped(np.clip(2 * sine, -1, 1)) == pytest.approx(2 / 3, abs=0.01)  # |sin| > 1/2
    assert clipped(np.array([0.0, 32767 / 32768, -1.0, 1.5])) == 0.75
    assert math.isnan(clipped(np.zeros(0)))


def test_bad_audio() -> None:
    for measure in (silent, clipped, lambda audio: loudness(audio, 32_000)):
        with pytest.raises(ValueError, match=r"must be mono, \[samples\], not \[5, 2\]"):
            measure(np.zeros((5, 2)))
        with pytest.raises(ValueError, match="must be finite"):
            measure(np.array([0.0, np.inf]))
