"""The whole task on prepared songs: batches to inputs to loss, what is saved, and that it generates."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared_songs import write_song
from safetensors.torch import load_file

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import AudioBatch
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.model import StageModel
from stage_cli.core.training import stem_task
from stage_cli.core.training.building import build_model
from stage_cli.core.training.settings import (
    DataLoading,
    LoraConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)
from stage_cli.core.training.stem_module import CodeBatch, TokenBatch
from stage_cli.core.training.stem_task import StemTask
from stage_cli.core.training.task import Task
from stage_cli.core.training.tokens import CachedTokens, encode_batch
from stage_cli.errors import UsageError

CPU = torch.device("cpu")
PAD = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of 12 s whose descriptions are words that the tiny tokenizer knows."""
    folder = tmp_path_factory.mktemp("songs")
    for number, (genre, mood) in enumerate((("rock", "happy"), ("jazz", "sad"), ("pop", "dark"))):
        write_song(folder / f"song{number}", seconds=12.0, bpm=110 + 10 * number, genres=[genre], moods=[mood])
    return folder


def make_config(root: Path, base: Path, *, data: dict[str, Any] | None = None, **parts: Any) -> TrainingConfig:
    options: dict[str, Any] = dict.fromkeys(("speed_probability", "pitch_probability"), 0.0)
    options |= {"chunk_seconds": 2.0, "context_seconds": (1.0, 2.0), "validation_songs": 1} | (data or {})
    parts = {"model": ModelConfig(base=str(base))} | parts
    return TrainingConfig(data=DataConfig((str(root),), **options), **parts)


def make_task(root: Path, base: Path, **parts: Any) -> StemTask:
    config = make_config(root, base, **parts)
    task = StemTask(config, build_model(config))
    task.place(CPU)
    return task


def batch_of(task: StemTask, indices: Sequence[int], epoch: int = 0) -> AudioBatch | CodeBatch:
    task.dataset.set_epoch(epoch)
    return task.collate([task.dataset[index] for index in indices])


@pytest.fixture(scope="module")
def task(root: Path, musicgen_dir: Path) -> StemTask:
    """Grown from the tiny MusicGen, which takes descriptions."""
    return make_task(root, musicgen_dir, train=TrainConfig(context_dropout=0.3))


def test_it_is_a_task(task: StemTask) -> None:
    assert isinstance(task, Task)
    assert task.units == (type(task.model.lm.layers[0]).__name__,)
    trained = {id(parameter) for parameter in task.module.parameters()}
    own = [*task.model.lm.parameters(), *(task.model.text_projection or torch.nn.Identity()).parameters()]
    assert trained == {id(parameter) for parameter in own}
    assert [song.id for song in task.validation_songs] == ["song2"]
    assert {task.dataset[index].song for index in range(len(task.dataset))} == {"song0", "song1"}
    # The engine sends it to the loader's processes: without the model.
    assert len(pickle.dumps(task.collate)) < 200


def test_inputs(task: StemTask) -> None:
    """Contexts, targets and texts as drawn; dropped contexts are all pads, dropped texts masked altogether."""
    indices = range(12)
    batch = batch_of(task, indices)
    inputs, whole = task.inputs(batch, 0), task.inputs(batch, 0, drop=False)
    codes = encode_batch(task.model.codec, batch)
    assert whole.context_frames == codes.context_frames
    assert torch.equal(whole.target, codes.target)
    dropped = [own == 0 for own in inputs.context_frames]
    assert any(dropped)
    assert not all(dropped)
    for row, own in enumerate(inputs.context_frames):
        expected = codes.context[row, :, : codes.context_frames[row]]
        assert torch.equal(whole.contexts()[row], expected)
        assert torch.equal(inputs.contexts()[row], expected[:, :own])
        longest = inputs.context.shape[2]
        assert (inputs.context[row, :, : longest - own] == PAD).all()
    assert inputs.context.shape[2] == max(inputs.context_frames)
    assert whole.text_mask is not None
    assert inputs.text_mask is not None
    assert whole.text_mask.any(dim=1).all()
    masked = ~inputs.text_mask.any(dim=1)
    assert masked.any()
    assert not masked.all()


def test_validation_drops_nothing_and_keeps_every_word(task: StemTask) -> None:
    batch = batch_of(task, range(4))
    inputs = task.inputs(batch, 0, drop=False)
    vectors, mask = task.model.text_encoder().encode(batch.descriptions)
    assert torch.equal(inputs.text, vectors)
    assert torch.equal(inputs.text_mask, mask)
    assert batch.descriptions[0] == "Genre: rock. Mood: happy."
    again = task.inputs(batch, 7, drop=False)
    assert torch.equal(again.text, inputs.text)


def test_inputs_do_not_depend_on_the_batch(task: StemTask) -> None:
    """The same rows in other batches; another epoch drops others."""
    together = task.inputs(batch_of(task, range(8)), 0)
    for group in ([3], [5, 2], [7, 0, 1]):
        inputs = task.inputs(batch_of(task, group), 0)
        for row, index in enumerate(group):
            assert torch.equal(inputs.contexts()[row], together.contexts()[index])
            assert torch.equal(inputs.target[row], together.target[index])
            words = together.text_mask[index].sum()
            if inputs.text is None:
                assert words == 0
            else:
                assert inputs.text_mask[row].sum() == words
                ours, theirs = (x[at][: int(words)] for x, at in ((inputs.text, row), (together.text, index)))
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    batch = batch_of(task, range(8))
    assert task.inputs(batch, 1).context_frames != together.context_frames


def test_the_losses_of_micro_batches_average_to_the_batchs(task: StemTask) -> None:
    """With text, dropouts and contexts of unequal lengths: what accumulation and DDP stand on."""
    whole = task.module(task.inputs(batch_of(task, range(6)), 0))
    whole["loss"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in task.module.named_parameters()}
    task.module.zero_grad()
    losses = []
    for start in range(0, 6, 2):
        loss = task.module(task.inputs(batch_of(task, range(start, start + 2)), 0))["loss"] / 3
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses).sum(), whole["loss"], atol=1e-5, rtol=0)
    for name, parameter in task.module.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=0, msg=name)
    assert task.model.text_projection.weight.grad.abs().max() > 0
    task.module.zero_grad()


def test_seconds_of_audio(task: StemTask) -> None:
    batch = batch_of(task, range(3))
    assert task.audio_seconds(batch) == pytest.approx(6.0)
    assert task.audio_seconds(encode_batch(task.model.codec, batch)) == pytest.approx(6.0)


def test_any_stem(root: Path, musicgen_dir: Path) -> None:
    """Each stem of a song in turn, named in the description; the model is for none of them."""
    task = make_task(root, musicgen_dir, data={"stem": "any"})
    batch = batch_of(task, range(len(task.dataset)))
    assert {item.stem for item in batch.items} == {"bass", "drums", "guitar", "piano", "vocals"}
    for item, description in zip(batch.items, batch.descriptions, strict=True):
        assert description.endswith(f"Instruments: {item.stem}.")
    assert task.model.config.stem is None
    assert torch.isfinite(task.module(task.inputs(batch_of(task, [0, 9]), 0))["loss"])


def test_codebook_weights_come_from_the_config(root: Path, tiny_model_dir: Path) -> None:
    train = TrainConfig(codebook_weights=(3.0, 1.0, 0.0, 0.0))
    task = make_task(root, tiny_model_dir, train=train)
    outputs = task.module(task.inputs(batch_of(task, [0, 1]), 0))
    expected = (outputs["codebook_losses"] * torch.tensor([0.75, 0.25, 0.0, 0.0])).sum()
    torch.testing.assert_close(outputs["loss"], expected)
    with pytest.raises(UsageError, match=r"train\.codebook_weights has 2 numbers, the model 4 codebooks"):
        make_task(root, tiny_model_dir, train=TrainConfig(codebook_weights=(1.0, 1.0)))


def test_a_model_without_text(root: Path, tiny_model_dir: Path) -> None:
    task = make_task(root, tiny_model_dir)
    inputs = task.inputs(batch_of(task, [0, 1, 2]), 0)
    assert (inputs.text, inputs.text_mask) == (None, None)
    task.module(inputs)["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.module.parameters())


def test_cached_tokens_train_alike(root: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The same items, dropped alike: the same inputs as those made inside the step."""
    step = make_task(root, tiny_model_dir)
    parts: dict[str, Any] = {"run": RunConfig(directory=str(tmp_path)), "loading": DataLoading("cache", 0, 2)}
    cached = make_task(root, tiny_model_dir, **parts)
    assert isinstance(cached.dataset, CachedTokens)
    assert len(cached.dataset) == len(step.dataset)
    progress = []
    cached.prepare_tokens(on_progress=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (24, 24)
    step.prepare_tokens()  # nothing to do
    for epoch in (0, 1):
        ours, theirs = (one.inputs(batch_of(one, [4, 1, 9], epoch), epoch) for one in (cached, step))
        assert isinstance(ours, TokenBatch)
        assert ours.context_frames == theirs.context_frames
        assert torch.equal(ours.context, theirs.context)
        assert torch.equal(ours.target, theirs.target)
    # A repeated epoch has the same tokens and other dropouts.
    batch = batch_of(cached, range(12), 2)
    first = batch_of(cached, range(12), 0)
    assert torch.equal(batch.target, first.target)
    assert cached.inputs(batch, 2).context_frames != cached.inputs(first, 0).context_frames


# What is saved -------------------------------------------------------------------------------------------------------


def test_the_result_loads_and_generates(root: Path, musicgen_dir: Path, tmp_path: Path) -> None:
    task = make_task(root, musicgen_dir)
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    task.module(
        task.inputs(
            batch_of(task, [0, 1, 2]),
            0,
        )
    )["loss"].backward()
    optimizer.step()
    task.save(tmp_path / "model", {"validation/loss": 1.0})
    model = StageModel.from_pretrained(str(tmp_path / "model"), device="cpu")
    assert model.config == task.model.config
    changed = set()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, task.model.state_dict()[name]), name
        if not torch.equal(tensor, before[name]):
            changed.add(name.split(".")[0])
    assert changed == {"lm", "text_projection"}  # the codec stays
    assert (model.lm.embeddings[:, PAD] == 0).all()
    text = model.encode_description("Genre: rock.")  # its text encoder is found from here
    context = torch.randint(0, 32, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    written = torch.cat(
        list(generate_song(model.lm, context, GenerationConfig(), window=model.config.window_frames, text=text)), dim=2
    )
    assert written.shape == (1, 4, 20)
    audio = model.codec.decode(written)
    assert audio.shape == (1, 1, 20 * 160)
    assert torch.isfinite(audio).all()


def test_other_weights_can_be_saved(root: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Those of a moving average, or gathered from several processes."""
    task = make_task(root, tiny_model_dir)
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in task.module.state_dict().items()}
    task.save(tmp_path / "model", {}, state)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert (stored["lm.embeddings"] == 0.5).all()
    assert not (stored["codec.quantizer.codebooks"] == 0.5).all()
    del state["lm.norm.bias"]
    with pytest.raises(ValueError, match=r"not the model's tensors: \['lm\.norm\.bias'\]"):
        task.save(tmp_path / "broken", {}, state)


def test_large_models_are_stored_in_bfloat16(
    root: Path, musicgen_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(root, musicgen_dir)
    for limit, dtype in ((task.model.config.lm.parameters + 1, torch.float32), (1000, torch.bfloat16)):
        monkeypatch.setattr(stem_task, "SMALL_MODEL", limit)
        task.save(tmp_path / "model", {})
        stored = load_file(tmp_path / "model" / "model.safetensors")
        assert {tensor.dtype for name, tensor in stored.items() if name.startswith("lm.")} == {dtype}
        assert {tensor.dtype for name, tensor in stored.items() if not name.startswith("lm.")} == {torch.float32}
        assert torch.equal(stored["lm.norm.weight"], task.model.lm.norm.weight.to(dtype))
    assert task.model.lm.embeddings.dtype == torch.float32  # what is trained stays what it is


def test_a_lora_run_saves_its_adapter(root: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    task = make_task(root, tiny_model_dir, lora=LoraConfig(rank=2))
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        task.module(task.inputs(batch_of(task, [0, 1]), 0))["loss"].backward()
        optimizer.step()
    inputs = task.inputs(batch_of(task, [0, 1]), 0, drop=False)
    with torch.no_grad():
        expected = task.module.target_logits(inputs)
    task.save(tmp_path / "model", {})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["adapter.safetensors", "config.json"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "stage-adapter"
    model = StageModel.from_pretrained(str(tmp_path / "model"), device="cpu")
    fresh = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    weights = (0.25,) * 4
    with torch.no_grad():
        logits = stem_task.StemModule(model.lm, None, weights).target_logits(inputs)
        untrained = stem_task.StemModule(fresh.lm, None, weights).target_logits(inputs)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert (untrained - expected).abs().max() > 1e-2


def test_no_validation_songs(root: Path, tiny_model_dir: Path) -> None:
    task = make_task(root, tiny_model_dir, data={"split": "none"}, validate=ValidateConfig(every=0))
    assert task.validation_songs == ()
    assert {task.dataset[index].song for index in range(len(task.dataset))} == {"song0", "song1", "song2"}


def test_another_seed_draws_other_items(root: Path, tiny_model_dir: Path) -> None:
    one, other = (make_task(root, tiny_model_dir, run=RunConfig(seed=seed)) for seed in (0, 1))
    batches = [batch_of(task, range(12)) for task in (one, other)]
    assert [item.start for item in batches[0].items] != [item.start for item in batches[1].items]
    # The dropouts too, of the very same items.
    frames = [task.inputs(batches[0], 0).context_frames for task in (one, other)]
    assert frames[0] != frames[1]
    rates = replace(one.config.train, context_dropout=0.0)
    one.config = replace(one.config, train=rates)
    assert 0 not in one.inputs(batches[0], 0).context_frames
