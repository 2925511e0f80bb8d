"""A codec's training, from the TOML to the directory that a language model's run takes its codec from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from prepared_songs import write_song

from stage_cli.core.codec.config import SpectralConfig, make_codec
from stage_cli.core.data.config import DataConfig
from stage_cli.core.training.codec_task import CodecInputs, CodecModule, CodecTask, initialise_weights, spectral_losses
from stage_cli.core.training.run import train
from stage_cli.core.training.settings import (
    CodecTrainConfig,
    LogConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)
from stage_cli.core.training.toml import load_config
from stage_cli.core.weights.checkpoint import codec_of_directory, load_codec
from stage_cli.errors import UsageError

SHAPE = SpectralConfig(
    sample_rate=8000, hop_length=320, spectrum_hop=80, spectrum_size=320, width=16, dimension=8, codebook_size=16
)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(4):
        write_song(folder / f"song-{number}", seconds=12.0, title=f"Song {number}")
    return folder


def config_for(songs: Path, directory: Path, **train_changes: object) -> TrainingConfig:
    return TrainingConfig(
        run=RunConfig(directory=str(directory), device="cpu"),
        model=ModelConfig(absent=True),
        codec=CodecTrainConfig(shape=SHAPE, crop_seconds=0.8, unquantized_steps=2, licence="MIT"),
        data=DataConfig(
            (str(songs),),
            "any",
            "mix",
            chunk_seconds=2.0,
            context_seconds=(1.0, 2.0),
            speed_probability=0,
            pitch_probability=0,
            validation_songs=1,
        ),
        loading=replace(load_config("tiny-codec").loading, workers=0),
        train=replace(TrainConfig(steps=6, batch_size=2, learning_rate=1e-3, checkpoint_every=3), **train_changes),
        validate=ValidateConfig(every=3, items_per_song=1, demos=1),
        log=LogConfig(every=1, tensorboard=False, curves=False),
    )


def test_crops_are_whole_audible_and_turned_down(songs: Path, tmp_path: Path) -> None:
    config = config_for(songs, tmp_path)
    task = CodecTask(config)
    items = [task.dataset[index] for index in range(4)]
    batch = task.collate(items)
    plain = task.inputs(batch, 0, gains=False).audio
    crop = 6400
    expected = []
    for item in items:
        for audio in (item.context, item.target):
            cut = [audio[first : first + crop] for first in range(0, len(audio) - crop + 1, crop)]
            expected += [piece for piece in cut if np.abs(piece).max() > 1e-3]
    np.testing.assert_array_equal(plain[:, 0].numpy(), np.stack(expected))
    turned = task.inputs(batch, 0).audio
    ratio = turned.abs().amax(dim=(1, 2)) / plain.abs().amax(dim=(1, 2))
    assert float(ratio.min()) >= 10 ** (-12 / 20) - 1e-4
    assert float(ratio.max()) <= 1.0
    assert ratio.std() > 0.05
    # Chance depends on the item and the epoch, not on the rest of the batch.
    alone = task.inputs(task.collate(items[:1]), 0).audio
    torch.testing.assert_close(alone, turned[: len(alone)])
    assert not torch.equal(task.inputs(batch, 1).audio, turned)


def test_silence_leaves_one_crop(songs: Path, tmp_path: Path) -> None:
    task = CodecTask(config_for(songs, tmp_path))
    item = task.dataset[0]
    silent = replace(item, context=item.context * 0, target=item.target * 0)
    assert task.inputs(task.collate([silent]), 0).audio.shape == (1, 1, 6400)


def test_the_quantizer_joins_later() -> None:
    codec = make_codec(SHAPE)
    initialise_weights(codec, 0)
    codec.quantizer.start_training()
    module = CodecModule(codec, CodecTrainConfig(shape=SHAPE, unquantized_steps=2)).train()
    inputs = CodecInputs(torch.randn(3, 1, 6400, generator=torch.Generator().manual_seed(0)) * 0.2, seed=1)
    found = [module(inputs) for _ in range(3)]
    assert [bool(losses["commitment"] > 0) for losses in found] == [False, False, True]
    assert [bool(losses["codes_used"].min() >= 1) for losses in found] == [False, False, True]
    assert all(losses["loss"].requires_grad for losses in found)
    assert float(codec.quantizer.codebooks.abs().sum()) > 0
    # Validation never waits, and changes nothing.
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        assert float(module.eval()(inputs)["commitment"]) > 0
    assert all(tensor.equal(before[name]) for name, tensor in module.state_dict().items())


def test_the_weights_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        codec = make_codec(SHAPE)
        initialise_weights(codec, seed)
        return torch.cat([parameter.flatten() for parameter in codec.parameters()])

    torch.testing.assert_close(drawn(0), drawn(0), rtol=0, atol=0)
    assert not torch.equal(drawn(0), drawn(1))


def test_a_run_is_resumed_and_its_codec_is_found(songs: Path, tmp_path: Path) -> None:
    whole = train(config_for(songs, tmp_path / "whole"))
    train(config_for(songs, tmp_path / "parts", steps=3))
    result = train(config_for(songs, tmp_path / "parts"), resume=True)

    def losses(run: str) -> list[float]:
        lines = (tmp_path / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [line["metrics"]["loss"] for line in map(json.loads, lines) if line["kind"] == "train"]

    assert len(losses("whole")) == 6
    assert losses("parts") == losses("whole")
    assert result.best == whole.best
    part = codec_of_directory(result.model)
    assert part is not None
    assert part.config == SHAPE
    codec = make_codec(part.config)
    codec.load_state_dict({name.removeprefix("codec."): tensor for name, tensor in part.source.tensors()})
    other = codec_of_directory(whole.model)
    assert other is not None
    assert all(
        tensor.equal(same) for (_, tensor), (_, same) in zip(part.source.tensors(), other.source.tensors(), strict=True)
    )
    demos = sorted((tmp_path / "parts" / "demos").glob("*/*.flac"))
    assert {path.name for path in demos} == {"01.original.flac", "01.reconstruction.flac"}
    assert soundfile.info(demos[0]).frames == 16_000
    card = (result.model / "README.md").read_text(encoding="utf-8")
    assert "Licence: MIT" in card
    assert str(songs.parent) not in card


def test_a_codec_that_goes_on_changes_its_decoder_only(songs: Path, tmp_path: Path) -> None:
    first = config_for(songs, tmp_path / "first")
    train(first)
    base = tmp_path / "first" / "model"
    more = config_for(songs, tmp_path / "more", steps=3, checkpoint_every=2)
    assert more.codec is not None
    more = replace(more, codec=replace(more.codec, base=str(base), unquantized_steps=150, level_weight=5.0))
    train(more)
    before, after = load_codec(str(base)).state_dict(), load_codec(str(tmp_path / "more" / "model")).state_dict()
    assert before.keys() == after.keys()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    other = replace(more, codec=replace(more.codec, shape=replace(SHAPE, width=32)))
    with pytest.raises(UsageError, match=r"codec\.base = .* contradicts the table \[codec\.shape\]"):
        CodecTask(other)


def test_the_level_loss_hears_energy_that_medians_miss() -> None:
    noise = torch.randn(2, 24000, generator=torch.Generator().manual_seed(0)) / 8
    other = torch.randn(2, 24000, generator=torch.Generator().manual_seed(1)) / 8
    level = {gain: float(spectral_losses(other * 10 ** (gain / 20), noise, 24000)["level"]) for gain in (-1.6, 0, 1.6)}
    # Another noise of the same level is the nearest; 1.6 dB are 0.16 of a logarithm of energies.
    assert level[0] < level[-1.6] - 0.05
    assert level[0] < level[1.6] - 0.05
    assert spectral_losses(noise, noise, 24000)["level"] == 0
