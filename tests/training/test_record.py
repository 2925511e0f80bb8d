"""What a run leaves behind: metrics.jsonl, TensorBoard, W&B, curves, the model card."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import matplotlib.image
import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard as HubCard
from prepared_songs import tone, write_song
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.splits import split_songs
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model_config import StageConfig
from stage_cli.core.training.card import (
    DataSummary,
    ModelCard,
    card_text,
    licence_fields,
    public_config,
    write_model_card,
)
from stage_cli.core.training.events import Finished, Interrupted, Logged, Saved, Started, Stepped, Validated
from stage_cli.core.training.record import (
    Curves,
    MetricsFile,
    MetricsLine,
    Record,
    TensorBoard,
    WeightsAndBiases,
    demo_files,
    demo_folder,
    demo_path,
    draw_curves,
    read_metrics,
    smoothed,
)
from stage_cli.core.training.settings import LogConfig, LoraConfig, ModelConfig, RunConfig, TrainingConfig
from stage_cli.core.training.toml import to_dict
from stage_cli.errors import StageError, UsageError


def started(run: Path, resumed_from: int | None = None) -> Started:
    return Started(100, resumed_from, run, {"device": "cpu"})


def train(step: int) -> Logged:
    return Logged(step, {"loss": 5 / step, "loss/codebook_1": 4 / step, "learning_rate": 1e-5})


def validated(step: int, demos: tuple[Path, ...] = ()) -> Validated:
    metrics = {
        "validation/loss": 3 / step,
        "validation/loss_shuffled_context": 4 / step,
        "validation/context_gap": 1 / step,
    }
    return Validated(step, metrics, True, demos)


def timeless(path: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "time": None} for line in path.read_text().splitlines()]


class TestMetricsFile:
    def test_lines(self, tmp_path: Path) -> None:
        file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
        before = time.time()
        for event in (started(tmp_path), train(1), Stepped(1), validated(2), Saved(2, tmp_path), Finished(2, tmp_path)):
            file.on_event(event)
        first, second = (json.loads(line) for line in file.path.read_text().splitlines())
        assert first.keys() == {"step", "kind", "metrics", "time"}
        assert (first["step"], first["kind"], first["metrics"]) == (1, "train", dict(train(1).metrics))
        assert (second["step"], second["kind"], second["metrics"]) == (2, "validation", dict(validated(2).metrics))
        assert before - 0.01 <= first["time"] <= second["time"] <= time.time() + 0.01
        assert read_metrics(file.path)[1] == MetricsLine(2, "validation", dict(validated(2).metrics), second["time"])

    def test_numbers_keep_every_bit_and_what_is_none_is_null(self, tmp_path: Path) -> None:
        file = MetricsFile(tmp_path / "metrics.jsonl")
        file.append(1, "train", {"third": 1 / 3, "nan": math.nan, "inf": -math.inf})

        def never(text: str) -> float:
            raise AssertionError(f"{text} is no JSON")

        metrics = json.loads(file.path.read_text(), parse_constant=never)["metrics"]
        assert metrics == {"third": 1 / 3, "nan": None, "inf": None}
        (line,) = read_metrics(file.path)
        assert line.metrics["third"] == 1 / 3
        assert math.isnan(line.metrics["nan"])

    def test_a_resumed_file_equals_one_never_stopped(self, tmp_path: Path) -> None:
        whole, stopped = MetricsFile(tmp_path / "whole.jsonl"), MetricsFile(tmp_path / "stopped.jsonl")
        events = [
            event for step in range(1, 9) for event in (train(step), *([validated(step)] if step % 4 == 0 else []))
        ]
        for event in (started(tmp_path), *events):
            whole.on_event(event)
        for event in (started(tmp_path), *events[:7]):
            stopped.on_event(event)
        with stopped.path.open("ab") as file:
            file.write(b'{"step": 7, "kind": "tra')  # killed here; the last checkpoint is that of step 4
        for event in (started(tmp_path, 4), *(event for event in events if event.step > 4)):
            stopped.on_event(event)
        assert timeless(stopped.path) == timeless(whole.path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.jsonl", "whole.jsonl"]

    def test_a_new_run_begins_with_an_empty_file(self, tmp_path: Path) -> None:
        file = MetricsFile(tmp_path / "metrics.jsonl")
        file.on_event(validated(1))
        file.on_event(started(tmp_path))
        assert read_metrics(file.path) == []
        assert read_metrics(tmp_path / "none.jsonl") == []

    def test_killed_at_any_moment(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        script = (
            "import sys, pathlib, time\n"
            "from stage_cli.core.training.record import MetricsFile\n"
            "file = MetricsFile(pathlib.Path(sys.argv[1]))\n"
            "step = 0\n"
            "while True:\n"
            "    step += 1\n"
            "    file.append(step, 'train', {f'loss/codebook_{k}': step / 3 for k in range(200)})\n"
        )
        process = forked.Popen([sys.executable, "-c", script, str(path)])
        while not path.exists() or path.stat().st_size < 500_000:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = read_metrics(path)
        assert [line.step for line in lines] == list(range(1, len(lines) + 1))
        assert len(lines) >= len(path.read_bytes().splitlines()) - 1
        file = MetricsFile(path)
        file.cut_after(10)
        file.append(11, "train", {"loss": 1.0})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 12))

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.symlink_to("/dev/full")
        with pytest.raises(StageError, match=r"metrics\.jsonl · No space left on device · free some space"):
            MetricsFile(path).append(1, "train", {})

    def test_damage_in_the_middle_is_told(self, tmp_path: Path) -> None:
        file = MetricsFile(tmp_path / "metrics.jsonl")
        for step in (1, 2, 3):
            file.append(step, "train", {})
        lines = file.path.read_text().splitlines(keepends=True)
        file.path.write_text(lines[0] + "{}\n" + lines[2])
        with pytest.raises(StageError, match=r"metrics\.jsonl is damaged in line 2"):
            read_metrics(file.path)


@pytest.fixture
def demos(tmp_path: Path) -> tuple[Path, ...]:
    """Files of two demos as a validation writes them."""
    folder = demo_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    paths = []
    for number in (1, 2):
        for part in ("context", "generated", "mix", "target"):
            paths.append(demo_path(folder, number, part))
            soundfile.write(paths[-1], tone(300.0 * number, 0.5), 8000)
        paths.append(demo_path(folder, number, "picture"))
        matplotlib.image.imsave(paths[-1], np.full((20, 30, 3), 0.2 * number))
    return tuple(paths)


def test_demo_files(demos: tuple[Path, ...]) -> None:
    found = demo_files([*demos, demos[0].with_name("notes.txt")])
    parts = ["context", "generated", "mix", "target", "picture"]
    assert [(file.number, file.part) for file in found] == [(number, part) for number in (1, 2) for part in parts]
    assert found[6].name == "demos/02/generated"
    assert [file.path for file in found] == list(demos)


class TestTensorBoard:
    def read(self, folder: Path) -> EventAccumulator:
        return EventAccumulator(str(folder)).Reload()

    def test_numbers_and_demos(self, tmp_path: Path, demos: tuple[Path, ...]) -> None:
        sink = TensorBoard(tmp_path / "tensorboard", "[run]\nseed = 3\n")
        for event in (started(tmp_path), train(1), train(2), validated(2, demos), validated(4, demos)):
            sink.on_event(event)
        sink.close()
        sink.close()
        events = self.read(tmp_path / "tensorboard")
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 5.0), (2, 2.5)]
        assert [(event.step, event.value) for event in events.Scalars("validation/context_gap")] == [
            (2, 0.5),
            (4, 0.25),
        ]
        names = events.Tags()
        assert set(names["images"]) == {"demos/01/picture", "demos/02/picture"}
        parts = ("context", "generated", "mix", "target")
        assert set(names["audio"]) == {f"demos/{number:02d}/{part}" for number in (1, 2) for part in parts}
        assert [event.step for event in events.Audio("demos/01/generated")] == [2, 4]
        assert [event.step for event in events.Audio("demos/01/context")] == [2], "it never changes"
        sound, picture = events.Audio("demos/02/mix")[0], events.Images("demos/02/picture")[0]
        assert (sound.sample_rate, sound.length_frames) == (8000, 4000)
        assert (picture.width, picture.height) == (30, 20)
        (recipe,) = events.Tensors("recipe/text_summary")
        assert b"seed = 3" in recipe.tensor_proto.string_val[0]

    def test_a_resumed_run_voids_what_came_after_the_checkpoint(self, tmp_path: Path) -> None:
        for resumed_from, steps in ((None, range(1, 8)), (4, range(5, 10))):
            sink = TensorBoard(tmp_path)
            sink.on_event(started(tmp_path, resumed_from))
            for step in steps:
                sink.on_event(Logged(step, {"loss": step + (0.5 if resumed_from else 0.0)}))
            sink.close()
            time.sleep(1.1)  # files are read in the order of their names, which hold seconds
        values = [(event.step, event.value) for event in self.read(tmp_path).Scalars("loss")]
        assert values == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), *((step, step + 0.5) for step in range(5, 10))]


class TestWeightsAndBiases:
    @pytest.fixture(autouse=True)
    def offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No network: nothing listens at this address. No login either."""
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("NETRC", str(home / "netrc"))
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("WANDB_MODE", "offline")

    def records(self, file: Path) -> list[Any]:
        """Read a .wandb file: LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes."""
        from wandb.proto import wandb_internal_pb2

        data, found, message = file.read_bytes(), [], b""
        at = 7
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:  # too short for a record: filled up
                at += left
                continue
            size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            message += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last part
                found.append(wandb_internal_pb2.Record.FromString(message))
                message = b""
        return found

    def test_a_run_and_its_resumption(self, tmp_path: Path, demos: tuple[Path, ...]) -> None:
        """In a process of its own, as W&B keeps state for the process; what it wrote is read back."""
        script = (
            "import sys, pathlib, time\n"
            "from stage_cli.core.training.events import *\n"
            "from stage_cli.core.training.record import WeightsAndBiases\n"
            "run = pathlib.Path(sys.argv[1])\n"
            "demos = tuple(map(pathlib.Path, sys.argv[2:]))\n"
            "for resumed_from in (None, 1):\n"
            "    sink = WeightsAndBiases(run, 'stage', 'drums', {'train': {'steps': 5}})\n"
            "    sink.on_event(Started(5, resumed_from, run, {'device': 'cpu'}))\n"
            "    for step in range((resumed_from or 0) + 1, 3):\n"
            "        sink.on_event(Logged(step, {'loss': step / 4}))\n"
            "    sink.on_event(Validated(2, {'validation/loss': 0.75}, True, demos))\n"
            "    sink.on_event(Finished(5, run))\n"
            "    sink.close()\n"
            "    time.sleep(1.1)\n"  # W&B names its folders by the second
        )
        command = [sys.executable, "-c", script, str(tmp_path), *map(str, demos)]
        done = forked.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        identity = (tmp_path / "wandb_id").read_text().strip()
        files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
        assert len(files) == 2, "the resumed run goes on under the same id"
        for file, steps in zip(files, ([1, 2], [2]), strict=True):
            records = self.records(file)
            (run,) = [record.run for record in records if record.HasField("run")][:1]
            assert (run.run_id, run.project, run.display_name) == (identity, "stage", "drums")
            config = {item.key: json.loads(item.value_json) for item in run.config.update}
            assert config["train"] == {"steps": 5}
            rows = [
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                for record in records
                if record.HasField("history")
            ]
            assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(step, step / 4) for step in steps]
            (last,) = [row for row in rows if "validation/loss" in row]
            assert (last["step"], last["validation/loss"]) == (2, 0.75)
            assert last["demos/01/mix/_type"] == "audio-file"
            assert last["demos/02/picture/_type"] == "image-file"

    def test_the_package_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UsageError, match=r"pip install 'stage-cli\[wandb\]'"):
            WeightsAndBiases(tmp_path, "stage", "drums", {})

    def test_no_login(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        script = (
            "import sys, pathlib, time\n"
            "from stage_cli.core.training.events import Started\n"
            "from stage_cli.core.training.record import WeightsAndBiases\n"
            "run = pathlib.Path(sys.argv[1])\n"
            "WeightsAndBiases(run, 'stage', 'drums', {}).on_event(Started(5, None, run, {}))\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = forked.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1
        assert "Weights & Biases cannot be used · you are not logged in · log in with `wandb login`" in done.stderr


class TestCurves:
    def lines(self, steps: int) -> list[MetricsLine]:
        lines = []
        for step in range(1, steps + 1):
            lines.append(MetricsLine(step, "train", {**train(step).metrics, "learning_rate/muon": 0.02}, 0.0))
            if step % 10 == 0:
                lines.append(
                    MetricsLine(step, "validation", {**validated(step).metrics, "validation/context_gap/mix": 0.1}, 0.0)
                )
        return lines

    @pytest.mark.parametrize("steps", [0, 200])
    def test_a_picture_on_white(self, tmp_path: Path, steps: int) -> None:
        path = tmp_path / "curves.png"
        draw_curves(self.lines(steps), path, "costs $5 {")
        picture = matplotlib.image.imread(path)
        assert picture.shape == (880, 1430, 4)
        assert (picture[..., :3] == 1).all(axis=-1).mean() > 0.8
        assert list(tmp_path.iterdir()) == [path]

    def test_numbers_that_are_none(self, tmp_path: Path) -> None:
        metrics = {"loss": math.nan, "loss/codebook_1": math.nan, "learning_rate": math.nan}
        wrong = {"validation/loss": math.nan, "validation/context_gap": math.nan}
        lines = [MetricsLine(1, "train", metrics, 0.0), MetricsLine(1, "validation", wrong, 0.0)]
        draw_curves(lines, tmp_path / "curves.png", "drums")
        assert (tmp_path / "curves.png").stat().st_size > 10_000

    def test_smoothed_values_are_means_of_those_around(self) -> None:
        values = np.random.default_rng(0).standard_normal(400)
        half = 5  # a fortieth of 400 is 10
        expected = [values[max(0, at - half) : at + half + 1].mean() for at in range(400)]
        np.testing.assert_allclose(smoothed(values), expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(smoothed(values[:10]), values[:10])

    def test_drawn_at_validations_and_at_the_end(self, tmp_path: Path) -> None:
        metrics, path = MetricsFile(tmp_path / "metrics.jsonl"), tmp_path / "curves.png"
        sink = Curves(metrics.path, path, "drums")
        pictures = []
        for event in (
            started(tmp_path),
            train(1),
            validated(2),
            train(3),
            Interrupted(3, 15),
            train(4),
            Finished(4, tmp_path),
        ):
            metrics.on_event(event)
            sink.on_event(event)
            pictures.append(path.read_bytes() if path.exists() else b"")
        new = [later != earlier for earlier, later in itertools.pairwise(pictures)]
        assert new == [False, True, False, True, False, True]


class TestRecord:
    def config(self, run: Path, **log: Any) -> TrainingConfig:
        return TrainingConfig(
            name="drums",
            run=RunConfig(directory=str(run)),
            model=ModelConfig(base="facebook/musicgen-small"),
            data=DataConfig(root=("songs",)),
            log=LogConfig(**log),
        )

    def test_what_the_log_table_asks_for(self, tmp_path: Path) -> None:
        for name, log, expected in (
            ("all", {}, {"metrics.jsonl", "tensorboard", "curves.png"}),
            ("few", {"tensorboard": False, "curves": False}, {"metrics.jsonl"}),
        ):
            record = Record(self.config(tmp_path / name, **log))
            for event in (started(tmp_path), train(1), validated(2), Finished(2, tmp_path)):
                record.on_event(event)
            record.close()
            assert {path.name for path in (tmp_path / name).iterdir()} == expected

    def test_a_sink_that_fails_is_put_aside_with_a_note(self, tmp_path: Path) -> None:
        notes: list[str] = []
        record = Record(self.config(tmp_path, tensorboard=False), on_note=notes.append)
        (tmp_path / "curves.png").mkdir()  # in the way
        for event in (started(tmp_path), train(1), validated(2), validated(3)):
            record.on_event(event)
        record.close()
        assert len(notes) == 1
        assert notes[0].startswith("Curves is off from now on: cannot write")
        assert [line.step for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]

    def test_one_that_cannot_start_stops_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "tensorboard").write_text("in the way")
        record = Record(self.config(tmp_path))
        with pytest.raises(StageError, match="TensorBoard cannot be started"):
            record.on_event(started(tmp_path))

    def test_wandb_is_looked_for_before_anything_begins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UsageError, match=r"log\.wandb = true needs the package wandb"):
            Record(self.config(tmp_path, wandb=True))


class TestModelCard:
    METRICS: Mapping[str, float] = {
        "validation/loss": 3.2104,
        "validation/loss/codebook_2": 3.5,
        "validation/loss/codebook_1": 2.9,
        "validation/context_gap": 0.3,
        "validation/other": 1.0,
    }

    @pytest.fixture
    def card(self, tmp_path: Path) -> ModelCard:
        root = tmp_path / "private" / "moisesdb"
        for number in range(5):
            stems = {"drums": tone(450, 36.0), "piano": tone(900, 36.0)}
            write_song(root / f"song-{number}", stems if number else {"piano": stems["piano"], "bass": stems["drums"]})
        config = TrainingConfig(
            name="my-drums",
            run=RunConfig(directory=str(tmp_path / "private" / "runs" / "my-drums")),
            model=ModelConfig(base="facebook/musicgen-small"),
            data=DataConfig(root=(str(root),), validation_songs=1),
        )
        split = split_songs(find_songs(config.data.root), config.data)
        data = DataSummary.of(config, split.training, split.validation)
        lm = LanguageModelConfig(text_dimension=768)
        model = StageConfig(lm=lm, stem="drums", licence="CC-BY-NC-4.0 (MusicGen)", base="facebook/musicgen-small")
        return ModelCard(config, model, data, 48_000, self.METRICS)

    def test_the_hub_reads_its_front_matter(self, card: ModelCard, tmp_path: Path) -> None:
        path = write_model_card(tmp_path, card)
        assert path.name == "README.md"
        fields = HubCard.load(path).data.to_dict()
        assert fields["license"] == "cc-by-nc-4.0"
        assert fields["library_name"] == "stage-cli"
        assert fields["base_model"] == "facebook/musicgen-small"
        assert fields["pipeline_tag"] == "audio-to-audio"
        assert {"music", "stems", "drums"} <= set(fields["tags"])

    def test_data_metrics_and_limits(self, card: ModelCard) -> None:
        text = card_text(card)
        assert card.data == DataSummary(3, pytest.approx(3 * 36 / 3600), 1, pytest.approx(36 / 3600), {"drums": 3})
        for expected in (
            "# my-drums",
            "stage generate --context song.wav --stem drums --model MODEL",
            "`moisesdb`",
            "| training | 3 | 0.0 |",
            "| loss | 3.210 |\n| context gap | 0.300 |\n| loss of codebook 1 | 2.900 |\n| loss of codebook 2 | 3.500 |",
            "48,000 of 100,000 steps",
            "CC-BY-NC-4.0 (MusicGen) (inherited from the base). It forbids commercial use.",
            "It writes drums and nothing else.",
            "10 s at a time",
            "mono at 32 kHz",
        ):
            assert expected in text
        assert "other" not in text.partition("## How well it does")[2].partition("##")[0].replace("another", "")

    def test_no_path_of_the_machine(self, card: ModelCard, tmp_path: Path) -> None:
        base, ids = tmp_path / "private" / "my-base", tmp_path / "private" / "ids.txt"
        base.mkdir()
        config = replace(
            card.config,
            model=ModelConfig(base=str(base), text_encoder=str(base)),
            data=replace(card.config.data, split="file", validation_file=str(ids)),
        )
        text = card_text(
            replace(card, config=config, model=replace(card.model, base=str(base), text_encoder=str(base)))
        )
        assert str(tmp_path) not in text
        assert "private" not in text
        assert "trained from `my-base`" in text
        assert "base_model" not in text, "it is not on the Hub"

    def test_the_recipe_can_be_read_back(self, card: ModelCard) -> None:
        recipe = card_text(card).partition("```toml\n")[2].partition("```")[0]
        values = tomllib.loads(recipe)
        assert values == to_dict(public_config(card.config))
        assert values["data"]["root"] == ["moisesdb"]
        assert values["run"]["directory"] == "my-drums"
        assert values["train"] == to_dict(card.config)["train"]

    def test_an_adapter_a_model_for_all_stems_and_one_from_scratch(self, card: ModelCard) -> None:
        adapter = card_text(replace(card, config=replace(card.config, lora=LoraConfig())))
        assert "An adapter (LoRA) that writes drums" in adapter
        assert "needs its base, `facebook/musicgen-small`" in adapter
        any_stem = replace(card.config, data=replace(card.config.data, stem="any"))
        several = card_text(replace(card, config=any_stem, model=replace(card.model, stem=None)))
        assert "writes the stem that its description names" in several
        assert "Instruments: drums." in several
        lm = LanguageModelConfig(text_dimension=None)
        scratch = replace(card.config, model=ModelConfig(lm=lm, codec="facebook/encodec_32khz"))
        model = replace(card.model, lm=lm, text_encoder=None, base=None, licence="MIT")
        text = card_text(replace(card, config=scratch, model=model, metrics={}))
        for expected in (
            "trained from scratch",
            "It takes no description",
            "It was not validated",
            "It allows commercial",
        ):
            assert expected in text
        assert "--description" not in text
        assert "base_model" not in text

    @pytest.mark.parametrize(
        ("licence", "fields"),
        [
            ("CC-BY-NC-4.0 (no commercial use)", {"license": "cc-by-nc-4.0"}),
            ("MIT", {"license": "mit"}),
            ("unknown", {"license": "unknown"}),
            ("", {"license": "unknown"}),
            ("My own, ask me", {"license": "other", "license_name": "my-own-ask-me"}),
        ],
    )
    def test_licences(self, licence: str, fields: dict[str, str]) -> None:
        assert licence_fields(licence) == fields
