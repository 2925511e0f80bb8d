"""Metrics of whole sets: FAD and KAD to the true stems, APA of the mixes, each with its interval.

The reference is the true stems of the same clips, so FAD and KAD of the true stems themselves would be 0. What stands
in their place is the distance of two halves of the true stems, of different songs: as near as real stems of other songs
come to each other. With half of the clips, FAD is a little higher than it would be of all.

From what was heard to results: metrics of each output, summaries with intervals, and their anchors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.evaluation.clips import ClipPlan
from stage_cli.core.evaluation.distances import apa, at_most, fad, fad_infinity, kad
from stage_cli.core.evaluation.intervals import Interval, jackknife_interval
from stage_cli.core.evaluation.measuring import (
    COSTS,
    AnalysedTruth,
    ClipAnalysis,
    Evidence,
    Listener,
    Ranking,
    Values,
    differences,
    intervals,
    local_tempo,
    measure_take,
    only_following,
    set_metric,
)
from stage_cli.core.evaluation.metrics import other_songs
from stage_cli.core.evaluation.records import Records
from stage_cli.core.evaluation.report.results import DIFFERENCE, ClipResult, Summary, TakeResult
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.evaluation.systems import CONTEXT, SHUFFLED, TRUE, System

_ENDS = {"fad": (0.0, math.inf), "apa": (0.0, 1.0)}  # between which a metric has values

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

        return self._value(
            "apa",
            lambda: _interval(statistic, [self._songs[clip] for clip in ids], sets[0]),
            self._counts(ids, candidate, MOST_APA_ROWS),
        )

    def _infinity(self, ids: Sequence[str], candidate: Rows, songs: int) -> SetValue:
        fit = math.nan

        def extrapolated() -> Interval:
            nonlocal fit
            first, second = (np.concatenate(self._thinned(rows, ids, MOST_ROWS)) for rows in (self._true, candidate))
            found = fad_infinity(first, second, seed=self._seed)
            fit = found.fit
            return Interval(found.value, math.nan, math.nan, len(ids), songs)

        take_record = self._value("fad_inf", extrapolated, self._counts(ids, candidate, MOST_ROWS))
        note = take_record.note if math.isnan(fit) else f"R² {fit:.2f}, {take_record.note}"
        return SetValue(take_record.metric, take_record.interval, note)

    def _value(self, name: str, measure: Callable[[], Interval], note: str) -> SetValue:
        """Measure; what cannot be measured is undefined and says why."""
        try:
            interval = measure()
        except (ValueError, np.linalg.LinAlgError) as error:
            interval, note = Interval(math.nan, math.nan, math.nan, 0, 0), str(error)
        if (ends := _ENDS.get(name)) is not None and not math.isnan(interval.low):
            # A jackknife interval is symmetric: it may reach where the metric has no values.
            low, high = (min(ends[1], max(ends[0], end)) for end in (interval.low, interval.high))
            interval = Interval(interval.value, low, high, interval.items, interval.songs)
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


_GIGABYTE = 1e9


def partners(plans: Sequence[ClipPlan], seed: int) -> dict[str, str]:
    """Return for each clip one of another song, with the same kind of context; nothing where all are of one song."""
    found: dict[str, str] = {}
    for kind in dict.fromkeys(plan.context_kind for plan in plans):
        of_kind = [plan for plan in plans if plan.context_kind == kind]
        songs = [plan.song for plan in of_kind]
        if len(set(songs)) > 1:
            others = other_songs(songs, seed=seed)
            found |= {plan.id: of_kind[other].id for plan, other in zip(of_kind, others, strict=True)}
    return found


class Sums:
    """Measures everything that was heard.

    Args:
        config: of the evaluation.
        plans: of all clips.
        systems: systems and anchors that were made.
        evidence: what was made and heard.
        records: where vectors of sets are kept.
        listener: knows the embeddings, compares COCOLA's vectors and reads descriptions.
        partner: of each clip.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        plans: Sequence[ClipPlan],
        systems: Sequence[System],
        evidence: Evidence,
        records: Records,
        listener: Listener,
        partner: Mapping[str, str],
    ) -> None:
        self._config = config
        self._plans = [plan for plan in plans if plan.id in evidence.clips]
        self._systems = systems
        self._evidence = evidence
        self._records = records
        self._listener = listener
        self._partner = partner
        self._seed = config.generation.seed
        self._songs = {plan.id: plan.song for plan in plans}
        self._known = self._all_known()
        self.rankings = {system.name: self._ranking(system) for system in systems}

    def summaries(self) -> list[Summary]:
        """Return all numbers of the tables; those that have no anchor are left out."""
        found: list[Summary] = []
        for kind in self._config.contexts:
            ids = [plan.id for plan in self._plans if plan.context_kind == kind]
            for system in self._systems:
                found += self._of_items(system, kind, ids)
                found += self._costs(system, kind, ids)
            for name in self._listener.names:
                found += self._of_sets(kind, ids, name)
        return _anchored(found, {system.name for system in self._systems if system.role == "system"})

    def items(self, shown: set[str]) -> list[ClipResult]:
        """Return all clips with the outputs of all systems, those that failed too.

        Args:
            shown: the metrics to tell.
        """
        failures = {(failure.item, failure.system): failure.error for failure in self._evidence.failures}
        return [self._item(plan, failures, shown) for plan in self._plans]

    def _all_known(self) -> dict[str, ClipAnalysis]:
        clap = self._listener.clap
        true, contexts = (self._evidence.analysed.get(name, {}) for name in (TRUE, CONTEXT))
        texts: dict[str, np.ndarray] = {}
        found = {}
        for plan in self._plans:
            clip = self._evidence.clips[plan.id]
            stored = clip.description.strip()
            if clap is not None and stored and stored not in texts:
                texts[stored] = clap.embed_text([stored])
            analysis = true[plan.id].analysis if plan.id in true else None
            found[plan.id] = ClipAnalysis(
                clip,
                AnalysedTruth(clip.seconds, clip.beats, bpm=clip.bpm, key=clip.key, true=analysis),
                contexts.get(plan.id),
                texts.get(stored),
            )
        return found

    def _ranking(self, system: System) -> Ranking:
        ranking = Ranking()
        shuffles = system.role == "system" or system.name == TRUE
        for clip, analysed in self._evidence.analysed[system.name].items():

            def against(other: str, analysed=analysed) -> Values:
                return measure_take(
                    system.name, analysed, self._known[other], stem=self._config.stem, cocola=self._listener.cocola
                )

            ranking.own[clip] = against(clip)
            other = self._partner.get(clip)
            if shuffles and other in self._known:
                ranking.shuffled[clip] = only_following(against(other))
        return ranking

    def _of_items(self, system: System, kind: str, ids: Iterable[str]) -> list[Summary]:
        ranking, chosen = self.rankings[system.name], set(ids)
        own = {clip: values for clip, values in ranking.own.items() if clip in chosen}
        shuffled = {clip: values for clip, values in ranking.shuffled.items() if clip in chosen}
        found = [
            _summary(system.name, kind, metric, interval)
            for metric, interval in intervals(own, self._songs, self._seed).items()
        ]
        if system.role == "system":
            name = shuffled_name(system)
            of_others = intervals(shuffled, self._songs, self._seed)
            found += [_summary(name, kind, metric, interval) for metric, interval in of_others.items()]
        gains = differences(Ranking(own, shuffled), self._songs, self._seed)
        return found + [_summary(system.name, kind, metric, interval) for metric, interval in gains.items()]

    def _costs(self, system: System, kind: str, ids: Sequence[str]) -> list[Summary]:
        take_record = [
            self._evidence.take_record[system.name][clip]
            for clip in ids
            if clip in self._evidence.take_record[system.name]
        ]
        timed = [
            (entry.compute_seconds, self._evidence.clips[clip].seconds)
            for clip in ids
            if (entry := self._evidence.take_record[system.name].get(clip)) is not None and entry.compute_seconds
        ]
        found = []
        if timed:
            speed = sum(length for _, length in timed) / sum(seconds for seconds, _ in timed)
            found.append(Summary(system.name, kind, "speed", speed, n=len(timed)))
        peaks = [entry.peak_memory for entry in take_record if entry.peak_memory]
        if peaks:
            found.append(Summary(system.name, kind, "peak_memory_gb", max(peaks) / _GIGABYTE, n=len(peaks)))
        return found

    def _of_sets(self, kind: str, ids: Sequence[str], embedding: str) -> list[Summary]:
        true = self._rows(TRUE, ids, f"stem_{embedding}")
        if not true:
            return []
        compatible = self._config.kad_compatible
        metrics = SetMetrics(embedding, self._songs, true, self._seed, kad_compatible=compatible)
        found = [_set_summary(TRUE, kind, value) for value in metrics.between_halves()]
        true_mixes, shuffled_mixes = (self._rows(name, ids, f"mix_{embedding}") for name in (TRUE, SHUFFLED))
        for system in self._systems:
            # Other songs' true stems are the same stems: their distance is 0 by definition.
            if system.embedded and system.name not in (TRUE, SHUFFLED):
                rows = self._rows(system.name, ids, f"stem_{embedding}")
                found += [_set_summary(system.name, kind, value) for value in metrics.distances(rows)]
            if system.mixed and true_mixes and shuffled_mixes:
                found += self._adherence(system, kind, ids, metrics, true_mixes, shuffled_mixes, embedding)
        return found

    def _adherence(
        self,
        system: System,
        kind: str,
        ids: Sequence[str],
        metrics: SetMetrics,
        true: Rows,
        shuffled: Rows,
        embedding: str,
    ) -> list[Summary]:
        if system.name in (TRUE, SHUFFLED):
            name = set_metric("apa", embedding)
            value = 1.0 if system.name == TRUE else 0.0
            return [Summary(system.name, kind, name, value, n=len(true), note="by definition")]
        found = metrics.adherence(self._rows(system.name, ids, f"mix_{embedding}"), true, shuffled)
        return [] if found is None else [_set_summary(system.name, kind, found)]

    def _rows(self, system: str, ids: Iterable[str], name: str) -> dict[str, np.ndarray]:
        """Return vectors of a system's outputs, by clip id; nothing of those that could not be made."""
        analysis = self._evidence.analysed.get(system, {})
        part = next((entry.part for entry in self._systems if entry.name == system), "")
        found = {clip: self._records.array(clip, part, name) for clip in ids if clip in analysis}
        return {clip: rows for clip, rows in found.items() if rows is not None and len(rows)}

    def _item(self, plan: ClipPlan, failures: Mapping[tuple[str, str], str], shown: set[str]) -> ClipResult:
        clip = self._evidence.clips[plan.id]
        outputs: list[TakeResult] = []
        for system in self._systems:
            outputs += self._outputs(system, plan, failures.get((plan.id, system.name)), shown)
        return ClipResult(
            id=plan.id,
            song=plan.song,
            title=plan.title,
            start=clip.start,
            seconds=clip.seconds,
            context=plan.context_kind,
            context_stems=clip.context_stems,
            bpm=clip.bpm if clip.bpm is not None else local_tempo(clip.beats),
            beats=tuple(clip.beats.tolist()),
            downbeats=tuple(clip.downbeats.tolist()),
            outputs=tuple(outputs),
            files={
                "context": self._records.audio_name(plan.id, "context"),
                "target": None if clip.target is None else self._records.audio_name(plan.id, "target"),
            },
        )

    def _outputs(self, system: System, plan: ClipPlan, error: str | None, shown: set[str]) -> list[TakeResult]:
        take_record = self._evidence.take_record[system.name].get(plan.id)
        if take_record is None:
            return [TakeResult(system.name, error=error)] if error is not None else []
        ranking = self.rankings[system.name]
        names = {"generated": system.part, "mix": f"{system.part}.mix"} if system.writes else {}
        files = {role: self._records.audio_name(plan.id, part) for role, part in names.items()}
        found = [TakeResult(system.name, take_record.seed, _numbers(ranking.own[plan.id], shown), error, files)]
        if system.role == "system" and plan.id in ranking.shuffled:
            found.append(
                TakeResult(shuffled_name(system), take_record.seed, _numbers(ranking.shuffled[plan.id], shown))
            )
        return found


def shuffled_name(system: System) -> str:
    """Return the name of the anchor that is a system's own outputs against other songs."""
    return f"{SHUFFLED}:{system.name}"


def _summary(system: str, kind: str, metric: str, interval: Interval, note: str = "") -> Summary:
    value, low, high = (None if math.isnan(end) else end for end in (interval.value, interval.low, interval.high))
    return Summary(system, kind, metric, value, low, high, interval.items, note)


def _set_summary(system: str, kind: str, value: SetValue) -> Summary:
    return _summary(system, kind, value.metric, value.interval, value.note)


def _numbers(values: Values, shown: set[str]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items() if name in shown}


def _anchored(summaries: Sequence[Summary], systems: set[str]) -> list[Summary]:
    """Keep the numbers that have an anchor beside them, and what needs none."""
    anchored = {(entry.context, entry.metric) for entry in summaries if entry.system not in systems}
    return [
        entry
        for entry in summaries
        if (entry.context, entry.metric) in anchored or entry.metric in COSTS or entry.metric.endswith(DIFFERENCE)
    ]


def shown_systems(systems: Sequence[System], *, shuffled: bool) -> list[tuple[str, str, System | None]]:
    """Return name, title and system of each column, systems first, each followed by what it is against other songs."""
    found: list[tuple[str, str, System | None]] = []
    for system in sorted(systems, key=lambda system: system.role != "system"):
        found.append((system.name, system.title, system))
        if system.role == "system" and shuffled:
            found.append((shuffled_name(system), f"{system.title}, shuffled", None))
    return found
