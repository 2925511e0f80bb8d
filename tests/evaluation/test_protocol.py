"""`evaluate` on prepared songs: the same clips for all models, what is kept, what is done again, what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from prepared_songs import TONES, heard_tones, tone, write_song
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from stage_cli.cli.app import app
from stage_cli.core.evaluation import models as protocol_models
from stage_cli.core.evaluation import run
from stage_cli.core.evaluation.models import model_title
from stage_cli.core.evaluation.report.results import Results
from stage_cli.core.evaluation.run import evaluate
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.evaluation.song_clips import LATEST_BEAT, RATE, MetronomeClips, SongClips
from stage_cli.core.evaluation.summary import partners
from stage_cli.core.evaluation.systems import distinct_titles
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.errors import UsageError, WeightsError

SECONDS = 1.0
Configured = Callable[..., EvaluationConfig]


@pytest.fixture(autouse=True)
def no_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the page out, which has tests of its own, but in the one test that looks at it."""
    if request.node.name != "test_two_models_side_by_side":
        monkeypatch.setattr(run, "write_report", lambda folder, **_: folder / "report.html")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs that no test changes."""
    folder = tmp_path_factory.mktemp("data") / "songs"
    for number in range(4):
        write_song(folder / f"song {number}", seconds=6, bpm=100 + 20 * number, title=f"Tune {number}")
    return folder


def settings(out: Path, model: Path, songs: Path) -> dict[str, Any]:
    """Two clips of each of the last two songs, of one second."""
    values = {"songs": 2, "chunks": 2, "seconds": SECONDS}
    return values | {"out": out, "models": (str(model),), "data": (str(songs),)}


@pytest.fixture
def config(songs: Path, tiny_model_dir: Path, tmp_path: Path) -> Configured:
    def make(**changes: object) -> EvaluationConfig:
        return EvaluationConfig(**(settings(tmp_path / "report", tiny_model_dir, songs) | changes))

    return make


@pytest.fixture(scope="module")
def evaluated(songs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("evaluated") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_report", lambda folder, **_: folder / "report.html")
        return folder, evaluate(EvaluationConfig(**settings(folder, tiny_model_dir, songs))).results


@pytest.fixture
def finished(evaluated: tuple[Path, Results], tmp_path: Path) -> Results:
    """What `evaluate(config())` has left and returned."""
    folder, results = evaluated
    shutil.copytree(folder, tmp_path / "report")
    return results


@pytest.fixture
def other_model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model that differs in one weight."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if "head" in name or "linears" in name or name.startswith("lm."))
    tensors[name] = tensors[name] + torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(1))
    save_file(tensors, folder / "model.safetensors")
    return folder


def without_times(results: Results) -> dict:
    """Results but for what no two runs share."""
    summaries = tuple(entry for entry in results.summaries if entry.metric not in ("speed", "peak_memory_gb"))
    return dataclasses.replace(results, created="", summaries=summaries).to_dict()


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for part in ("items", "audio")
        for path in (folder / part).iterdir()
    }


def test_two_models_side_by_side(config: Configured, other_model: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    models = (str(tiny_model_dir), str(other_model))
    found = evaluate(config(models=models, baselines=True, context="both"), on_progress=lambda *step: told.append(step))
    results = found.results
    assert results.failures == ()
    assert [system.name for system in results.systems] == [
        "model:tiny", "shuffled:model:tiny", "model:other", "shuffled:model:other", "true", "shuffled", "silence",
        "click", "context", "codec:tiny", "codec:other",
    ]  # fmt: skip
    assert results.systems[0].model is not None
    assert results.systems[0].model["sample_rate"] == 8000
    kinds = [(item.song, item.context) for item in results.items]
    assert kinds == [(f"song {number}", kind) for kind in ("mix", "metronome") for number in (2, 2, 3, 3)]
    shown = {(entry.system, entry.context, entry.metric) for entry in results.summaries}
    for model in ("model:tiny", "model:other"):
        for kind in ("mix", "metronome"):
            for metric in ("onset_f", "loudness_difference", "fad_codec", "kad_codec", "speed", "peak_memory_gb"):
                assert (model, kind, metric) in shown
        # Mixes with clicks are no music: APA is of mixes.
        assert (model, "mix", "apa_codec") in shown
        assert (model, "metronome", "apa_codec") not in shown
    first = results.items[0]
    outputs = {output.system: output for output in first.outputs}
    assert outputs["model:tiny"].seed == outputs["model:other"].seed != results.items[1].outputs[0].seed
    audio = [
        soundfile.read(tmp_path / "report" / outputs[f"model:{name}"].files["generated"]) for name in ("tiny", "other")
    ]
    assert [(len(samples), rate) for samples, rate in audio] == [(RATE, RATE)] * 2, "as the clips"
    assert np.abs(audio[0][0] - audio[1][0]).max() > 1e-3
    assert {phase for phase, _, _ in told} >= {"clips", "anchors", "tiny", "other", "page"}
    assert all(0 <= done <= total for _, done, total in told)
    assert found.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    lines = (tmp_path / "report" / "items.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + sum(len(item.outputs) for item in results.items)
    apa = {entry.system: entry.value for entry in results.summaries if entry.metric == "apa_codec"}
    assert (apa["true"], apa["shuffled"]) == (1, 0)


def test_the_same_seed_gives_the_same_results(config: Configured, finished: Results, tmp_path: Path) -> None:
    second = evaluate(config(out=tmp_path / "two")).results
    assert without_times(finished) == without_times(second)
    other = SongClips(config(generation=GenerationConfig(seed=4)))
    assert [item.start for item in second.items] != [other.clip(index, "").start for index in range(4)]
    for path in (tmp_path / "report" / "audio").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "audio" / path.name).read_bytes()


def test_a_second_run_only_measures(
    config: Configured, finished: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(tmp_path / "report")
    monkeypatch.setattr(protocol_models.StageModel, "from_pretrained", None)  # is not asked for
    assert evaluate(config()).results.to_dict() | {"created": ""} == finished.to_dict() | {"created": ""}
    assert times(tmp_path / "report") == before


def test_what_is_missing_is_done(config: Configured, finished: Results, tmp_path: Path) -> None:
    report = tmp_path / "report"
    before = times(report)
    (report / "items" / "0002.model-tiny.json").unlink()
    (report / "items" / "0003.model-tiny.npz").write_bytes(b"half of an arr")
    (report / "audio" / "0004.model-tiny.flac").write_bytes(b"fLaC")
    (report / "audio" / ".0004.model-tiny.flac.part").write_bytes(b"left behind")
    second = evaluate(config()).results
    assert without_times(second) == without_times(finished)
    after = times(report)
    assert after.keys() == before.keys()
    touched = {name for name in after if after[name] != before[name]}
    assert {name.split("/")[1][:15] for name in touched} == {f"000{number}.model-tiny" for number in (2, 3, 4)}
    assert "audio/0003.model-tiny.flac" not in touched  # what was there is only heard again


def test_what_is_measured_can_grow(config: Configured, finished: Results, other_model: Path, tmp_path: Path) -> None:
    before = times(tmp_path / "report")
    spec = f"codec={other_model}"
    grown = evaluate(config(models=(*config().models, str(other_model)), embeddings=(spec,), baselines=True)).results
    after = times(tmp_path / "report")
    assert all(after[name] == before[name] for name in before if name.endswith(".flac") and ".mix" not in name)
    assert all(f"items/000{number}.model-other.json" in after for number in range(1, 5))
    assert grown.failures == ()


def test_other_settings_are_refused(config: Configured, finished: Results, tmp_path: Path) -> None:
    before = times(tmp_path / "report")
    with pytest.raises(UsageError, match=r"report of other settings · temperature is 1\.0 there, 0\.5 here"):
        evaluate(config(generation=GenerationConfig(temperature=0.5)))
    with pytest.raises(UsageError, match="chunks is 2 there, 1 here"):
        evaluate(config(chunks=1))
    assert times(tmp_path / "report") == before
    results = evaluate(config(chunks=1, overwrite=True)).results
    assert len(results.items) == 2
    assert not list((tmp_path / "report" / "items").glob("0003.*"))


def test_a_model_that_has_changed_is_done_again(
    config: Configured, other_model: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(tiny_model_dir, mine)
    evaluate(config(models=(str(mine),), embeddings=()))
    before = times(tmp_path / "report")
    shutil.copy(other_model / "model.safetensors", mine / "model.safetensors")
    evaluate(config(models=(str(mine),), embeddings=()))
    after = times(tmp_path / "report")
    assert {name.split(".")[1] for name in after if after[name] != before[name]} == {"model-mine"}


def test_folders_of_others_are_left_alone(config: Configured, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("do not lose this")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"thesis holds other files · chapter\.txt is of no report"):
            evaluate(config(out=tmp_path / "thesis", overwrite=overwrite))
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    with pytest.raises(UsageError, match=r"`out` .*chapter\.txt is a file"):
        evaluate(config(out=tmp_path / "thesis" / "chapter.txt"))


def test_a_broken_song_is_told_and_ends_nothing(config: Configured, songs: Path, tmp_path: Path) -> None:
    songs = Path(shutil.copytree(songs, tmp_path / "songs"))
    (songs / "song 2" / "drums" / "0.wav").write_bytes(b"RIFF")
    write_song(songs / "song 4", {"drums": np.zeros(48000), "bass": tone(200, 6)})
    features = json.loads((songs / "song 4" / "features.json").read_text())
    features["stems"]["drums"]["active"] = 6.0  # so it says, but it is silent
    (songs / "song 4" / "features.json").write_text(json.dumps(features))
    results = evaluate(config(songs=3, data=(str(songs),))).results
    assert [(failure.item, failure.system) for failure in results.failures] == [
        ("0001", ""), ("0002", ""), ("0005", ""), ("0006", ""),
    ]  # fmt: skip
    assert "song 2, drums" in results.failures[0].error
    assert "the stem is silent everywhere" in results.failures[2].error
    assert [item.song for item in results.items] == ["song 3", "song 3"]
    assert next(entry.n for entry in results.summaries if entry.metric == "silent") == 2


@pytest.mark.parametrize("context", ["mix", "metronome"])
def test_what_is_measured_is_what_generate_writes(
    config: Configured, tiny_model_dir: Path, tmp_path: Path, context: str
) -> None:
    """Bit for bit, for the same seed and settings: the clip's context as a file, through the command line."""
    sampling = {"guidance": 2.0, "temperature": 0.9, "top_k": 12, "top_p": 0.95}
    settings = config(context=context, embeddings=(), generation=GenerationConfig(seed=4, **sampling))
    evaluate(settings)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sampling.items()]
    for plan in SongClips(settings).plans[:2]:
        audio = tmp_path / "report" / "audio"
        arguments = ["--context", str(audio / f"{plan.id}.context.flac"), "--stem", "drums"]
        arguments += ["--model", str(tiny_model_dir), "--seed", str(plan.seed), *options]
        output = tmp_path / f"{plan.id}.flac"  # as reports keep them: WAV rounds to 24 bits a little otherwise
        result = CliRunner().invoke(app, ["generate", *arguments, "--output", str(output)])
        assert result.exit_code == 0, result.output
        measured, rate = soundfile.read(audio / f"{plan.id}.model-tiny.flac", dtype="int32")
        written, its_rate = soundfile.read(output, dtype="int32")
        assert rate == its_rate == RATE
        assert np.array_equal(measured, written)
        assert np.abs(written).max() > 0.01 * 2**31


def test_a_codec_that_returns_no_numbers(config: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    real = protocol_models.accompany
    calls = []

    def sometimes(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise WeightsError("The model returned samples that are no numbers")
        return real(*arguments, **options)

    monkeypatch.setattr(protocol_models, "accompany", sometimes)
    results = evaluate(config(embeddings=())).results
    (failure,) = results.failures
    assert (failure.item, failure.system) == ("0002", "model:tiny")
    errors = [output.error for output in results.items[1].outputs if output.system == "model:tiny"]
    assert errors == [failure.error]
    again = evaluate(config(embeddings=())).results
    assert again.failures == ()
    assert len(calls) == 5


def test_stopping_leaves_nothing_half_written(
    config: Configured, evaluated: tuple[Path, Results], tmp_path: Path
) -> None:
    def stop(phase: str, done: int, _: int) -> None:
        if (phase, done) == ("tiny", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), on_progress=stop)
    report = tmp_path / "report"
    assert not list(report.rglob("*.part"))
    assert not (report / "results.json").exists()
    before = times(report)
    stopped = evaluate(config()).results
    after = times(report)
    assert {name: after[name] for name in before} == before
    assert without_times(stopped) == without_times(evaluated[1])


def test_clips_do_not_depend_on_models(config: Configured, tmp_path: Path) -> None:
    source = SongClips(config(context="both"))
    clips = [source.clip(index, "") for index in range(len(source.plans))]
    assert all(len(clip.context) == len(clip.target) == RATE for clip in clips)
    assert [plan.id for plan in source.plans] == [f"{number:04d}" for number in range(1, 9)]
    assert len({plan.seed for plan in source.plans}) == 8
    for clip in clips:
        assert heard_tones(clip.target, RATE) == {"drums"}
        if clip.plan.context_kind == "mix":
            assert heard_tones(clip.context, RATE) == set(clip.context_stems) <= set(TONES) - {"drums"}
        assert 1 <= len(clip.beats) <= 3
    assert source.plans[0].title == "Tune 2"
    for most, first in ((None, 0), (3, 1)):
        of_all = SongClips(config(split="all", songs=most))
        assert {plan.song for plan in of_all.plans} == {f"song {number}" for number in range(first, 4)}
    listed = tmp_path / "ids.txt"
    listed.write_text("song 1\n")
    assert {plan.song for plan in SongClips(config(validation_file=listed)).plans} == {"song 1"}
    assert "There are 4 songs, not 24" in SongClips(config(songs=24)).notes[0]


def test_the_metronome_set(tmp_path: Path) -> None:
    config = EvaluationConfig(out=tmp_path, models=("none",), metronome_set=True)
    source = MetronomeClips(config)
    assert len(source.plans) == 160
    assert not source.has_targets
    clips = [source.clip(index, "") for index in (0, 1, 159)]
    assert [(clip.bpm, clip.seconds) for clip in clips] == [(100, 10), (100, 10), (179, 10)]
    assert all(0 <= clip.beats[0] < LATEST_BEAT for clip in clips)
    assert clips[0].beats[0] != clips[1].beats[0]
    np.testing.assert_allclose(np.diff(clips[2].beats), 60 / 179)
    assert source.plans[0].song == source.plans[1].song != source.plans[2].song
    assert all(
        np.array_equal(one.beats, source.clip(index, "").beats) for index, one in zip((0, 1), clips, strict=False)
    )
    pairs = partners(source.plans, 0)
    names = {plan.id: plan.song for plan in source.plans}
    assert all(names[one] != names[other] for one, other in pairs.items())


def test_a_model_on_the_metronome_set(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage_cli.core.evaluation.song_clips.TEMPI", range(100, 140, 20))
    config = EvaluationConfig(out=tmp_path / "m", models=(str(tiny_model_dir),), metronome_set=True, seconds=2)
    results = evaluate(config).results
    assert [item.bpm for item in results.items] == [100, 100, 120, 120]
    assert results.failures == ()
    assert {system.name for system in results.systems} == {
        "model:tiny", "shuffled:model:tiny", "silence", "click", "context"
    }  # fmt: skip
    clicks = {entry.metric: entry.value for entry in results.summaries if entry.system == "click"}
    assert clicks["onset_f"] == pytest.approx(1)
    # Without true stems there is nothing to compare levels or distributions with.
    assert not {"loudness_difference", "fad_codec"} & results.metrics.keys()


def test_titles() -> None:
    assert model_title("runs/mine/model", Path("runs/mine/model")) == ("mine", "runs")
    assert model_title("someone/drums@v2", Path("/cache/snapshots/abc")) == ("drums", "someone")
    assert distinct_titles(["a", "b", "a", "a"], ["x", "x", "y", "y"]) == ["x/a", "b", "y/a", "y/a-2"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chunks": 0}, r"`chunks` cannot be 0 · allowed: 1 to 1000"),
        ({"songs": 0}, r"`songs` cannot be 0"),
        ({"seconds": float("nan")}, r"`seconds` cannot be nan · allowed: 1 to 600"),
        ({"context": "song"}, r"`context` cannot be 'song' · allowed: mix, metronome, both"),
        ({"tracker": "madmom"}, r"`tracker` cannot be 'madmom' · allowed: essentia, beat-this, librosa"),
        ({"split": "first"}, r"`split` cannot be 'first' · allowed: last, fraction, all"),
        ({"embeddings": ("codec", "codec=x")}, r"`embedding` names one embedding twice"),
        ({"embeddings": ("clip",)}, r"`embedding` cannot be 'clip' · allowed: codec, clap, mert, vggish"),
        ({"models": ()}, r"There is nothing to evaluate · give `model`"),
        ({"models": ("a", "a")}, r"`model` names one thing twice"),
        ({"data": ()}, r"nothing to evaluate on"),
        ({"metronome_set": True}, r"`data` and `metronome_set` do not go together"),
        ({"generated": (Path(),)}, r"`generated` needs the contexts"),
        ({"reference": Path()}, r"`reference` goes with `context` DIR"),
        ({"data": (), "context_folder": Path("nowhere")}, r"`context`: there is no folder nowhere"),
        ({"cocola": Path("nowhere.ckpt")}, r"`cocola`: there is no file nowhere\.ckpt"),
        ({"stem": "drumms"}, r"`stem` cannot be 'drumms' · allowed: vocals, bass, drums"),
    ],
)
def test_bad_settings(config: Configured, changes: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stem": "bass"}, r"writes drums, not bass"),
        ({"descriptions": True}, r"takes no description"),
        ({"models": ("nowhere/at/all",)}, r"nowhere/at/all"),
        ({"data": ("nothing",)}, r"no folder nothing"),
        ({"embeddings": ("vggish",)}, r"vggish.* needs its weights"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_made(
    config: Configured, tmp_path: Path, changes: dict, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        evaluate(config(**changes))
    assert not (tmp_path / "report").exists()
