"""Tiny models and synthetic music, made here: no test needs the network, a GPU or a file from elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: see cli/app.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import soundfile
import torch
from pretend_cuda import PretendedDevice, pretended_cuda
from random_weights import randomise
from tiny_sizes import TINY_CODEC, TINY_LM, TINY_PLAYER

from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.players.model import PlayerModel as TorchPlayer
from stage_cli.core.training.player_task import save_player

if TYPE_CHECKING:
    from hub_server import HubServer

# As many workers as cores: a second thread would wait for its turn. Tests of threads set their own number.
torch.set_num_threads(1)

# What was started in the background of a script ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_lm() -> LanguageModel:
    lm = LanguageModel(TINY_LM).eval()
    randomise(lm)
    return lm


@pytest.fixture(scope="session")
def tiny_config() -> StageConfig:
    return StageConfig(
        codec=TINY_CODEC, lm=TINY_LM, stem="drums", text_encoder=None, window_seconds=1.0, licence="MIT", base="tests"
    )


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_config: StageConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory in our own format: 8 kHz, 50 frames/s, windows of 1 s."""
    model = StageModel(tiny_config)
    randomise(model)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_dir: Path) -> StageModel:
    return StageModel.from_pretrained(str(tiny_model_dir), device="cpu")


@pytest.fixture(scope="session")
def tiny_player_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a player for drums that has learned nothing, and strikes a few times a second."""
    folder = tmp_path_factory.mktemp("players") / "tiny"
    folder.mkdir()
    player = TorchPlayer(TINY_PLAYER)
    randomise(player)
    save_player(folder, TINY_PLAYER, player.state_dict(), {"bias": -3.0})
    return folder


@pytest.fixture
def device() -> Iterator[PretendedDevice]:
    """A CUDA device that is not there."""
    with pretended_cuda() as device:
        yield device


@pytest.fixture
def write_music(tmp_path: Path) -> Callable[..., Path]:
    """Write a short mix with a beat: clicks on a tonal bed, stereo by default."""

    def write(
        name: str = "mix.wav", *, seconds: float = 2.0, sample_rate: int = 44100, channels: int = 2, **options: Any
    ) -> Path:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        beat = np.exp(-30 * (time % 0.5)) * np.sin(2 * np.pi * 180 * time)
        bed = 0.3 * np.sin(2 * np.pi * 220 * time) + 0.2 * np.sin(2 * np.pi * 277.2 * time)
        mono = 0.4 * (beat + bed)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([mono * (1 - 0.1 * c) for c in range(channels)], axis=1), sample_rate, **options)
        return path

    return write


@pytest.fixture(scope="session")
def musicgen_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like `facebook/musicgen-small`, tiny: weights with a T5 inside, config, tokenizer."""
    from transformers_reference import save_musicgen

    folder = tmp_path_factory.mktemp("musicgen") / "musicgen-tiny"
    save_musicgen(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A look-alike of the Hugging Face Hub that the real client talks to, here and in subprocesses; an empty cache."""
    from hub_server import HubServer
    from huggingface_hub import constants

    server = HubServer()
    cache = tmp_path / "hf"
    # For this process, whose client has read its environment already …
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # … and for those that it starts.
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    for name, value in (environment | {"HF_HUB_DISABLE_TELEMETRY": "1"}).items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.stop()
