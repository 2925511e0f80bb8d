"""How sure a mean is: 95 % bootstrap intervals in which songs, not items, are drawn.

Items of one song are alike, so they do not count as independent: songs are drawn with replacement, each with all of its
items (cluster bootstrap; Davison and Hinkley, "Bootstrap methods and their application", 1997). The value is the mean
of all items, each of equal weight. Items that are nan are left out, together with their song if none remains.

Two methods. "percentile": the middle 95 % of the resampled means. "bca", the default: bias-corrected and accelerated
(Efron, "Better bootstrap confidence intervals", 1987), with the acceleration from leaving out one song at a time; it
follows the skew of values near 0 or 1. Both are too narrow for few songs, by a factor near √((n − 1) / n) and for want
of Student's t: so the tails are widened as Hesterberg has it ("What teachers should know about the bootstrap", 2015):
Φ(−√(n / (n − 1)) · t), t with n − 1 degrees of freedom, instead of 2.5 %. In simulations of 24 songs with 4 items each,
95 % of the intervals held the truth for normal values and 94 % for values skewed towards 1 (8 songs: 94 and 93 %); had
the items been taken as independent, 71 and 65 %.

A paired difference, such as own − shuffled, is the mean of the differences item by item: what makes an item easy or
hard cancels, and an interval above 0 says that the system follows its context.

How sure a statistic of a whole set is, such as a distance: 95 % intervals by leaving out one song at a time.

A bootstrap would not do: songs that are drawn twice make a set look more alike than it is, and its interval lies beside
the value. Here every set is a true one, of all songs but one. With n songs the standard error is
√((n − 1) / n · Σ (θᵢ − θ̄)²), and the interval is value ± t · error, with the t of Student's distribution for n − 1
degrees of freedom. Source: Efron and Stein, "The jackknife estimate of variance", 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
METHODS: tuple[str, ...] = ("bca", "percentile")


@dataclass(frozen=True)
class Interval:
    """A value and what it may as well be.

    Attributes:
        value: of all items; nan without any.
        low: end of the interval; nan for fewer than two songs.
        high: likewise.
        items: that have a value.
        songs: that these come from.
    """

    value: float
    low: float
    high: float
    items: int
    songs: int


def mean_interval(
    values: Sequence[float] | np.ndarray,
    songs: Sequence[str],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    method: str = METHODS[0],
) -> Interval:
    """Return the mean of items and its bootstrap interval.

    Args:
        values: of the items; nan where there is none.
        songs: which song each item comes from.
        generator: draws the songs.
        resamples: how often.
        level: share of the intervals that are to hold the truth.
        method: one of `METHODS`.

    Raises:
        ValueError: values and songs differ in number, a value is infinite, or an option is out of range.
    """
    numbers = np.asarray(values, dtype=np.float64)
    _check(numbers, songs, resamples, level, method)
    kept = ~np.isnan(numbers)
    numbers = numbers[kept]
    names, members = np.unique(np.asarray(songs, dtype=object)[kept].astype(str), return_inverse=True)
    if not len(names):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    sums, counts = np.bincount(members, numbers), np.bincount(members)
    value = float(sums.sum() / counts.sum())
    if len(names) < 2:
        return Interval(value, math.nan, math.nan, len(numbers), 1)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means = (drawn @ sums) / (drawn @ counts)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    low, high = _ends(means, value, left_out, level, method)
    return Interval(value, low, high, len(numbers), len(names))


def paired_difference(
    values: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    songs: Sequence[str],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    method: str = METHODS[0],
) -> Interval:
    """Return the mean of `values` − `others`, item by item, and its bootstrap interval.

    Args:
        values: of the items; pairs with nan are left out.
        others: of the same items, such as their values against another song.
        songs: which song each item comes from.
        generator: draws the songs.
        resamples: how often.
        level: share of the intervals that are to hold the truth.
        method: one of `METHODS`.

    Raises:
        ValueError: values, others and songs differ in number, a value is infinite, or an option is out of range.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many values as others, not {list(first.shape)} and {list(second.shape)}")
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError("values must not be infinite")
    return mean_interval(first - second, songs, generator, resamples=resamples, level=level, method=method)


def statistic_interval(
    statistic: Callable[[np.ndarray], float],
    songs: Sequence[str],
    generator: np.random.Generator,
    *,
    resamples: int = 200,
    level: float = LEVEL,
) -> Interval:
    """Return any statistic of a set of items and its percentile interval, songs drawn.

    Drawn items repeat. A statistic that repeats bias, such as a distance between sets, has an interval that lies beside
    its value.

    Args:
        statistic: of indices of items `[n]`, among which some repeat; nan is left out.
        songs: which song each item comes from.
        generator: draws the songs.
        resamples: how often.
        level: share of the intervals that are to hold the truth.

    Raises:
        ValueError: an option is out of range.
    """
    from scipy.stats import norm

    _check(np.zeros(len(songs)), songs, resamples, level, METHODS[1])
    if not len(songs):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    names, members = np.unique(np.asarray(songs, dtype=object).astype(str), return_inverse=True)
    value = float(statistic(np.arange(len(songs))))
    if len(names) < 2:
        return Interval(value, math.nan, math.nan, len(songs), 1)
    items = [np.flatnonzero(members == song) for song in range(len(names))]
    drawn = generator.integers(len(names), size=(resamples, len(names)))
    found = np.array([statistic(np.concatenate([items[song] for song in row])) for row in drawn], dtype=np.float64)
    found = found[~np.isnan(found)]
    if not len(found):
        return Interval(value, math.nan, math.nan, len(songs), len(names))
    low, high = np.quantile(found, norm.cdf(_reach(len(names), level)))
    return Interval(value, float(low), float(high), len(songs), len(names))


def _check(values: np.ndarray, songs: Sequence[str], resamples: int, level: float, method: str) -> None:
    if values.ndim != 1 or len(values) != len(songs):
        raise ValueError(f"there must be a song for each item, not {len(songs)} for {list(values.shape)}")
    if np.isinf(values).any():
        raise ValueError("values must not be infinite")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, not {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")


def _reach(songs: int, level: float) -> np.ndarray:
    """Return the ends of an interval in standard deviations of the resampled means, widened for few songs."""
    from scipy.stats import t

    reach = math.sqrt(songs / (songs - 1)) * float(t.ppf((1 + level) / 2, songs - 1))
    return np.array([-reach, reach])


def _ends(means: np.ndarray, value: float, left_out: np.ndarray, level: float, method: str) -> tuple[float, float]:
    from scipy.stats import norm

    reach = _reach(len(left_out), level)
    below = ((means < value).mean() + (means <= value).mean()) / 2  # ties are shared out
    if method == METHODS[0] and 0 < below < 1:
        bias = norm.ppf(below)
        pulls = left_out.mean() - left_out
        spread = float(np.square(pulls).sum()) ** 1.5
        acceleration = float((pulls**3).sum()) / (6 * spread) if spread > 0 else 0.0
        reached = bias + reach
        # Beyond its pole the formula would turn back: what reaches it takes the farthest mean.
        reach = bias + reached / np.maximum(1 - acceleration * reached, 0.1)
    low, high = np.quantile(means, norm.cdf(reach))
    return float(low), float(high)


def jackknife_interval(
    statistic: Callable[[np.ndarray], float], songs: Sequence[str], *, level: float = LEVEL
) -> Interval:
    """Return a statistic of a set of items and its jackknife interval.

    Args:
        statistic: of indices of items `[n]`.
        songs: which song each item comes from.
        level: share of the intervals that are to hold the truth.

    Returns: an interval of nan for fewer than three songs, or where a part of the set has no value.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    names, members = np.unique(np.asarray(songs, dtype=object).astype(str), return_inverse=True)
    value = float(statistic(np.arange(len(songs)))) if len(songs) else math.nan
    undefined = Interval(value, math.nan, math.nan, len(songs), len(names))
    if len(names) < 3 or math.isnan(value):
        return undefined
    found = np.array([statistic(np.flatnonzero(members != song)) for song in range(len(names))], dtype=np.float64)
    if not np.isfinite(found).all():
        return undefined
    error = math.sqrt((len(names) - 1) / len(names) * float(np.square(found - found.mean()).sum()))
    reach = float(t.ppf((1 + level) / 2, len(names) - 1)) * error
    return Interval(value, value - reach, value + reach, len(songs), len(names))
