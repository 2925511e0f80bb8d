"""The command line under test: run in this process, each test in a folder of its own."""

from __future__ import annotations

import json
import re
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from stage_cli.cli.app import app


@dataclass(frozen=True)
class Outcome:
    """What a command left behind for its caller."""

    code: int
    stdout: str
    stderr: str
    audio: bytes = b""  # stdout, as the bytes that it is

    @property
    def results(self) -> list[dict[str, Any]]:
        """Stdout of `--json`: an object a line, and nothing else."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        """The one object of `--json`."""
        (only,) = self.results
        return only


Stage = Callable[..., Outcome]
Refused = Callable[..., Outcome]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Run `stage ARGUMENTS` in `tmp_path`; an exception that would be a traceback fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGE_MODELS", str(tmp_path / "own-models"))

    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)

    return run


@pytest.fixture
def generate(stage: Stage, tiny_model_dir: Path) -> Stage:
    """Run `stage generate` with the tiny model for drums, which must succeed; `--json` on stdout."""

    def run(*arguments: object) -> Outcome:
        outcome = stage("generate", "--stem", "drums", "--model", tiny_model_dir, "--json", *arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    return run


@pytest.fixture
def refused(stage: Stage, tmp_path: Path) -> Refused:
    """Run a command that must fail: its exit code, its message (a regular expression), and no file has changed."""

    def run(*arguments: object, code: int, match: str) -> Outcome:
        before = snapshot(tmp_path)
        outcome = stage(*arguments)
        assert outcome.code == code, outcome
        assert re.search(match, outcome.stderr, re.DOTALL), outcome.stderr
        assert outcome.stdout == ""
        assert snapshot(tmp_path) == before
        return outcome

    return run


@pytest.fixture
def change_model(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the tiny model with another config or other tensors; None removes a key or a tensor."""

    def change(
        name: str = "changed", *, config: dict[str, Any] | None = None, tensors: dict[str, Tensor | None] | None = None
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_model_dir, folder)
        values = json.loads((folder / "config.json").read_text()) | (config or {})
        kept = {key: value for key, value in values.items() if value is not None or key not in (config or {})}
        (folder / "config.json").write_text(json.dumps(kept))
        state: dict[str, Tensor | None] = {**load_file(folder / "model.safetensors"), **(tensors or {})}
        save_file({key: value for key, value in state.items() if value is not None}, folder / "model.safetensors")
        return folder

    return change


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes (None: a folder), hidden ones included; the Hub's cache left out."""
    paths = (path for path in sorted(folder.rglob("*")) if "hf" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def read_wav(path: Path | str) -> np.ndarray:
    """Read a 24-bit WAV file with the standard library: `[frames, channels]` in units of full scale."""
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 3
        data = np.frombuffer(file.readframes(file.getnframes()), dtype=np.uint8).reshape(-1, 3)
        channels = file.getnchannels()
    low, middle, high = data.astype(np.int32).T
    samples = (high << 16 | middle << 8 | low) - ((high & 0x80) << 17)
    return samples.reshape(-1, channels) / 2**23


def wav_header(path: Path | str) -> tuple[int, int, int, int]:
    """Sample rate, frames, channels and bytes a sample, as the standard library reads them."""
    with wave.open(str(path)) as file:
        return file.getframerate(), file.getnframes(), file.getnchannels(), file.getsampwidth()
