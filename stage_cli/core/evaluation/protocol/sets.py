"""Metrics of whole sets: FAD and KAD to the true stems, APA of the mixes, each with its interval.

The reference is the true stems of the same clips, so FAD and KAD of the true stems themselves would be 0. What stands
in their place is the distance of two halves of the true stems, of different songs: as near as real stems of other songs
come to each other. With half of the clips, FAD is a little higher than it would be of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.evaluation.metrics.adherence import apa
from stage_cli.core.evaluation.metrics.bootstrap import Interval
from stage_cli.core.evaluation.metrics.frechet import fad, fad_infinity
from stage_cli.core.evaluation.metrics.jackknife import jackknife_interval
from stage_cli.core.evaluation.metrics.kernel import kad
from stage_cli.core.evaluation.metrics.rows import at_most
from stage_cli.core.evaluation.protocol.catalogue import set_metric

MOST_ROWS = 50_000
"""Vectors of a set, at most, for FAD; with more, some of each clip are drawn."""

MOST_KAD_ROWS = 1_000
"""Likewise for KAD, whose cost grows with their square; it has no bias that more rows would lessen."""

MOST_APA_ROWS = 10_000
"""Likewise for APA, which needs six sets."""

_AFFORDABLE = 2e9
"""rows · width² of one statistic, for which leaving out each song in turn takes seconds and not minutes."""

Rows = Mapping[str, np.ndarray]
"""Vectors `[rows, width]` of each clip by its id."""


@dataclass(frozen=True)
class SetValue:
    """A metric of a set: its interval, and what to know of it."""

    metric: str
    interval: Interval
    note: str


class SetMetrics:
    """Measures sets of one embedding and one kind of context.

    Args:
        embedding: name.
        songs: the song of each clip.
        true: vectors of the true stems.
        seed: draws rows where there are too many, and FAD∞'s subsets.
        kad_compatible: as the package kadtk.
    """

    def __init__(
        self, embedding: str, songs: Mapping[str, str], true: Rows, seed: int, *, kad_compatible: bool
    ) -> None:
        self._embedding = embedding
        self._songs = songs
        self._true = true
        self._seed = seed
        self._kad_compatible = kad_compatible

    def distances(self, candidate: Rows) -> list[SetValue]:
        """Return FAD, FAD∞ and KAD of a system's outputs to the true stems of the same clips."""
        ids = sorted(candidate.keys() & self._true.keys())
        if not ids:
            return []
        songs = [self._songs[clip] for clip in ids]

        def with_rows(most: int, distance: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
            first, second = self._thinned(self._true, ids, most), self._thinned(candidate, ids, most)
            return _interval(lambda chosen: distance(_joined(first, chosen), _joined(second, chosen)), songs, first)

        found = [self._value("fad", lambda: with_rows(MOST_ROWS, fad), self._counts(ids, candidate, MOST_ROWS))]
        found.append(self._infinity(ids, candidate, len(set(songs))))
        bandwidth = "kadtk's bandwidth, " if self._kad_compatible else ""

        def kernel(reference: np.ndarray, other: np.ndarray) -> float:
            return kad(reference, other, compatible=self._kad_compatible)

        note = bandwidth + self._counts(ids, candidate, MOST_KAD_ROWS)
        found.append(self._value("kad", lambda: with_rows(MOST_KAD_ROWS, kernel), note))
        return found

    def between_halves(self) -> list[SetValue]:
        """Return FAD and KAD of one half of the songs' true stems to the other; nothing for fewer than four songs."""
        names = sorted({self._songs[clip] for clip in self._true})
        if len(names) < 4:
            return []
        chosen = set(np.random.default_rng(self._seed).permutation(names)[: len(names) // 2].tolist())
        halves = [
            sorted(clip for clip in self._true if (self._songs[clip] in chosen) == side) for side in (True, False)
        ]
        note = f"two halves of the true stems, {len(halves[0])} and {len(halves[1])} clips"

        def rows(most: int) -> list[np.ndarray]:
            return [np.concatenate(self._thinned(self._true, half, most)) for half in halves]

        def value(distance: Callable[[np.ndarray, np.ndarray], float], most: int) -> Interval:
            return Interval(distance(*rows(most)), math.nan, math.nan, len(self._true), len(names))

        return [
            self._value("fad", lambda: value(fad, MOST_ROWS), note),
            self._value(
                "kad", lambda: value(lambda a, b: kad(a, b, compatible=self._kad_compatible), MOST_KAD_ROWS), note
            ),
        ]

    def adherence(self, candidate: Rows, true: Rows, shuffled: Rows) -> SetValue | None:
        """Return APA of a system's mixes; None where a set is missing.

        Args:
            candidate: vectors of contexts with the system's stems.
            true: of contexts with their true stems.
            shuffled: of contexts with other songs' true stems.
        """
        ids = sorted(candidate.keys() & true.keys() & shuffled.keys())
        if not ids:
            return None
        sets = [self._thinned(rows, ids, MOST_APA_ROWS) for rows in (candidate, true, shuffled)]

        def statistic(chosen: np.ndarray) -> float:
            return apa(*(_joined(rows, chosen) for rows in sets))

        found = self._value(
            "apa",
            lambda: _interval(statistic, [self._songs[clip] for clip in ids], sets[0]),
            self._counts(ids, candidate, MOST_APA_ROWS),
        )
        low, high = (min(1.0, max(0.0, end)) for end in (found.interval.low, found.interval.high))
        if math.isnan(found.interval.low):
            low = high = math.nan
        interval = Interval(found.interval.value, low, high, found.interval.items, found.interval.songs)
        return SetValue(found.metric, interval, found.note)

    def _infinity(self, ids: Sequence[str], candidate: Rows, songs: int) -> SetValue:
        fit = math.nan

        def extrapolated() -> Interval:
            nonlocal fit
            first, second = (np.concatenate(self._thinned(rows, ids, MOST_ROWS)) for rows in (self._true, candidate))
            found = fad_infinity(first, second, seed=self._seed)
            fit = found.fit
            return Interval(found.value, math.nan, math.nan, len(ids), songs)

        made = self._value("fad_inf", extrapolated, self._counts(ids, candidate, MOST_ROWS))
        note = made.note if math.isnan(fit) else f"R² {fit:.2f}, {made.note}"
        return SetValue(made.metric, made.interval, note)

    def _value(self, name: str, measure: Callable[[], Interval], note: str) -> SetValue:
        """Measure; what cannot be measured is undefined and says why."""
        try:
            interval = measure()
        except (ValueError, np.linalg.LinAlgError) as error:
            interval, note = Interval(math.nan, math.nan, math.nan, 0, 0), str(error)
        return SetValue(set_metric(name, self._embedding), interval, note)

    def _thinned(self, rows: Rows, ids: Sequence[str], most: int) -> list[np.ndarray]:
        """Return the rows of each clip, as many of each that all together are not too many."""
        quota = max(1, most // len(ids))
        return [at_most(rows[clip], quota, self._seed) for clip in ids]

    def _counts(self, ids: Sequence[str], candidate: Rows, most: int) -> str:
        count = sum(min(len(candidate[clip]), max(1, most // len(ids))) for clip in ids)
        width = candidate[ids[0]].shape[1]
        few = ", fewer than the embedding is wide: too high" if count <= width and most == MOST_ROWS else ""
        return f"{count} vectors of {width}{few}"


def _joined(rows: Sequence[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    return np.concatenate([rows[item] for item in chosen])


def _interval(statistic: Callable[[np.ndarray], float], songs: Sequence[str], rows: Sequence[np.ndarray]) -> Interval:
    """Return the value with its jackknife interval, or without one where that would take minutes."""
    count, width = sum(map(len, rows)), rows[0].shape[1]
    if count * width**2 > _AFFORDABLE:
        return Interval(statistic(np.arange(len(songs))), math.nan, math.nan, len(songs), len(set(songs)))
    return jackknife_interval(statistic, songs)
