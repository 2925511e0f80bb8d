"""A recursive filter in stretches, against scipy's sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from stage_cli.core.audio.loudness import RecursiveFilter, k_weighting

FILTERS = {
    "K-weighting": k_weighting(44_100),
    "K-weighting, low rate": k_weighting(16_000),
    "one section": butter(2, 0.2, output="sos"),
    "five sections": butter(9, [0.05, 0.3], "bandpass", output="sos"),
    "nothing": np.array([[1.0, 0, 0, 1, 0, 0]]),
}


@pytest.mark.parametrize("sections", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_as_scipy_does(sections: np.ndarray, channels: int) -> None:
    audio = np.random.default_rng(0).standard_normal((5000, channels))
    expected = sosfilt(sections, audio, axis=0)
    np.testing.assert_allclose(RecursiveFilter(sections, channels)(audio), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cuts", [(1, 2, 3), (255, 256, 257), (100, 1000, 1001, 4999), range(7, 5000, 7)], ids=str)
def test_the_cut_into_blocks_does_not_matter(cuts: tuple[int, ...]) -> None:
    sections = FILTERS["K-weighting"]
    audio = np.random.default_rng(1).standard_normal((5000, 2)).astype(np.float32)
    pieces = RecursiveFilter(sections, 2)
    made = np.concatenate([pieces(block) for block in np.split(audio, list(cuts))])
    np.testing.assert_allclose(made, RecursiveFilter(sections, 2)(audio), rtol=0, atol=1e-11)
    assert pieces(audio[:0]).shape == (0, 2)


def test_a_long_stream_stays_exact() -> None:
    """Ten minutes at 44.1 kHz: a high pass at 38 Hz remembers, and must not drift."""
    sections, state = FILTERS["K-weighting"], np.zeros((2, 2, 1))
    made, worst = RecursiveFilter(sections, 1), 0.0
    rng = np.random.default_rng(2)
    for _ in range(60):
        block = rng.standard_normal((441_000, 1)) + 0.5
        expected, state = sosfilt(sections, block, axis=0, zi=state)
        worst = max(worst, float(np.abs(made(block) - expected).max()))
    assert worst < 1e-9
