"""Set metrics of the protocol: which rows are compared, and the jackknife's intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stage_cli.core.evaluation.distances import apa, fad, kad
from stage_cli.core.evaluation.intervals import jackknife_interval
from stage_cli.core.evaluation.summary import MOST_KAD_ROWS, SetMetrics

SONGS = {f"{clip:04d}": f"song {clip // 2}" for clip in range(12)}


def rows(seed: int, count: int = 20, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {clip: generator.normal(shift, 1, (count, 3)) for clip in SONGS}


def joined(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([table[clip] for clip in sorted(table)])


def metrics(true: dict[str, np.ndarray], *, compatible: bool = False) -> SetMetrics:
    return SetMetrics("codec", SONGS, true, 0, kad_compatible=compatible)


def test_of_a_mean_the_jackknife_is_students_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 9)
    found = jackknife_interval(lambda chosen: float(values[chosen].mean()), [str(item) for item in range(9)])
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert (found.items, found.songs) == (9, 9)


def test_songs_are_left_out_whole() -> None:
    left: list[list[int]] = []
    jackknife_interval(lambda chosen: float(left.append(chosen.tolist()) or len(left)), ["a", "b", "a", "c"])
    assert left == [[0, 1, 2, 3], [1, 3], [0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("songs", [["a", "a"], ["a", "b"], []])
def test_too_few_songs_have_no_interval(songs: list[str]) -> None:
    found = jackknife_interval(lambda chosen: float(len(chosen)), songs)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_bad_level() -> None:
    with pytest.raises(ValueError, match="level must be between 0 and 1, not 1"):
        jackknife_interval(lambda _: 0.0, ["a", "b", "c"], level=1)


def test_distances_are_those_of_all_rows() -> None:
    true, other = rows(1), rows(2, shift=0.5)
    found = {value.metric: value for value in metrics(true).distances(other)}
    assert list(found) == ["fad_codec", "fad_inf_codec", "kad_codec"]
    assert found["fad_codec"].interval.value == pytest.approx(fad(joined(true), joined(other)))
    assert found["kad_codec"].interval.value == pytest.approx(kad(joined(true), joined(other)))
    assert found["fad_codec"].interval.low < found["fad_codec"].interval.value < found["fad_codec"].interval.high
    assert (found["kad_codec"].interval.items, found["kad_codec"].interval.songs) == (12, 6)
    assert found["fad_codec"].note == "240 vectors of 3"
    assert found["fad_inf_codec"].note.startswith("R² ")
    alike = {value.metric: value for value in metrics(true).distances(true)}
    assert alike["fad_codec"].interval.value == pytest.approx(0, abs=1e-9)


def test_kadtks_bandwidth() -> None:
    true, other = rows(1), rows(2, shift=2)
    found = {value.metric: value for value in metrics(true, compatible=True).distances(other)}
    assert found["kad_codec"].interval.value == pytest.approx(kad(joined(true), joined(other), compatible=True))
    assert found["kad_codec"].note.startswith("kadtk's bandwidth, ")


def test_clips_that_one_side_lacks_count_for_none() -> None:
    true, other = rows(1), rows(2)
    del true["0000"], other["0011"]
    found = metrics(true).distances(other)[0]
    assert found.interval.items == 10
    both = sorted(true.keys() & other.keys())
    expected = fad(*(np.concatenate([table[clip] for clip in both]) for table in (true, other)))
    assert found.interval.value == pytest.approx(expected)
    assert metrics(true).distances({}) == []


def test_of_too_many_rows_some_of_each_clip_are_drawn() -> None:
    true, other = rows(1, 200), rows(2, 200, shift=0.5)
    found = {value.metric: value for value in metrics(true).distances(other)}
    assert found["kad_codec"].note == f"{MOST_KAD_ROWS // 12 * 12} vectors of 3"
    assert found["fad_codec"].note == "2400 vectors of 3"
    assert found["kad_codec"].interval.value == pytest.approx(kad(joined(true), joined(other)), rel=0.2)


def test_what_cannot_be_measured_says_why() -> None:
    single = {"0000": np.zeros((1, 3))}
    found = {value.metric: value for value in metrics(single).distances(single)}
    assert math.isnan(found["fad_codec"].interval.value)
    assert "at least two rows" in found["fad_codec"].note
    few = metrics({clip: table[:1] for clip, table in rows(1).items()})
    wide = SetMetrics("clap", SONGS, {clip: np.eye(20)[[3]] for clip in SONGS}, 0, kad_compatible=False)
    assert "too high" not in few.distances(rows(2))[0].note
    assert "fewer than the embedding is wide: too high" in wide.distances(wide._true)[0].note


def test_halves_are_of_different_songs() -> None:
    apart = {clip: table + 100 * int(SONGS[clip][-1]) for clip, table in rows(1).items()}
    found = metrics(apart).between_halves()
    assert [value.metric for value in found] == ["fad_codec", "kad_codec"]
    assert found[0].interval.value > 100
    assert "two halves of the true stems, 6 and 6 clips" in found[0].note
    few = {clip: table for clip, table in apart.items() if clip < "0006"}
    assert metrics(few).between_halves() == []


def test_adherence() -> None:
    true, shuffled = rows(1), rows(2, shift=1)
    between = {clip: (true[clip] + shuffled[clip]) / 2 for clip in SONGS}
    of = metrics(true)
    assert of.adherence(true, true, shuffled).interval.value == 1
    assert of.adherence(shuffled, true, shuffled).interval.value == 0
    found = of.adherence(between, true, shuffled)
    assert found.interval.value == pytest.approx(apa(joined(between), joined(true), joined(shuffled)))
    assert 0 <= found.interval.low < found.interval.value < found.interval.high <= 1
    assert of.adherence({}, true, shuffled) is None
