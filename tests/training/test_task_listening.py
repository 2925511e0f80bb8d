"""What is learned from the context alone: labels of frames, the losses on them, and that nothing of it stays behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared_songs import write_song
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.codec.config import SpectralConfig
from stage_cli.core.data.augment import Augmentation
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import AudioBatch, Item, collate
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.training.building import build_model
from stage_cli.core.training.settings import DataLoading, LoraConfig, ModelConfig, TrainConfig, TrainingConfig
from stage_cli.core.training.stem_module import LABELS, CodeBatch, ContextHeads, label_batch
from stage_cli.core.training.stem_task import StemTask
from stage_cli.errors import UsageError

CPU = torch.device("cpu")
CODEC = SpectralConfig(sample_rate=24_000, hop_length=960)


def make_item(target: np.ndarray, beats: tuple[float, ...] = (), downbeats: tuple[float, ...] = ()) -> Item:
    return Item(
        context=np.zeros(24_000, dtype=np.float32),
        target=target.astype(np.float32),
        description="",
        stem="bass",
        song="song",
        start=0.0,
        context_kind="mix",
        context_stems=("guitar",),
        beats=np.array(beats),
        downbeats=np.array(downbeats),
        augmentation=Augmentation(),
        index=0,
    )


def note(midi: int, seconds: float = 2.0, overtones: int = 4) -> np.ndarray:
    time = np.arange(round(seconds * 24_000)) / 24_000
    hertz = 440 * 2 ** ((midi - 69) / 12)
    return sum(0.2 / n * np.sin(2 * np.pi * hertz * n * time) for n in range(1, overtones + 1))


def batch_of(*items: Item) -> AudioBatch:
    return collate(items)


# Labels --------------------------------------------------------------------------------------------------------------


def test_beats_are_where_they_fall() -> None:
    """Frames of 40 ms: 0.5 s is the middle of frame 12, 1.0 s lies between the frames 24 and 25."""
    labels = label_batch(batch_of(make_item(np.zeros(48_000), (0.5, 1.0), (1.0,))), CODEC)
    assert labels.shape == (1, 50, LABELS)
    beat, downbeat = labels[0, :, 0], labels[0, :, 1]
    torch.testing.assert_close(beat[10:15], torch.tensor([0, 1 / 3, 1, 1 / 3, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(beat[23:27], torch.tensor([0, 2 / 3, 2 / 3, 0]), atol=1e-6, rtol=0)
    assert float(beat.sum()) == pytest.approx(3.0)
    assert downbeat[:23].abs().max() == 0
    assert downbeat[23:].equal(beat[23:])


def test_too_few_beats_are_unknown_and_no_downbeat_is_none() -> None:
    batch = batch_of(make_item(np.zeros(48_000), (0.5,)), make_item(np.zeros(48_000), (0.5, 1.5)))
    labels = label_batch(batch, CODEC)
    assert labels[0, :, :2].isnan().all()
    assert labels[1, :, 1].eq(0).all()


@pytest.mark.parametrize("midi", [28, 33, 40, 47, 52, 60])
def test_the_pitch_class_of_a_note_with_overtones(midi: int) -> None:
    classes = label_batch(batch_of(make_item(note(midi))), CODEC)[0, 5:-5, 2:]
    torch.testing.assert_close(classes.sum(dim=1), torch.ones(len(classes)))
    assert classes.argmax(dim=1).eq(midi % 12).all()
    assert classes[:, midi % 12].min() > 0.4


def test_silence_has_no_pitch() -> None:
    silence_then_note = np.concatenate([np.zeros(24_000), note(45, 1.0)])
    classes = label_batch(batch_of(make_item(silence_then_note)), CODEC)[0, :, 2:]
    assert classes[:20].abs().max() == 0
    assert classes[30:45].argmax(dim=1).eq(9).all()


def test_a_batch_is_its_rows() -> None:
    items = [make_item(note(40), (0.1, 0.7)), make_item(note(45), (0.3, 0.6, 0.9), (0.3,))]
    together = label_batch(batch_of(*items), CODEC)
    for row, item in zip(together, items, strict=True):
        torch.testing.assert_close(row, label_batch(batch_of(item), CODEC)[0], equal_nan=True)


# Losses --------------------------------------------------------------------------------------------------------------


def slow_losses(module: ContextHeads, states: Tensor, own: list[int], labels: Tensor) -> tuple[float, float]:
    """Frame by frame."""
    beats, harmonies = [], []
    for row, count in enumerate(own):
        for frame in range(count):
            read = module.read(states[row, states.shape[1] - count + frame])
            told = labels[row, frame]
            for column in range(2):
                if not math.isnan(float(told[column])):
                    beats.append(F.binary_cross_entropy_with_logits(read[column], told[column]))
            if told[2:].sum() > 0:
                harmonies.append(F.cross_entropy(read[2:], told[2:]))
    return float(torch.stack(beats).mean().detach()), float(torch.stack(harmonies).mean().detach())


def test_the_losses_frame_by_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    module = ContextHeads(16, 2.0, 0.5)
    module.read.weight.data.normal_(generator=generator)
    module.requires_grad_(False)
    states, own = torch.randn(3, 7, 16, generator=generator), [7, 4, 0]
    labels = torch.rand(3, 9, LABELS, generator=generator)
    labels[..., 2:] /= labels[..., 2:].sum(dim=2, keepdim=True)
    labels[1, :, :2] = math.nan
    labels[0, 2:4, 2:] = 0
    attended = torch.arange(7) >= 7 - torch.tensor(own)[:, None]
    losses = module(states, attended, labels)
    beat, harmony = slow_losses(module, states, own, labels)
    assert float(losses["beat_loss"]) == pytest.approx(beat, rel=1e-5)
    assert float(losses["harmony_loss"]) == pytest.approx(harmony, rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(2 * beat + 0.5 * harmony, rel=1e-5)


def test_nothing_known_costs_nothing_and_still_has_a_gradient() -> None:
    module = ContextHeads(16, 1.0, 1.0)
    labels = torch.zeros(2, 5, LABELS)
    labels[..., :2] = math.nan
    states = torch.randn(2, 5, 16)
    for attended in (torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)):
        module.zero_grad()
        losses = module(states, attended, labels)
        losses["loss"].backward()
        assert [float(loss) for loss in losses.values()] == [0.0, 0.0, 0.0]
        assert module.read.weight.grad is not None
        assert module.read.weight.grad.eq(0).all()


# The task ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(3):
        write_song(folder / f"song{number}", seconds=12.0, bpm=110 + 10 * number)
    return folder


def make_config(root: Path, codec: Path, train: TrainConfig, **parts: Any) -> TrainingConfig:
    data = DataConfig(
        (str(root),),
        chunk_seconds=2.0,
        context_seconds=(1.0, 2.0),
        speed_probability=0.0,
        pitch_probability=0.0,
        validation_songs=1,
    )
    lm = LanguageModelConfig(
        codebooks=4, codebook_size=32, dimension=32, layers=2, heads=2, feed_forward=64, text_dimension=None,
        separator=True, context_attention="full", aligned_context=True,
    )  # fmt: skip
    parts = {"model": ModelConfig(codec=str(codec), lm=lm)} | parts
    return TrainingConfig(data=data, train=train, **parts)


def make_task(config: TrainingConfig) -> StemTask:
    task = StemTask(config, build_model(config))
    task.place(CPU)
    return task


def test_steps_and_cached_tokens_have_the_same_labels(root: Path, musicgen_dir: Path, tmp_path: Path) -> None:
    train = TrainConfig(beat_weight=1.0, context_dropout=0.0)
    step = make_task(make_config(root, musicgen_dir, train))
    run = replace(make_config(root, musicgen_dir, train).run, directory=str(tmp_path))
    cached = make_task(make_config(root, musicgen_dir, train, run=run, loading=DataLoading(tokens="cache")))
    cached.prepare_tokens()
    batches = []
    for task in (step, cached):
        task.dataset.set_epoch(0)
        batches.append(task.inputs(task.collate([task.dataset[index] for index in (0, 3)]), 0))
    ours, theirs = (batch.labels for batch in batches)
    assert ours is not None
    assert theirs is not None
    assert ours.shape[:2] == batches[0].target[:, 0].shape
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3, equal_nan=True)  # they are stored in 16 bits
    assert ours[..., 0].max() > 0.5
    assert batches[0].target.equal(batches[1].target)


def test_tokens_without_labels_are_others(root: Path, musicgen_dir: Path, tmp_path: Path) -> None:
    folders = []
    for train in (TrainConfig(), TrainConfig(beat_weight=1.0), TrainConfig(harmony_weight=2.0)):
        run = replace(make_config(root, musicgen_dir, train).run, directory=str(tmp_path))
        task = make_task(make_config(root, musicgen_dir, train, run=run, loading=DataLoading(tokens="cache")))
        folders.append(task.dataset.folder)  # ty: ignore[unresolved-attribute]
    assert folders[0] != folders[1] == folders[2]


def test_it_learns_beats_and_harmony_and_saves_the_model_alone(root: Path, musicgen_dir: Path, tmp_path: Path) -> None:
    plain = make_task(make_config(root, musicgen_dir, TrainConfig(context_dropout=0.0)))
    task = make_task(
        make_config(root, musicgen_dir, TrainConfig(context_dropout=0.0, beat_weight=1.0, harmony_weight=1.0))
    )
    task.dataset.set_epoch(0)
    batch = task.collate([task.dataset[index] for index in range(4)])
    inputs = task.inputs(batch, 0)
    optimizer = torch.optim.Adam(task.module.parameters(), lr=0.01)
    first: dict[str, float] = {}
    for _ in range(30):
        outputs = task.module.train()(inputs)
        first = first or {name: float(value.mean()) for name, value in outputs.items()}
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
    assert first["beat_loss"] == pytest.approx(math.log(2), rel=1e-5)  # nothing is known at first
    assert float(outputs["beat_loss"]) < 0.6 * first["beat_loss"]
    assert float(outputs["harmony_loss"]) < 0.9 * first["harmony_loss"]
    # The validation is on tokens alone.
    assert set(task.module.eval()(inputs)) == {"loss", "codebook_losses"}
    task.save(tmp_path / "model", {})
    plain.save(tmp_path / "plain", {})
    saved, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "plain"))
    assert saved.keys() == expected.keys()


def test_the_gradient_reaches_what_reads_the_context_and_nothing_behind_it(root: Path, musicgen_dir: Path) -> None:
    task = make_task(make_config(root, musicgen_dir, TrainConfig(context_dropout=0.0, beat_weight=1.0)))
    task.dataset.set_epoch(0)
    batch = task.collate([task.dataset[0]])
    assert isinstance(batch, AudioBatch)
    inputs = task.inputs(batch, 0)
    module = task.module
    module.listening.read.weight.data.normal_()  # ty: ignore[unresolved-attribute, possibly-missing-attribute]
    module.codebook_weights.zero_()  # ty: ignore[unresolved-attribute]
    module.train()(inputs)["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert gradients["lm.layers.0.feed_forward_in.weight"].abs().sum() > 0
    assert gradients["lm.aligned.weight"].abs().sum() == 0
    assert gradients["lm.output_heads.weight"].abs().sum() == 0


def test_models_that_do_not_read_the_context_first_are_refused(root: Path, tiny_model_dir: Path) -> None:
    config = make_config(
        root, tiny_model_dir, TrainConfig(beat_weight=0.5), model=ModelConfig(base=str(tiny_model_dir))
    )
    with pytest.raises(UsageError, match=r"train\.beat_weight = 0\.5 is not for this model"):
        StemTask(config, build_model(config))


def test_adapters_are_refused(root: Path, tiny_model_dir: Path) -> None:
    config = make_config(
        root,
        tiny_model_dir,
        TrainConfig(harmony_weight=1.0),
        model=ModelConfig(base=str(tiny_model_dir)),
        lora=LoraConfig(),
    )
    with pytest.raises(UsageError, match=r"train\.harmony_weight = 1"):
        StemTask(config, build_model(config))


def test_a_module_that_listens_needs_labels(root: Path, musicgen_dir: Path) -> None:
    task = make_task(make_config(root, musicgen_dir, TrainConfig(beat_weight=1.0)))
    batch = task.collate([task.dataset[0]])
    assert not isinstance(batch, CodeBatch)
    with pytest.raises(ValueError, match="needs labels"):
        task.module.train()(replace(task.inputs(batch, 0), labels=None))
