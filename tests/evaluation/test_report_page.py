"""report.html as text: whole, safe, self-contained, and saying what was found."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from stage_cli.core.evaluation.report.page import decimals, json_for_script, number, tables, write_report
from stage_cli.core.evaluation.report.results import Metric, Summary, SystemResult, write_results
from stage_cli.errors import StageError
from tests.evaluation.report_example import NASTY, with_failures, write_example

_VOID = {"meta", "link", "br", "input", "img", "hr"}


class Outline(HTMLParser):
    """Keeps the open elements, and complains about each that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.last = dict(attrs)
        self.attributes.append((tag, self.last))
        if len(dict(attrs)) != len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open:
            if self.open[-1] == "script" and self.last.get("id") == "data":
                self.data += data
            self.texts.append((self.open[-1], data))

    def text_of(self, *tags: str) -> str:
        return "".join(text for tag, text in self.texts if tag in tags)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made = with_failures(write_example(folder, items=4, songs=2, seconds=0.5))
    nasty = dataclasses.replace(made.systems[0], title=NASTY, model={NASTY: NASTY})
    metrics = {**made.metrics, "beat_f1": dataclasses.replace(made.metrics["beat_f1"], explanation=NASTY, unit="<i>")}
    noted = (dataclasses.replace(made.summaries[0], note=NASTY), *made.summaries[1:])
    made = dataclasses.replace(
        made,
        systems=(nasty, *made.systems[1:]),
        metrics=metrics,
        summaries=noted,
        settings={**made.settings, NASTY: NASTY},
    )
    write_results(folder, made)
    return folder, made


@pytest.fixture(scope="module")
def page(results) -> str:
    return write_report(results[0]).read_text(encoding="utf-8")


def test_every_element_is_closed_and_every_id_is_unique(page):
    outline = Outline(page)
    assert (outline.wrong, outline.open) == ([], [])
    ids = [attributes["id"] for _, attributes in outline.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.startswith("<!doctype html>")


def test_the_checker_sees_what_is_wrong():
    assert Outline("<p><b>x</p>").wrong == ["</p> at (1, 7)"]
    assert Outline("<p>").open == ["p"]


def test_text_stays_text(page):
    outline = Outline(page)
    assert not any(tag == "b" and text == "loud" for tag, text in outline.texts)
    assert outline.text_of("h1").startswith(NASTY)
    assert NASTY in outline.text_of("title")
    assert NASTY in outline.text_of("small")  # a note
    data = json.loads(outline.data)
    assert NASTY in {item["title"] for item in data["items"]}
    assert data["systems"][0]["title"] == NASTY
    assert "song_9/bass.wav is damaged <cut off>" in outline.text_of("em")


def test_json_cannot_leave_its_script():
    text = json_for_script({"title": "</script><!-- <script>\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"title": "</script><!-- <script>\u2028"}


def test_nothing_is_fetched(page):
    outline = Outline(page)
    links = [attributes[name] for _, attributes in outline.attributes for name in ("src", "href") if name in attributes]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\(", outline.text_of("style"))
    policy = next(attributes["content"] for _, attributes in outline.attributes if "content" in attributes
                  and (attributes.get("http-equiv") or "") == "Content-Security-Policy")  # fmt: skip
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_every_sound_has_its_place(page):
    outline = Outline(page)
    data = json.loads(outline.data)
    sounds = {attributes["id"] for tag, attributes in outline.attributes if attributes.get("type") == "text/plain"}
    assert sounds == {f"sound-{place}" for place, clip in enumerate(data["clips"]) if not clip["error"]}
    lost = data["clips"][data["items"][0]["outputs"][0]["clips"]["generated"]]
    assert lost["error"] == "cannot read lost.flac · there is no such file · check the name and the folder"


def test_what_was_measured_and_what_failed_is_told(page):
    outline = Outline(page)
    assert "4 items of 0.5 s · from 2 songs · context: mix and metronome · 20 November 2026, 21:15" in outline.text_of(
        "p"
    )
    assert "stage evaluate --model small --model 'stage drums' --stem drums" in outline.text_of("code")
    facts = outline.text_of("dd")
    for fact in ("250", "mix, metronome", "0.8.2", "2 cores", "620000000"):
        assert fact in facts
    assert "3 failures: the numbers are of what remained" in outline.text_of("summary")
    assert "audio/lost.flac" in outline.text_of("span")
    assert "the stem is silent" in outline.text_of("em")


def _row(html: str, title: str) -> str:
    return next(row for row in re.findall(r"<tr.*?</tr>", html) if f'scope="row">{title}' in row)


def _cells(row: str) -> list[tuple[str, str]]:
    return re.findall(r'<td role="cell" class="([^"]*)"[^>]*>(.*?)</td>', row)


def small_results(results, entries, **metric):
    systems = (SystemResult("model:a", "A"), SystemResult("model:b", "B"), SystemResult("true", "True", "anchor"))
    summaries = tuple(
        Summary(system.name, "mix", "m", value, low, high, 5)
        for system, (value, low, high) in zip(systems, entries, strict=True)
    )
    return dataclasses.replace(results, systems=systems, metrics={"m": Metric("M", **metric)}, summaries=summaries)


def test_a_cell_has_value_interval_and_bar(results):
    made = small_results(results[1], [(0.5, 0.4, 0.7), (0.25, 0.2, 0.3), (1.0, 0.9, 1.0)], range=(0.0, 1.0))
    (first_class, first), (second_class, _), (third_class, _) = _cells(_row(tables(made), "M"))
    assert "<b>0.50</b> <small>0.40 – 0.70</small>" in first
    assert 'class="fill" style="left:0.0%;width:50.0%"' in first
    assert 'class="whisker" style="left:40.0%;width:30.0%"' in first
    assert (first_class, second_class, third_class) == ("system colour-0 best", "system colour-1", "anchor first")


@pytest.mark.parametrize(
    ("better", "best"), [("higher", [True, False]), ("lower", [False, True]), ("none", [False, False])]
)
def test_the_best_is_the_best_system_and_never_an_anchor(results, better, best):
    made = small_results(results[1], [(5.0, 4.0, 6.0), (3.0, 2.0, 4.0), (0.1, 0.1, 0.1)], better=better)
    classes = [name for name, _ in _cells(_row(tables(made), "M"))]
    assert ["best" in name for name in classes] == [*best, False]


def test_a_far_anchor_does_not_set_the_scale(results):
    made = small_results(results[1], [(2.0, 1.5, 2.5), (1.0, 0.5, 1.5), (900.0, 800.0, 999.0)], better="lower")
    (_, first), _, (_, anchor) = _cells(_row(tables(made), "M"))
    assert 'style="left:0.0%;width:32.0%"' in first  # of 2.5 · 2.5
    assert "fill beyond" in anchor
    assert "<b>900.00</b>" in anchor


def test_negative_values_grow_from_a_floor(results):
    made = small_results(
        results[1], [(-20.0, -21.0, -19.0), (-16.0, -17.0, -15.0), (-18.0, -19.0, -17.0)], better="none"
    )
    bars = [re.search(r'"fill" style="left:0.0%;width:([\d.]+)%', cell) for _, cell in _cells(_row(tables(made), "M"))]
    widths = [float(bar[1]) for bar in bars]
    assert 0 < widths[0] < widths[2] < widths[1] < 100


def test_an_undefined_value_is_a_dash_and_too_few_songs_have_no_interval(results):
    made = small_results(results[1], [(None, None, None), (0.0, None, None), (0.0, 0.0, 0.0)])
    (_, first), (_, second), _ = _cells(_row(tables(made), "M"))
    assert "–" in first
    assert "bar" not in first
    assert "<b>0.00</b> </span>" in second
    assert "whisker" not in second


def test_no_anchor_is_a_warning(results, tmp_path):
    systems = tuple(system for system in results[1].systems if system.role == "system")
    write_results(tmp_path, dataclasses.replace(results[1], systems=systems, items=()))
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text_of("p")
    assert "No anchors were measured" in text


def test_a_report_needs_its_results(tmp_path):
    with pytest.raises(StageError, match=r"cannot read .*results\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([123.4], "123"),
        ([12.34], "12.3"),
        ([1.0, 0.5], "0.50"),
        ([0.5, 0.03], "0.030"),
        ([0.0], "0.00"),
        ([-20.0], "−20.0"),
    ],
)
def test_numbers_have_as_many_digits_as_they_need(values, text):
    assert number(values[-1], decimals(values)) == text


def test_there_is_no_negative_zero():
    assert number(-0.0004, 2) == "0.00"
