"""Beat and tempo metrics, against mir_eval called directly and closed forms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import mir_eval
import numpy as np
import pytest

from stage_cli.core.evaluation.metrics import beat_amlt, beat_cmlt, beat_f1, tempo_error, tempo_right

BEATS = np.arange(0.3, 10, 0.5)


def by_mir_eval(reference: np.ndarray, estimated: np.ndarray) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, correct, _, allowed = mir_eval.beat.continuity(reference, estimated)
        return [mir_eval.beat.f_measure(reference, estimated, f_measure_threshold=0.07), correct, allowed]


def ours(reference: np.ndarray, estimated: np.ndarray) -> list[float]:
    return [metric(reference, estimated) for metric in (beat_f1, beat_cmlt, beat_amlt)]


def test_random_beats_score_as_in_mir_eval() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        period = rng.uniform(0.3, 0.9)
        reference = np.arange(rng.uniform(0, period), 10, period)
        # From nearly right to nearly random, with beats left out, added, and at other metrical levels.
        estimated = np.arange(rng.uniform(0, 0.1), 10, period * rng.choice([0.5, 1, 1, 1, 2, 1.03]))
        estimated = estimated + rng.normal(0, 0.06 * rng.random(), len(estimated))
        estimated = estimated[rng.random(len(estimated)) > 0.2 * rng.random()]
        estimated = np.unique(np.abs(np.concatenate((estimated, rng.uniform(0, 10, rng.integers(3))))))
        assert ours(reference, estimated) == pytest.approx(by_mir_eval(reference, estimated), abs=1e-12)


@pytest.mark.parametrize(
    ("estimated", "expected"),
    [
        pytest.param(BEATS, (1, 1, 1), id="right"),
        pytest.param(BEATS + 0.069, (1, 1, 1), id="a-little-late"),
        pytest.param(BEATS + 0.08, (0, 1, 1), id="beyond-70-ms-but-not-17.5-percent"),
        pytest.param(BEATS + 0.25, (0, 0, 19 / 20), id="off-beat"),
        pytest.param(BEATS[::2], (2 / 3, 0, 1), id="half-the-tempo"),
        pytest.param(BEATS[:10], (2 / 3, 0.5, 0.5), id="the-first-half"),
        pytest.param(BEATS[:1], (2 / 21, 0, 0), id="one-beat"),
        pytest.param(BEATS[:0], (0, 0, 0), id="no-beat"),
    ],
)
def test_beats_by_hand(estimated: np.ndarray, expected: tuple[float, ...]) -> None:
    assert ours(BEATS, estimated) == pytest.approx(expected)
    assert ours(BEATS, estimated) == pytest.approx(by_mir_eval(BEATS, estimated))


def test_the_first_five_seconds_count() -> None:
    """mir_eval's programs trim them: a stem that finds its beat after five seconds would be perfect."""
    late = np.concatenate((BEATS[BEATS < 5] + 0.1, BEATS[BEATS >= 5]))
    assert mir_eval.beat.f_measure(mir_eval.beat.trim_beats(BEATS), mir_eval.beat.trim_beats(late)) == 1
    assert beat_f1(BEATS, late) == pytest.approx(0.5)


@pytest.mark.filterwarnings("error")
def test_without_truth_there_is_no_score() -> None:
    assert all(math.isnan(value) for value in ours(BEATS[:0], BEATS))
    assert beat_f1(BEATS[:1], BEATS[:1]) == 1
    assert math.isnan(beat_cmlt(BEATS[:1], BEATS[:1]))
    assert math.isnan(beat_amlt(BEATS[:1], BEATS[:1]))
    assert beat_amlt(BEATS[:2], BEATS[:2]) == 1  # mir_eval would warn of its own variations of two beats


@pytest.mark.parametrize("metric", [beat_f1, beat_cmlt, beat_amlt])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.5, 0.4], "must rise"),
        ([0.5, 0.5], "must rise"),
        ([-0.1, 0.5], "finite and not negative"),
        ([0.1, math.nan], "finite and not negative"),
        ([[0.1, 0.2]], r"list of times, not of shape \[1, 2\]"),
    ],
)
def test_bad_beats(metric: Callable[..., float], times: list, message: str) -> None:
    with pytest.raises(ValueError, match=f"estimated beats .*{message}"):
        metric(BEATS, times)
    with pytest.raises(ValueError, match=f"reference beats .*{message}"):
        metric(times, BEATS)


@pytest.mark.parametrize("factor", [1 / 3, 0.5, 1, 2, 3])
def test_tempo_octaves_are_no_error(factor: float) -> None:
    assert tempo_error(120 * factor, 120) == pytest.approx(0, abs=1e-12)
    assert tempo_error(120 * factor * 1.03, 120) == pytest.approx(0.03)
    assert tempo_right(120 * factor * 1.039, 120) == tempo_right(120 * factor / 1.04, 120) == 1
    assert tempo_right(120 * factor * 1.041, 120) == 0


def test_tempo_errors() -> None:
    assert tempo_error(160, 120) == pytest.approx(1 / 3)  # as far from the tempo as from its double: 160 / 240
    assert tempo_error(90, 120) == pytest.approx(0.25)
    assert tempo_error(480, 120) == pytest.approx(1 / 3)  # four times is no octave that counts
    bpm, reference = np.exp(np.random.default_rng(0).uniform(np.log(70), np.log(180), (2, 4000)))
    pairs = list(zip(bpm, reference, strict=True))
    assert max(tempo_error(*pair) for pair in pairs) <= 1 / 3
    assert np.mean([tempo_error(*pair) for pair in pairs]) == pytest.approx(0.16, abs=0.01)
    assert np.mean([tempo_right(*pair) for pair in pairs]) == pytest.approx(0.13, abs=0.02)


def test_tempo_unknown() -> None:
    assert math.isnan(tempo_error(None, 120))
    assert math.isnan(tempo_error(120, None))
    assert tempo_right(None, 120) == 0
    assert math.isnan(tempo_right(None, None))


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_bad_tempo(wrong: float) -> None:
    with pytest.raises(ValueError, match="bpm must be above 0"):
        tempo_error(wrong, 120)
    with pytest.raises(ValueError, match="reference must be above 0"):
        tempo_right(120, wrong)
