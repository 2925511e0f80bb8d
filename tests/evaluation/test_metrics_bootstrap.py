"""Bootstrap intervals: coverage on known distributions, songs drawn together, another library's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from stage_cli.core.evaluation.intervals import LEVEL, Interval, mean_interval, paired_difference, statistic_interval


def songs_of(count: int, items: int) -> list[str]:
    return [f"song {song}" for song in range(count) for _ in range(items)]


def coverage(count: int, items: int, *, skewed: bool, by_song: bool = True, trials: int = 250) -> float:
    rng = np.random.default_rng(1)
    truth, hits = 8 / 9 if skewed else 0.0, 0
    songs = songs_of(count, items) if by_song else [str(item) for item in range(count * items)]
    for _ in range(trials):
        level = rng.beta(8, 1, count) if skewed else rng.normal(0, 1, count)
        spread = 0.02 if skewed else 0.5
        values = (level[:, None] + rng.normal(0, spread, (count, items))).ravel()
        interval = mean_interval(values, songs, rng, resamples=300)
        hits += interval.low <= truth <= interval.high
    return hits / trials


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 250 trials at 95 % have a standard deviation of 1.4 %.
    assert coverage(24, 4, skewed=False) == pytest.approx(LEVEL, abs=0.035)
    assert coverage(24, 4, skewed=True) == pytest.approx(LEVEL, abs=0.045)
    assert coverage(8, 2, skewed=False) == pytest.approx(LEVEL, abs=0.045)


def test_items_of_one_song_are_not_independent() -> None:
    assert coverage(24, 4, skewed=False, by_song=False) < 0.8


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_one_item_a_song_is_scipys_bootstrap(method: str) -> None:
    values = np.random.default_rng(3).beta(6, 1.5, 200)
    songs = [str(item) for item in range(200)]
    ours = mean_interval(values, songs, np.random.default_rng(0), resamples=20_000, method=method)
    # Its tails are not widened for few songs: with 200, by a hundredth.
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1), vectorized=True
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    assert ours.value == pytest.approx(values.mean())


def test_two_copies_of_each_item_change_nothing() -> None:
    values = np.random.default_rng(0).random(20)
    once = mean_interval(values, songs_of(20, 1), np.random.default_rng(5))
    twice = mean_interval(np.repeat(values, 2), songs_of(20, 2), np.random.default_rng(5))
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
    assert (once.items, twice.items, once.songs, twice.songs) == (20, 40, 20, 20)


def test_songs_of_many_items_weigh_more() -> None:
    values, songs = [0.0] * 9 + [1.0], ["long"] * 9 + ["short"]
    assert mean_interval(values, songs, np.random.default_rng(0)).value == pytest.approx(0.1)


def test_a_seed_fixes_the_interval_and_the_order_of_songs_does_not_matter() -> None:
    values, songs = np.random.default_rng(0).random(40), songs_of(10, 4)
    first = mean_interval(values, songs, np.random.default_rng(7))
    assert first == mean_interval(values, songs, np.random.default_rng(7))
    assert first != mean_interval(values, songs, np.random.default_rng(8))
    order = np.random.default_rng(1).permutation(40)
    again = mean_interval(values[order], [songs[item] for item in order], np.random.default_rng(7))
    assert (again.low, again.high) == pytest.approx((first.low, first.high))


def test_what_is_nan_is_left_out() -> None:
    values = np.array([0.2, math.nan, 0.4, 0.6, math.nan, math.nan])
    songs = ["a", "a", "b", "c", "d", "d"]
    interval = mean_interval(values, songs, np.random.default_rng(0))
    assert interval == mean_interval([0.2, 0.4, 0.6], ["a", "b", "c"], np.random.default_rng(0))
    assert (interval.items, interval.songs) == (3, 3)


def test_too_little_for_an_interval() -> None:
    rng = np.random.default_rng(0)
    for values, songs, expected in (
        ([], [], (math.nan, 0, 0)),
        ([math.nan], ["a"], (math.nan, 0, 0)),
        ([0.25, 0.75], ["a", "a"], (0.5, 2, 1)),
    ):
        interval = mean_interval(values, songs, rng)
        assert (interval.value, interval.items, interval.songs) == pytest.approx(expected, nan_ok=True)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_values_have_no_spread(method: str) -> None:
    interval = mean_interval([0.7] * 12, songs_of(6, 2), np.random.default_rng(0), method=method)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.7, 0.7, 0.7))


def test_a_paired_difference_cancels_what_makes_songs_easy() -> None:
    rng = np.random.default_rng(0)
    ease = np.repeat(rng.uniform(0, 1, 15), 4)
    own, shuffled = ease + 0.1 + rng.normal(0, 0.02, 60), ease + rng.normal(0, 0.02, 60)
    songs = songs_of(15, 4)
    paired = paired_difference(own, shuffled, songs, np.random.default_rng(0))
    assert paired.low > 0.08
    assert paired.high < 0.12
    alone = [mean_interval(values, songs, np.random.default_rng(0)) for values in (own, shuffled)]
    assert alone[0].low < alone[1].high  # unpaired, they cannot be told apart
    own[3], shuffled[10] = math.nan, math.nan
    assert paired_difference(own, shuffled, songs, np.random.default_rng(0)).items == 58


def test_any_statistic() -> None:
    values, songs = np.random.default_rng(0).random(60), songs_of(15, 4)
    mean = statistic_interval(
        lambda items: float(values[items].mean()), songs, np.random.default_rng(0), resamples=4000
    )
    direct = mean_interval(values, songs, np.random.default_rng(0), resamples=4000, method="percentile")
    width = direct.high - direct.low
    assert (mean.value, mean.items, mean.songs) == (pytest.approx(direct.value), 60, 15)
    assert mean.low == pytest.approx(direct.low, abs=0.05 * width)
    assert mean.high == pytest.approx(direct.high, abs=0.05 * width)
    one = statistic_interval(lambda items: float(len(items)), ["a", "a"], np.random.default_rng(0))
    assert (one.value, one.songs) == (2, 1)
    assert math.isnan(one.low)
    none = statistic_interval(lambda _: math.nan, songs, np.random.default_rng(0))
    assert math.isnan(none.value)
    assert math.isnan(none.high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": [1.0]}, r"a song for each item, not 2 for \[1\]"),
        ({"values": [1.0, math.inf]}, "must not be infinite"),
        ({"resamples": 0}, "resamples must be 1 or more"),
        ({"level": 95}, "level must be between 0 and 1, not 95"),
        ({"method": "studentized"}, "method must be one of bca, percentile"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    arguments = {"values": [0.1, 0.2], "songs": ["a", "b"], "generator": np.random.default_rng(0)} | options
    with pytest.raises(ValueError, match=message):
        mean_interval(**arguments)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match=r"as many values as others, not \[2\] and \[3\]"):
        paired_difference([1, 2], [1, 2, 3], ["a", "b"], np.random.default_rng(0))
    assert isinstance(paired_difference([1, 2], [0, 1], ["a", "b"], np.random.default_rng(0)), Interval)
