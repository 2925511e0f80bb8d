"""How sure a statistic of a whole set is, such as a distance: 95 % intervals by leaving out one song at a time.

A bootstrap would not do: songs that are drawn twice make a set look more alike than it is, and its interval lies beside
the value. Here every set is a true one, of all songs but one. With n songs the standard error is
√((n − 1) / n · Σ (θᵢ − θ̄)²), and the interval is value ± t · error, with the t of Student's distribution for n − 1
degrees of freedom. Source: Efron and Stein, "The jackknife estimate of variance", 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from stage_cli.core.evaluation.metrics.bootstrap import LEVEL, Interval


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
