"""Whole commands on a CUDA device that is pretended (tests/pretend_cuda.py): what they need there, and what they write.

Their numbers are a CPU's, so in float32 they write what a CPU writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pretend_cuda import OnDevice, PretendedDevice, pretended_cuda
from torch import nn
from training.tiny_run import run_config, write_songs
from typer.testing import CliRunner

from stage_cli.cli.app import app
from stage_cli.core.generation import graphs
from stage_cli.core.model import StageModel
from stage_cli.core.training.run import train


def stage(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "options",
    [("--duration", 1.5), ("--duration", 0.7, "--variations", 2), ("--duration", 1.2, "--guidance", 1)],
    ids=["windows", "variations", "no guidance"],
)
def test_generate_writes_what_it_writes_on_a_cpu(
    tiny_model_dir: Path, write_music: Callable[..., Path], tmp_path: Path, options: tuple[object, ...]
) -> None:
    """A model with EnCodec, over windows of a second."""
    common = ("generate", "--context", write_music(), "--stem", "drums", "--model", tiny_model_dir, "--seed", 3)
    common += ("--precision", "float32", *options)
    stage(*common, "--device", "cpu", "--output", tmp_path / "cpu")
    with pretended_cuda() as device:
        stage(*common, "--device", "cuda", "--output", tmp_path / "cuda")
    assert device.tapes
    assert all(tape.replays for tape in device.tapes)
    written = sorted(path.name for path in (tmp_path / "cpu").iterdir())
    assert sorted(path.name for path in (tmp_path / "cuda").iterdir()) == written
    for name in written:
        expected, actual = (soundfile.read(tmp_path / place / name)[0] for place in ("cpu", "cuda"))
        np.testing.assert_allclose(actual, expected, atol=1e-4)
        assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_the_bundled_model_streams(tmp_path: Path, device: PretendedDevice, precision: str) -> None:
    path = tmp_path / "drums.wav"
    stage("generate", "--bpm", 120, "--duration", 2, "--stem", "drums", "--device", "cuda", "--stream", path,
          "--model", "bundled-drums", "--precision", precision)  # fmt: skip
    audio, rate = soundfile.read(path)
    assert len(audio) == 2 * rate
    assert np.abs(audio).max() > 0.05


def test_weights_of_an_lstm_are_gathered(
    tiny_model_dir: Path, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, when all of them are there; else cuDNN does it at each call, and warns."""
    gathered: list[list[type]] = []
    monkeypatch.setattr(
        nn.LSTM, "flatten_parameters", lambda lstm: gathered.append([type(weights) for weights in lstm.parameters()])
    )
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cuda")
    lstms = [module for module in model.modules() if isinstance(module, nn.LSTM)]
    assert lstms
    on_device = [all(kind is OnDevice for kind in kinds) for kinds in gathered]
    assert on_device[-len(lstms) :] == [True] * len(lstms)
    assert sum(on_device) == len(lstms)  # torch itself calls it whenever an LSTM is made, here without memory


@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_a_run_trains_validates_and_saves(
    tmp_path: Path, tiny_model_dir: Path, device: PretendedDevice, precision: str
) -> None:
    """Its gradients are made up: torch's own engine wants a driver."""
    config = run_config(write_songs(tmp_path / "songs"), tiny_model_dir, tmp_path / "run")
    config = replace(config, run=replace(config.run, device="cuda", precision=precision))
    before = len(graphs._recordings)
    result = train(config)
    assert result.step == 6
    assert device.tapes  # of its demos, whose memory it has back
    assert len(graphs._recordings) == before
    assert np.isfinite(result.metrics["validation/loss"])
    model = StageModel.from_pretrained(str(result.model), device="cpu")
    assert any(not torch.equal(own, other) for own, other in zip(
        model.lm.parameters(), StageModel.from_pretrained(str(tiny_model_dir), device="cpu").lm.parameters(),
        strict=True,
    ))  # fmt: skip
