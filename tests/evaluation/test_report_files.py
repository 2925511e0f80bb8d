"""results.json and items.csv."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import pytest

from stage_cli.core.evaluation.report.results import (
    Metric,
    Results,
    TakeResult,
    read_results,
    write_items,
    write_results,
)
from stage_cli.errors import StageError
from tests.evaluation.report_example import METRICS, NASTY, with_failures, write_example


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return with_failures(write_example(tmp_path_factory.mktemp("example"), items=2, songs=2, seconds=0.5))


def test_results_survive_the_file(results, tmp_path):
    path = write_results(tmp_path / "new", results)
    assert read_results(path.parent) == results
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_the_schema_is_the_documented_one(results, tmp_path):
    content = json.loads(write_results(tmp_path, results).read_text(encoding="utf-8"))
    assert set(content) == {
        "schema_version", "created", "command", "versions", "hardware", "seed", "stem", "settings", "metrics",
        "systems", "summaries", "items", "failures",
    }  # fmt: skip
    assert content["schema_version"] == 1
    assert content["metrics"]["fad_codec"]["scope"] == "set"
    assert content["metrics"]["beat_f1"]["range"] == [0, 1]
    assert set(content["items"][0]) == {
        "id", "song", "title", "start", "seconds", "context", "context_stems", "bpm", "beats", "downbeats", "outputs",
        "files",
    }  # fmt: skip
    assert set(content["items"][0]["outputs"][0]) == {"system", "seed", "metrics", "error", "files"}
    assert content["failures"][0]["item"] == "0099"


def test_undefined_numbers_are_null(results, tmp_path):
    undefined = TakeResult("model:small", 1, {"beat_f1": math.nan, "onset_f": math.inf, "cocola": 0.5})
    item = dataclasses.replace(results.items[0], outputs=(undefined,))
    write_results(tmp_path, dataclasses.replace(results, items=(item,)))
    read = read_results(tmp_path).items[0].outputs[0].metrics
    assert read == {"beat_f1": None, "onset_f": None, "cocola": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2, not 1"),
        ({"surprise": 1}, "unknown field 'surprise' of Results"),
        ({"systems": [{"name": "x", "title": "x", "role": "king"}]}, "role must be one of system, anchor, not 'king'"),
        ({"items": [{"id": "1"}]}, "missing .* required positional arguments"),
        ({"metrics": []}, "the results are damaged"),
    ],
)
def test_wrong_results_are_refused(results, change, message):
    with pytest.raises(StageError, match=message):
        Results.from_dict({**results.to_dict(), **change})


def test_a_metric_says_which_way_is_better():
    with pytest.raises(ValueError, match="better must be one of higher, lower, none, not 'bigger'"):
        Metric("Beat F1", better="bigger")


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(StageError, match=r"cannot read .*results\.json · No such file"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"schema_version": 1,', encoding="utf-8")
    with pytest.raises(StageError, match=r"results\.json is damaged"):
        read_results(tmp_path)


def test_a_failed_write_leaves_the_old_file(results, tmp_path, monkeypatch):
    path = write_results(tmp_path, results)
    before = path.read_bytes()

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StageError, match=r"cannot write .*results\.json · No space left"):
        write_results(tmp_path, dataclasses.replace(results, seed=99))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_items_are_a_line_for_each_system(results, tmp_path):
    changed = dataclasses.replace(results.items[0].outputs[0], error=f'{NASTY}, "and"\nmore')
    item = dataclasses.replace(results.items[0], outputs=(changed, *results.items[0].outputs[1:]))
    path = write_items(tmp_path, dataclasses.replace(results, items=(item, *results.items[1:])))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    item_metrics = [name for name, metric in METRICS.items() if metric.scope == "item"]
    assert list(rows[0]) == ["id", "song", "start", "context", "system", "seed", *item_metrics, "error"]
    assert len(rows) == sum(len(item.outputs) for item in results.items)
    assert [row["error"] for row in rows[:3]] == [f'{NASTY}, "and"\nmore', "the stem is silent", ""]
    expected = results.items[0].outputs[2]
    assert (rows[2]["system"], rows[2]["seed"], rows[2]["id"]) == (expected.system, "0", "0000")
    assert {name: float(rows[2][name]) for name in item_metrics} == expected.metrics  # to the last digit
    silence = next(row for row in rows if row["system"] == "silence")
    assert silence["tempo_error"] == ""
