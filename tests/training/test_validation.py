"""Validation: which items, losses with the right and a wrong context, demos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from prepared_songs import RATE, tone, write_song
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from stage_cli.core.accompany import AccompanySettings, AudioBlock
from stage_cli.core.audio.spectra import LOWEST_HZ, PICTURE_BANDS, band_corners, mel_power
from stage_cli.core.contexts import FileContext
from stage_cli.core.data.config import DataConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel
from stage_cli.core.stem_files import StemRequest, write_stems
from stage_cli.core.training.building import build_model
from stage_cli.core.training.demos import DemoPicture, draw_demo
from stage_cli.core.training.settings import ModelConfig, RunConfig, TrainConfig, TrainingConfig, ValidateConfig
from stage_cli.core.training.stem_module import TokenBatch
from stage_cli.core.training.stem_task import StemTask
from stage_cli.core.training.validation import Validator, partners, spread

SONGS = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs; each has tones of its own, so no two sound alike."""
    root = tmp_path_factory.mktemp("songs")
    for number, name in enumerate(SONGS):
        stems = {
            stem: tone(frequency + 37 * number, 5.0)
            for stem, frequency in {"drums": 450, "bass": 200, "piano": 900}.items()
        }
        write_song(root / name, stems, bpm=220 + 10 * number)
    return root


def training_config(songs: Path, model: Path, run: Path, *, context: str = "mix", **validate: Any) -> TrainingConfig:
    validate = {"items_per_song": 2, "demos": 2, **validate}
    return TrainingConfig(
        run=RunConfig(directory=str(run), device="cpu"),
        model=ModelConfig(base=str(model)),
        data=DataConfig(
            root=(str(songs),), context=context, chunk_seconds=1.0, context_seconds=(0.6, 0.9), validation_songs=3
        ),
        train=TrainConfig(batch_size=2, micro_batch_size=2),
        validate=ValidateConfig(**validate),
    )


def make_task(config: TrainingConfig) -> StemTask:
    task = StemTask(config, build_model(config))
    task.place(torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def losses_run(songs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Validator:
    config = training_config(songs, tiny_model_dir, tmp_path_factory.mktemp("run"), context="both", demos=0)
    return Validator(config, make_task(config))


@pytest.fixture(scope="module")
def demos_run(songs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Validator:
    config = training_config(songs, tiny_model_dir, tmp_path_factory.mktemp("run"), context="both")
    return Validator(config, make_task(config))


class TestItems:
    @pytest.mark.parametrize(("groups", "each", "most"), [(3, 4, 96), (7, 3, 10), (24, 4, 96), (200, 4, 96), (5, 2, 1)])
    def test_rounds_spread_evenly(self, groups: int, each: int, most: int) -> None:
        indices = spread(groups, each, most)
        assert len(indices) == len(set(indices)) == min(most, groups * each)
        places, numbers = [index % each for index in indices], [index // each for index in indices]
        assert max(numbers) < groups
        assert places == sorted(places), "no second item of a song before the first of all"
        whole, rest = divmod(len(indices), groups)
        assert all(numbers[turn * groups : (turn + 1) * groups] == list(range(groups)) for turn in range(whole))
        gaps = np.diff([*numbers[whole * groups :], groups]) if rest else np.array([0])
        assert gaps.max() - gaps.min() <= 1

    def test_partners_are_the_next_items_of_other_songs(self) -> None:
        songs, kinds = ["a", "b", "c", "a", "b", "c"], ["mix", "mix", "metronome", "metronome", "mix", "mix"]
        assert partners(songs, kinds) == [1, 5, 3, 2, 5, 0]

    def test_a_kind_that_one_song_alone_has_gives_no_partners(self) -> None:
        assert partners(["a", "b", "a"], ["mix", "metronome", "mix"]) == [None, None, None]

    def test_the_same_songs_chunks_and_mixes_with_all_of_their_context(self, songs: Path, tiny_model_dir: Path) -> None:
        config = training_config(songs, tiny_model_dir, songs / "run", context="both")
        items = Validator(config, make_task(config)).items
        assert [items.item(position).song for position in range(len(items))] == ["dog", "eel", "fox"] * 2
        for position in range(len(items)):
            cut, whole = items.item(position), items.uncut_item(position)
            assert len(cut.context) < len(whole.context) == len(whole.target) == RATE
            np.testing.assert_array_equal(cut.context, whole.context[: len(cut.context)])
            np.testing.assert_array_equal(cut.target, whole.target)
            assert cut.augmentation.is_identity


def slow_losses(task: StemTask, contexts: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Loss of each item and codebook, `[items, K]`: one item at a time, over its whole masked sequence."""
    rows = []
    for context, target in zip(contexts, targets, strict=True):
        tokens, attended, positions = delayed_sequence(context[None], target[None], task.model.config.lm)
        with torch.no_grad():
            logits = task.model.lm(tokens, attended, positions)[0]
        K, T = target.shape
        row = []
        for k in range(K):
            # Frame t of codebook k stands at step Tc + 2 + t + k; the last steps of the sequence are cut in training.
            learned = [t for t in range(T) if context.shape[1] + 2 + t + k < context.shape[1] + T + 2]
            steps = [context.shape[1] + 1 + t + k for t in learned]
            row.append(F.cross_entropy(logits[k, steps], target[k, learned]))
        rows.append(torch.stack(row))
    return torch.stack(rows).double()


class TestLosses:
    def test_equal_to_losses_item_by_item(self, losses_run: Validator) -> None:
        metrics = losses_run(7).metrics
        items = [losses_run.items.item(position) for position in range(len(losses_run.items))]
        codec, task = losses_run.task.model.codec, losses_run.task
        # Contexts are encoded with silence behind them, as long as the targets.
        padded = [F.pad(torch.from_numpy(item.context), (0, RATE - len(item.context))) for item in items]
        codes = [codec.encode(audio[None, None])[0] for audio in padded]
        contexts = [
            row[:, : -(-len(item.context) // codec.config.hop_length)] for row, item in zip(codes, items, strict=True)
        ]
        targets = [codec.encode(torch.from_numpy(item.target)[None, None])[0] for item in items]
        own = slow_losses(task, contexts, targets)
        others = partners([item.song for item in items], [item.context_kind for item in items])
        assert None not in others
        cut = [contexts[other][:, : own.shape[1]] for other, own in zip(others, contexts, strict=True)]
        shuffled = slow_losses(task, cut, targets).mean(dim=1)
        expected = {"validation/loss": own.mean()}
        expected |= {f"validation/loss/codebook_{k + 1}": own[:, k].mean() for k in range(4)}
        gaps = shuffled - own.mean(dim=1)
        expected |= {"validation/loss_shuffled_context": shuffled.mean(), "validation/context_gap": gaps.mean()}
        for kind in ("mix", "metronome"):
            chosen = [item.context_kind == kind for item in items]
            assert any(chosen), "both kinds occur"
            expected[f"validation/context_gap/{kind}"] = gaps[torch.tensor(chosen)].mean()
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(float(value), abs=1e-5), name

    def test_again_the_same_without_files_and_codec(
        self, losses_run: Validator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = losses_run(1).metrics

        def never(*_: object, **__: object) -> None:
            raise AssertionError("asked again")

        monkeypatch.setattr(losses_run.task.model.codec, "encode", never)
        monkeypatch.setattr(losses_run.items, "item", never)
        assert losses_run(2).metrics == first

    def test_another_validator_finds_the_same(self, losses_run: Validator) -> None:
        assert Validator(losses_run.config, losses_run.task)(1).metrics == losses_run(1).metrics

    def test_the_training_is_not_disturbed(self, losses_run: Validator) -> None:
        module = losses_run.task.module
        module.train()
        module.lm.layers[0].eval()  # ty: ignore[possibly-missing-attribute]
        modes = [part.training for part in module.modules()]
        state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
        Validator(losses_run.config, losses_run.task)(1)
        assert torch.equal(torch.get_rng_state(), state)
        assert np.array_equal(np.random.get_state()[1], numbers)
        assert [part.training for part in module.modules()] == modes
        assert all(parameter.grad is None for parameter in module.parameters())
        assert any(parameter.requires_grad for parameter in module.parameters())

    @pytest.mark.parametrize("processes", [2, 3, 5])
    def test_any_number_of_processes(
        self, losses_run: Validator, processes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = Calls(losses_run.task.module)
        monkeypatch.setattr(losses_run.task, "module", calls)
        parts: list[Tensor] = []

        def collect(sums: Tensor) -> Tensor:
            parts.append(sums.clone())
            return sums

        counts = []
        for process in range(processes):
            calls.count = 0
            Validator(losses_run.config, losses_run.task, process=process, processes=processes, reduce=collect)(1)
            counts.append(calls.count)
        assert len(set(counts)) == 1, "weights that are spread over the processes need equally many calls on each"
        assert all(bool(part.any()) for part in parts[: min(processes, len(losses_run._batches))]), (
            "each does its share"
        )
        total = torch.stack(parts).sum(dim=0)
        together = Validator(losses_run.config, losses_run.task, processes=processes, reduce=lambda _: total)(1).metrics
        alone = losses_run(1).metrics
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, abs=1e-9), name

    def test_the_precision_of_the_training(self, losses_run: Validator) -> None:
        entered = []

        @contextmanager
        def half() -> Iterator[None]:
            entered.append(True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield

        metrics = Validator(losses_run.config, losses_run.task, autocast=half)(1).metrics
        whole = losses_run(1).metrics
        assert len(entered) == 2 * len(losses_run._batches)
        assert 0 < abs(metrics["validation/loss"] - whole["validation/loss"]) < 0.05


class Calls(nn.Module):
    """A module that counts how often it is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.count = 0

    def forward(self, tokens: TokenBatch) -> dict[str, Tensor]:
        self.count += 1
        return self.module(tokens)


class Listener(nn.Module):
    """Knows which context belongs to which target; its loss is the share of wrong ones, or 0.5 where it is deaf."""

    def __init__(self, *, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf
        self.known: dict[tuple[int, ...], Tensor] = {}

    def forward(self, tokens: TokenBatch) -> dict[str, Tensor]:
        wrong = []
        for context, target in zip(tokens.contexts(), tokens.target, strict=True):
            right = self.known.setdefault(tuple(target.flatten().tolist()), context)
            wrong.append(float(context.shape != right.shape or not torch.equal(context, right)))
        loss = torch.tensor(0.5 if self.deaf else sum(wrong) / len(wrong))
        return {"loss": loss, "codebook_losses": loss.expand(tokens.target.shape[1])}


class TestContextGap:
    def metrics(self, config: TrainingConfig, module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
        task = make_task(config)
        monkeypatch.setattr(task, "module", module)
        return Validator(config, task)(1).metrics

    @pytest.mark.parametrize("context", ["mix", "metronome", "both"])
    def test_one_for_who_listens_and_nothing_for_the_deaf(
        self, songs: Path, tiny_model_dir: Path, tmp_path: Path, context: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = training_config(songs, tiny_model_dir, tmp_path, context=context, demos=0)
        metrics = self.metrics(config, Listener(), monkeypatch)
        gaps = {name: value for name, value in metrics.items() if "gap" in name}
        kinds = {f"validation/context_gap/{kind}" for kind in ("mix", "metronome")} if context == "both" else set()
        assert gaps == dict.fromkeys({"validation/context_gap"} | kinds, 1.0)
        assert (metrics["validation/loss"], metrics["validation/loss_shuffled_context"]) == (0.0, 1.0)
        deaf = self.metrics(config, Listener(deaf=True), monkeypatch)
        assert {deaf[name] for name in gaps} == {0.0}
        assert deaf["validation/loss"] == deaf["validation/loss_shuffled_context"] == 0.5

    def test_no_gap_where_there_is_no_other_song(
        self, songs: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = training_config(songs, tiny_model_dir, tmp_path, demos=0)
        config = replace(config, data=replace(config.data, validation_songs=1))
        metrics = self.metrics(config, Listener(), monkeypatch)
        assert set(metrics) == {"validation/loss", *(f"validation/loss/codebook_{k}" for k in range(1, 5))}

    def test_a_context_tells_nothing_by_its_length(self, songs: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
        config = training_config(songs, tiny_model_dir, tmp_path, demos=0, items_per_song=4)
        validator = Validator(config, make_task(config))
        validator(1)
        lengths = set()
        for batch in validator._batches:
            assert batch.shuffled is not None
            assert all(map(int.__le__, batch.shuffled.context_frames, batch.tokens.context_frames))
            lengths |= set(batch.tokens.context_frames)
        assert len(lengths) > 3


def written(model: StageModel, context: np.ndarray, generation: GenerationConfig, folder: Path) -> np.ndarray:
    """What `stage generate` writes for such a context."""
    soundfile.write(folder / "context.wav", context, RATE, subtype="FLOAT")
    request = StemRequest(FileContext(folder / "context.wav"), "drums", (folder / "stem.wav",), overwrite=True)
    write_stems(model, request, AccompanySettings(generation))
    return soundfile.read(folder / "stem.wav", dtype="float32")[0]


class TestDemos:
    def test_what_is_written(self, demos_run: Validator, tmp_path: Path) -> None:
        demos_run.task.module.train()
        result = demos_run(1000)
        folder = demos_run.config.directory / "demos" / "step-00001000"
        parts = ["context.flac", "generated.flac", "mix.flac", "target.flac", "png"]
        assert result.demos == tuple(folder / f"{number:02d}.{part}" for number in (1, 2) for part in parts)
        assert sorted(folder.iterdir()) == sorted(result.demos), "and nothing else"
        assert result.notes == ()
        model = demos_run.task.model
        for number, song in ((1, "dog"), (2, "eel")):
            item = demos_run.items.uncut_item(number - 1)
            assert item.song == song
            audio = {
                part: soundfile.read(folder / f"{number:02d}.{part}.flac")
                for part in ("context", "mix", "target", "generated")
            }
            assert {rate for _, rate in audio.values()} == {RATE}
            sounds = {part: samples for part, (samples, _) in audio.items()}
            assert {len(samples) for samples in sounds.values()} == {RATE}
            generated = written(model, item.context, GenerationConfig(seed=demos_run.config.validate.seed), tmp_path)
            for part, expected in {
                "context": item.context,
                "target": item.target,
                "generated": generated,
                "mix": item.context + generated,
            }.items():
                peak = np.abs(expected).max()
                scale = 10 ** (-0.1 / 20) / peak if peak > 1 else 1.0
                np.testing.assert_allclose(sounds[part], scale * expected, rtol=0, atol=2**-22)
            picture = matplotlib.image.imread(folder / f"{number:02d}.png")
            assert picture.shape == (900, 1400, 4)
            assert len(np.unique(picture[..., 0])) > 100, "it shows something"

    def test_what_is_too_loud_is_turned_down(self, demos_run: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stage_cli.core.training.demos.draw_demo", lambda *_: None)
        generate = StageModel.generate

        def loud(*arguments: Any, **options: Any) -> Iterator[AudioBlock]:
            for block in generate(*arguments, **options):
                yield replace(block, audio=9 * block.audio)

        monkeypatch.setattr(StageModel, "generate", loud)
        folder = demos_run(3000).demos[0].parent
        for part in ("generated", "mix"):
            samples, _ = soundfile.read(folder / f"01.{part}.flac")
            assert np.abs(samples).max() == pytest.approx(10 ** (-0.1 / 20), abs=1e-6)

    def test_a_misfortune_becomes_a_note(self, demos_run: Validator) -> None:
        folder = demos_run.config.directory / "demos" / "step-00004000"
        folder.write_text("in the way")
        result = demos_run(4000)
        assert result.demos == ()
        (note,) = result.notes
        assert note.startswith("no demos at step 4000: cannot write")
        assert "validation/loss" in result.metrics

    def test_a_mistake_of_the_program_does_not(self, demos_run: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(StageModel, "generate", lambda model, *_, **__: model.no_such_thing())
        with pytest.raises(AttributeError, match="no_such_thing"):
            demos_run(5000)

    def test_none_for_weights_that_are_no_numbers(self, demos_run: Validator) -> None:
        weight = demos_run.task.model.lm.norm.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(torch.nan)
        try:
            result = demos_run(6000)
        finally:
            with torch.no_grad():
                weight.copy_(kept)
        assert result.demos == ()
        assert result.notes == ("no demos at step 6000: the validation loss is nan",)

    def test_none_on_other_processes_and_none_of_parts_of_a_model(self, demos_run: Validator) -> None:
        sharded = replace(demos_run.config, run=replace(demos_run.config.run, sharding="fsdp"))
        for validator in (
            Validator(demos_run.config, demos_run.task, process=1, processes=2),
            Validator(sharded, demos_run.task),
        ):
            assert validator(7000).demos == ()
        assert not (demos_run.config.directory / "demos" / "step-00007000").exists()

    def test_also_where_all_else_is_deterministic(self, demos_run: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stage_cli.core.training.demos.draw_demo", lambda *_: None)
        strict = [True]
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: strict[-1])
        monkeypatch.setattr(torch, "is_deterministic_algorithms_warn_only_enabled", lambda: False)
        # Not torch's own: it imports the compiler, which takes seconds.
        monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, *, warn_only=False: strict.append(mode))
        seen, generate = [], StageModel.generate

        def noting(*arguments: Any, **options: Any) -> Iterator[AudioBlock]:
            seen.append(strict[-1])
            yield from generate(*arguments, **options)

        monkeypatch.setattr(StageModel, "generate", noting)
        assert demos_run(8000).demos
        assert seen == [False, False]
        assert strict == [True, False, True]


class TestPicture:
    @pytest.mark.parametrize("sample_rate", [8000, 32000])
    def test_mel_bands_equal_those_of_transformers(self, sample_rate: int) -> None:
        audio = np.random.default_rng(0).standard_normal(sample_rate // 2).astype(np.float32)
        window, hop = round(0.064 * sample_rate), sample_rate // 100
        filters = mel_filter_bank(
            window // 2 + 1, PICTURE_BANDS, LOWEST_HZ, sample_rate / 2, sample_rate, norm=None, mel_scale="htk"
        )
        expected = spectrogram(
            audio, window_function(window), window, hop, power=2.0, pad_mode="constant", mel_filters=filters
        )
        mine = mel_power(audio, sample_rate)
        assert mine.shape == expected.T.shape
        np.testing.assert_allclose(mine, expected.T, rtol=1e-4, atol=1e-5 * expected.max())

    def test_a_tone_stands_in_its_band(self) -> None:
        power = mel_power(tone(1000.0, 0.5, 32000), 32000).mean(axis=0)
        low, high = band_corners(32000)[power.argmax()], band_corners(32000)[power.argmax() + 2]
        assert low < 1000 < high

    def test_silence_no_beats_and_a_formula_in_the_name(self, tmp_path: Path) -> None:
        silence, none = np.zeros(0, dtype=np.float32), np.zeros(0)
        path = tmp_path / "picture.png"
        draw_demo(DemoPicture("$x_{", 8000, np.zeros(8000, dtype=np.float32), silence, silence, none, none), path)
        assert matplotlib.image.imread(path).shape == (900, 1400, 4)
        assert list(tmp_path.iterdir()) == [path]
