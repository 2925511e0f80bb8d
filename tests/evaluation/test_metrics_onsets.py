"""The grid of 8th notes, and onset precision, recall and F in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stage_cli.core.evaluation.metrics import eighth_grid, onset_f, onset_precision, onset_recall

BEATS = np.arange(0.4, 9.9, 0.5)
GRID = np.arange(0.15, 10, 0.25)


def test_the_grid_reaches_both_ends() -> None:
    np.testing.assert_allclose(eighth_grid(BEATS, 10.0), GRID, atol=1e-9)
    np.testing.assert_allclose(eighth_grid(BEATS[5:8], 10.0), GRID, atol=1e-9)
    np.testing.assert_allclose(eighth_grid([1.0, 2.0], 3.0), np.arange(0, 3.1, 0.5), atol=1e-9)


def test_the_grid_follows_the_beats() -> None:
    beats = [1.0, 1.6, 2.4, 2.8]
    expected = [0.1, 0.4, 0.7, 1.0, 1.3, 1.6, 2.0, 2.4, 2.6, 2.8, 3.0, 3.2]
    np.testing.assert_allclose(eighth_grid(beats, 3.3), expected, atol=1e-9)


def test_the_grid_of_any_beats() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seconds = rng.uniform(2, 12)
        beats = np.sort(rng.uniform(0, seconds, rng.integers(2, 30)))
        grid = eighth_grid(beats, seconds)
        assert (np.diff(grid) > 0).all()
        assert 0 <= grid[0] < (beats[1] - beats[0]) / 2 + 1e-9
        assert 0 <= seconds - grid[-1] < (beats[-1] - beats[-2]) / 2 + 1e-9
        first = np.flatnonzero(np.isclose(grid, beats[0]))[0]
        np.testing.assert_allclose(grid[first::2][: len(beats)], beats)
        np.testing.assert_allclose(grid[first + 1 :: 2][: len(beats) - 1], (beats[1:] + beats[:-1]) / 2)


def test_beats_beyond_the_clip_are_no_grid() -> None:
    assert eighth_grid([0.5, 1.0, 1.5, 2.0], 1.3).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.25])


@pytest.mark.parametrize("beats", [[], [1.0]])
def test_too_few_beats(beats: list[float]) -> None:
    assert len(eighth_grid(beats, 10.0)) == 0
    assert math.isnan(onset_recall(BEATS, beats))
    assert math.isnan(onset_precision(BEATS, eighth_grid(beats, 10.0)))
    assert math.isnan(onset_f(BEATS, beats, 10.0))


@pytest.mark.parametrize(
    ("onsets", "precision", "recall"),
    [
        pytest.param(BEATS, 1, 1, id="on-the-beats"),
        pytest.param(GRID, 1, 1, id="on-the-grid"),
        pytest.param(BEATS + 0.03, 1, 1, id="30-ms-late"),
        pytest.param(BEATS - 0.03, 1, 1, id="30-ms-early"),
        pytest.param(BEATS + 0.04, 0, 1, id="40-ms-late"),
        pytest.param(BEATS + 0.05, 0, 1, id="50-ms-late"),
        pytest.param(BEATS + 0.06, 0, 0, id="60-ms-late"),
        pytest.param(BEATS + 0.25, 1, 0, id="off-beat"),
        pytest.param(BEATS[::2], 1, 10 / 19, id="half-the-beats"),
        pytest.param(np.sort([*BEATS, *(BEATS + 0.125), *(BEATS + 0.375)]), 1 / 3, 1, id="sixteenths-between"),
        pytest.param(np.sort([*BEATS, *(BEATS + 0.01)]), 1, 1, id="double-hits"),
        pytest.param(BEATS[:1], 1, 1 / 19, id="one-onset"),
    ],
)
def test_closed_forms(onsets: np.ndarray, precision: float, recall: float) -> None:
    assert len(BEATS) == 19
    grid = eighth_grid(BEATS, 10.0)
    assert onset_precision(onsets, grid) == pytest.approx(precision)
    assert onset_recall(onsets, BEATS) == pytest.approx(recall)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert onset_f(onsets, BEATS, 10.0) == pytest.approx(expected)


def test_no_onsets() -> None:
    assert math.isnan(onset_precision([], GRID))
    assert onset_recall([], BEATS) == onset_f([], BEATS, 10.0) == 0


def test_swung_eighths_are_beside_the_grid() -> None:
    swung = np.sort([*BEATS, *(BEATS + 0.5 * 2 / 3)])
    assert onset_precision(swung, eighth_grid(BEATS, 10.0)) == 0.5


def test_chance_is_what_the_docstring_says() -> None:
    rng = np.random.default_rng(0)
    beats = np.arange(0.2, 10, 0.5)
    for count, expected in ((30, 0.24), (60, 0.31)):
        values = [onset_f(np.sort(rng.uniform(0, 10, count)), beats, 10.0) for _ in range(400)]
        assert np.mean(values) == pytest.approx(expected, abs=0.02)


def test_bad_times() -> None:
    with pytest.raises(ValueError, match="onsets must rise"):
        onset_f([0.2, 0.1], BEATS, 10.0)
    with pytest.raises(ValueError, match="beats must be finite"):
        onset_recall(BEATS, [-1.0, 1.0])
    with pytest.raises(ValueError, match="the grid must rise"):
        onset_precision(BEATS, [1.0, 1.0])
    with pytest.raises(ValueError, match="length must be above 0 seconds, not 0"):
        eighth_grid(BEATS, 0)
