"""Any system's files against their contexts: matching, known beats, what goes wrong; metrics that rank as ears do."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stage_cli.core.band.composer import compose
from stage_cli.core.band.demo_data import compose_and_render
from stage_cli.core.band.theory import PITCH_CLASSES
from stage_cli.core.evaluation import run
from stage_cli.core.evaluation.clips import FileClips, matching, read_truth
from stage_cli.core.evaluation.intervals import paired_difference
from stage_cli.core.evaluation.report.results import Results, Summary, read_results
from stage_cli.core.evaluation.run import evaluate
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.errors import StageError, UsageError

RATE = 8000
BEATS = np.arange(0.25, 3, 0.5)


def clicks(seconds: float = 3.0, late: float = 0.0, rate: int = RATE) -> np.ndarray:
    audio = np.zeros(round(seconds * rate), dtype=np.float32)
    for beat in BEATS[BEATS + late < seconds - 0.1] + late:
        at, length = round(beat * rate), round(0.05 * rate)
        audio[at : at + length] = 0.5 * np.sin(np.arange(length) * 0.7) * np.exp(-np.arange(length) / 60)
    return audio


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three contexts with beats beside them, their true stems, and a system that copies them."""
    made = {name: tmp_path / name for name in ("contexts", "true", "mine")}
    for folder in made.values():
        folder.mkdir()
    time = np.arange(3 * RATE) / RATE
    for number, name in enumerate("abc"):
        soundfile.write(made["contexts"] / f"{name}.wav", 0.1 * np.sin(2 * np.pi * (200 + 50 * number) * time), RATE)
        lines = "".join(f"{beat:.3f} {place % 4 + 1}\n" for place, beat in enumerate(BEATS))
        (made["contexts"] / f"{name}.beats").write_text(lines)
        soundfile.write(made["true"] / f"{name}.wav", clicks(), RATE)
        soundfile.write(made["mine"] / f"{name}.drums.flac", clicks(), RATE)
    return made


@pytest.fixture
def config(folders: dict[str, Path], tmp_path: Path) -> Callable[..., EvaluationConfig]:
    def make(**changes: object) -> EvaluationConfig:
        values = {
            "out": tmp_path / "report",
            "context_folder": folders["contexts"],
            "reference": folders["true"],
            "generated": (folders["mine"],),
        }
        return EvaluationConfig(**(values | changes))

    return make


def found(results: Results, system: str, metric: str) -> Summary:
    return next(entry for entry in results.summaries if (entry.system, entry.metric) == (system, metric))


def test_what_goes_wrong_is_told_and_ends_nothing(
    folders: dict[str, Path], config: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    mine, contexts = folders["mine"], folders["contexts"]
    time = np.arange(3 * RATE) / RATE
    for name in ("corrupt", "short", "silent", "missing", "unreferenced"):
        soundfile.write(contexts / f"{name}.wav", 0.1 * np.sin(2 * np.pi * 200 * time), RATE)
        (contexts / f"{name}.beats").write_text("0.5\n1.0\n1.5\n")
        soundfile.write(mine / f"{name}.wav", clicks(), RATE)
        if name != "unreferenced":
            soundfile.write(folders["true"] / f"{name}.wav", clicks(), RATE)
    (contexts / "broken.wav").write_bytes(b"RIFF this is no audio")
    (contexts / "no beats.wav").write_bytes((contexts / "a.wav").read_bytes())
    (contexts / "no beats.beats").write_text("one\ntwo\n")
    (mine / "corrupt.wav").write_bytes((mine / "corrupt.wav").read_bytes()[:30])
    soundfile.write(mine / "short.wav", clicks(1.0), RATE)
    soundfile.write(mine / "silent.wav", np.zeros(3 * RATE), RATE)
    (mine / "missing.wav").unlink()
    results = evaluate(config()).results
    titles = {item.id: item.title for item in results.items}
    errors = {(titles.get(failure.item, failure.item), failure.system): failure.error for failure in results.failures}
    of_mine = {title: error for (title, system), error in errors.items() if system == "files:mine"}
    assert set(of_mine) == {"corrupt", "short", "missing"}
    assert "cannot read" in of_mine["corrupt"]
    assert "too short · it has 1.00 s, its context 3.00 s" in of_mine["short"]
    assert "no file in" in of_mine["missing"]
    assert "there is no stem for unreferenced" in errors["unreferenced", "true"]
    contexts_failed = [failure for failure in results.failures if failure.system == ""]
    assert len(contexts_failed) == 2
    assert any("no beats.beats is not as it should be" in failure.error for failure in contexts_failed)
    # All else is measured: the three good ones, and a silent stem, which says so.
    assert found(results, "files:mine", "silent").n == 5
    assert found(results, "files:mine", "silent").value == pytest.approx(0.2)
    written = read_results(tmp_path / "report")
    assert written.failures == results.failures
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "too short" in page
    # What is put right is done, and nothing else.
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "report" / "items").iterdir()}
    soundfile.write(mine / "short.wav", clicks(), RATE)
    again = evaluate(config()).results
    assert {titles[f.item] for f in again.failures if f.system == "files:mine"} == {"corrupt", "missing"}
    changed = {
        path.name
        for path in (tmp_path / "report" / "items").iterdir()
        if before.get(path.name) != path.stat().st_mtime_ns
    }
    short = next(item.id for item in results.items if item.title == "short")
    assert changed == {f"{short}.files-mine.json", f"{short}.files-mine.npz"}


def test_anchors_and_own_minus_shuffled(
    folders: dict[str, Path], config: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    for number, name in enumerate("abc"):  # grids that do not meet
        (folders["contexts"] / f"{name}.beats").write_text("".join(f"{beat + 0.12 * number:.3f}\n" for beat in BEATS))
        audio = clicks(late=0.12 * number)
        soundfile.write(folders["true"] / f"{name}.wav", audio, RATE)
        soundfile.write(folders["mine"] / f"{name}.drums.flac", audio, RATE)
    late = tmp_path / "late"
    late.mkdir()
    for number, name in enumerate("abc"):
        soundfile.write(late / f"{name}.wav", clicks(late=0.12 * number + 0.18), RATE)
    results = evaluate(config(generated=(folders["mine"], late))).results
    names = {system.name: system.role for system in results.systems}
    assert names == {
        "files:mine": "system", "shuffled:files:mine": "anchor", "files:late": "system",
        "shuffled:files:late": "anchor", "true": "anchor", "shuffled": "anchor", "silence": "anchor",
        "click": "anchor", "context": "anchor",
    }  # fmt: skip
    own, shuffled = found(results, "files:mine", "onset_f"), found(results, "shuffled:files:mine", "onset_f")
    gain = found(results, "files:mine", "onset_f_over_shuffled")
    assert own.value == pytest.approx(found(results, "true", "onset_f").value)
    assert gain.value == pytest.approx(own.value - shuffled.value)
    assert gain.low > 0
    assert found(results, "files:late", "onset_f").value < 0.3
    assert found(results, "silence", "silent").value == 1
    assert found(results, "files:mine", "loudness_difference").value == pytest.approx(0, abs=0.01)
    # Clicks are measured in time only, and every number has an anchor beside it.
    assert not [entry for entry in results.summaries if entry.system == "click" and entry.metric == "loudness"]
    anchored = {entry.metric for entry in results.summaries if names[entry.system] == "anchor"}
    assert {entry.metric for entry in results.summaries if not entry.metric.endswith("_over_shuffled")} <= anchored
    assert set(results.metrics) == {entry.metric for entry in results.summaries}
    output = next(output for output in results.items[0].outputs if output.system == "files:mine")
    mix, rate = soundfile.read(tmp_path / "report" / output.files["mix"])
    context, _ = soundfile.read(tmp_path / "report" / str(results.items[0].files["context"]))
    stem, _ = soundfile.read(tmp_path / "report" / output.files["generated"])
    assert rate == RATE
    np.testing.assert_allclose(mix, context + stem, atol=1e-5)


def test_matching_by_name(folders: dict[str, Path]) -> None:
    contexts = {name: folders["contexts"] / f"{name}.wav" for name in "abc"}
    soundfile.write(folders["contexts"] / "a.drums.wav", clicks(), RATE)
    soundfile.write(folders["mine"] / "a.wav", clicks(), RATE)
    # As `stage generate` names it, also beside the contexts; a context is never its own stem.
    assert matching(folders["contexts"], contexts, "drums") == {"a": folders["contexts"] / "a.drums.wav"}
    assert matching(folders["mine"], contexts, "drums")["a"].name == "a.drums.flac"
    with pytest.raises(UsageError, match=r"no stem in .* there should be a\.wav or a\.bass\.wav"):
        matching(folders["contexts"], contexts, "bass")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("x.beats", "0.5 1\n0.4 2\n", "beats must rise"),
        ("x.json", '{"bpm": 120}', "beats"),
        ("x.json", '{"beats": [0.5], "bpm": -1}', "bpm cannot be -1"),
        ("x.json", '{"beats": [0.5], "key": {"tonic": "H", "scale": "minor"}}', "is not as it should be"),
        ("x.json", "[1, 2]", "is not as it should be"),
    ],
)
def test_bad_truths(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StageError, match=match):
        read_truth(tmp_path / name)


def test_what_is_known_of_a_context(folders: dict[str, Path], config: Callable[..., EvaluationConfig]) -> None:
    known = {"beats": [0.5, 1.0], "bpm": 120, "key": {"tonic": "Bb", "scale": "minor"}, "song": "one"}
    for name in "ab":
        (folders["contexts"] / f"{name}.beats").unlink()
        (folders["contexts"] / f"{name}.json").write_text(json.dumps(known))
    source = FileClips(config())
    assert [plan.song for plan in source.plans] == ["one", "one", "c"]
    clip = source.clip(0, "digest")
    assert (clip.beats.tolist(), clip.bpm) == ([0.5, 1.0], 120)
    assert clip.key is not None
    assert (clip.key.tonic, clip.key.scale) == ("Bb", "minor")
    assert source.clip(2, "digest").downbeats.tolist() == [0.25, 2.25]
    assert FileClips(config(seconds=2)).clip(0, "digest").seconds == 2


RANKED_RATE, START, SECONDS, SEED, SONGS = 44_100, 8.0, 10.0, 11, 8
LATE = 0.075  # seconds
NOISE = {"drums": 0.3, "bass": 0.1}  # of the stem's level


def played_badly(audio: np.ndarray, number: int) -> np.ndarray:
    """Return audio that is on the beat and late in turns of 1.25 seconds, at its own pitch."""
    time = np.arange(len(audio)) / RANKED_RATE
    late = np.clip(0.5 + 20 * np.sin(2 * np.pi * time / 2.5 + number), 0, 1)
    return (1 - late) * audio + late * np.roll(audio, round(LATE * RANKED_RATE))


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight songs of demo-data: contexts with their beats; true stems, the same late with noise, other songs'."""
    folder = tmp_path_factory.mktemp("band")
    for kind in ("drums", "bass"):
        for name in ("contexts", "true", "noisy", "other"):
            (folder / kind / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    stems: dict[str, list[np.ndarray]] = {"drums": [], "bass": []}
    index = 0
    while len(stems["drums"]) < SONGS:
        score = compose(SEED, index, START + SECONDS, tempo_changes="never")
        index += 1
        if not {"drums", "bass"} <= {part.stem for part in score.parts if part.notes}:
            continue
        parts = compose_and_render(SEED, index - 1, START + SECONDS, tempo_changes="never")
        mono = {name: audio[round(START * RANKED_RATE) :].mean(axis=1) for name, audio in parts.items()}
        key = {"tonic": PITCH_CLASSES[score.key.tonic], "scale": score.key.scale}
        beats = [time - START for time in score.beat_times if START <= time < START + SECONDS]
        number = len(stems["drums"])
        for kind, kept in stems.items():
            context = np.sum([audio for name, audio in mono.items() if name != kind], axis=0)
            soundfile.write(folder / kind / "contexts" / f"{number}.flac", 0.5 * context, RANKED_RATE)
            (folder / kind / "contexts" / f"{number}.json").write_text(json.dumps({"beats": beats, "key": key}))
            kept.append(0.5 * mono[kind])
    for kind, kept in stems.items():
        for number, audio in enumerate(kept):
            noisy = played_badly(audio, number) + generator.normal(0, NOISE[kind] * audio.std(), len(audio))
            for name, made in (("true", audio), ("noisy", noisy), ("other", kept[(number + 1) % SONGS])):
                soundfile.write(folder / kind / name / f"{number}.flac", np.clip(made, -1, 1), RANKED_RATE)
    return folder


@pytest.mark.parametrize(
    ("stem", "metrics"),
    [
        ("drums", ("beat_f1", "onset_f")),
        pytest.param("bass", ("onset_f", "chroma_similarity"), marks=pytest.mark.slow),
    ],
)
def test_true_stems_rank_above_noisy_ones_and_those_above_other_songs(
    band: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str, metrics: tuple[str, ...]
) -> None:
    monkeypatch.setattr(run, "write_report", lambda folder, **_: folder / "report.html")
    folder = band / stem
    config = EvaluationConfig(
        out=tmp_path / "report",
        stem=stem,
        context_folder=folder / "contexts",
        reference=folder / "true",
        generated=tuple(folder / name for name in ("true", "noisy", "other")),
    )
    results = evaluate(config).results
    assert results.failures == ()
    names = ("files:true", "files:noisy", "files:other")
    for metric in metrics:
        values = [item_values(results, name, metric) for name in names]
        for better, worse in pairwise(values):
            songs = [item.song for item in results.items]
            margin = paired_difference(better, worse, songs, np.random.default_rng(0))
            assert margin.low > 0, (metric, [value.mean() for value in values])
        # What fits its own song no better than others follows nothing.
        assert found(results, "files:true", f"{metric}_over_shuffled").low > 0
        gain = [summary for summary in results.summaries if summary.system == "files:other"]
        low = [entry.low for entry in gain if entry.metric == f"{metric}_over_shuffled"]
        assert all(end is not None and end < 0.1 for end in low)


def item_values(results: Results, system: str, metric: str) -> np.ndarray:
    outputs = [output for item in results.items for output in item.outputs if output.system == system]
    return np.array([output.metrics[metric] for output in outputs], dtype=np.float64)
