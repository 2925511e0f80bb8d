"""What `stage bench` is made of: its options, its figures, the machine, random models, fresh processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_sizes import TINY_CODEC, TINY_LM

from stage_cli.core import machine
from stage_cli.core.bench.measure import in_fresh_process, time_parts
from stage_cli.core.bench.results import Environment, Measured
from stage_cli.core.bench.run import write_context, write_random_model
from stage_cli.core.bench.settings import SIZES, BenchConfig, parse_lengths, split_names
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.errors import DeviceError, StageError, UsageError


def test_sizes_are_the_published_ones() -> None:
    millions = {name: lm.parameters / 1e6 for name, lm in SIZES.items()}
    assert millions == pytest.approx({"musicgen-small": 420, "musicgen-medium": 1837, "musicgen-large": 3255}, rel=0.01)


def test_names_and_lengths() -> None:
    assert split_names(["float32, int8", "bfloat16", "int8,"]) == ("float32", "int8", "bfloat16")
    assert parse_lengths("60, 30.5, 60") == (30.5, 60.0)
    with pytest.raises(UsageError, match="`lengths` do not rise"):
        BenchConfig(lengths=(60.0, 30.0))
    assert BenchConfig(duration=10, lengths=(30.0,)).longest == 30


@pytest.mark.parametrize("options", [{"repeats": 0}, {"precisions": ()}, {"duration": 1e6}, {"variations": 65}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="`"):
        BenchConfig(**options)


def test_a_figure_is_the_middle_of_its_rounds() -> None:
    figure = Measured((3.0, 1.0, 2.0))
    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)
    assert figure.to_dict() == {"median": 2.0, "low": 1.0, "high": 3.0, "values": [3.0, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("load", "cores", "busy"), [(None, 2, False), (0.3, 2, False), (0.9, 2, True), (0.9, 64, False), (9.0, 64, True)]
)
def test_a_busy_machine(load: float | None, cores: int, busy: bool) -> None:
    means = None if load is None else (load, 0.0, 0.0)
    assert Environment("", "", cores, 1, "cpu", None, "", means, {}, ()).busy is busy


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Chip @ 3 GHz\n\nmodel name\t: Another\n")
    monkeypatch.setattr(machine, "_PROCESSOR", info)
    assert machine.processor() == "A Chip @ 3 GHz"
    for flags, widest in (("sse2 avx", ""), ("fma avx2", " (AVX2)"), ("avx2 avx512f", " (AVX-512)")):
        info.write_text(f"processor\t: 0\nmodel name\t: A Chip\nflags\t\t: fpu {flags} sse\n")
        assert machine.processor() == "A Chip" + widest
    monkeypatch.setattr(machine, "_PROCESSOR", tmp_path / "none")
    assert machine.processor()


@pytest.mark.skipif(sys.platform != "linux", reason="others may start a process otherwise")
def test_the_peak_is_that_of_this_process_alone() -> None:
    """A child's own peak, though it was started by one that held much more."""
    script = "from stage_cli.core.machine import resident_peak; print(resident_peak())"
    held = bytearray(os.urandom(1 << 20)) * 200
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = machine.resident_peak()
    assert here is not None
    assert len(held) < here
    assert 0 < int(done.stdout) < len(held)


def test_the_context_is_stereo_and_as_long_as_asked_for(tmp_path: Path) -> None:
    write_context(tmp_path / "context.wav", 1.7)
    audio, rate = soundfile.read(tmp_path / "context.wav")
    assert (rate, audio.shape) == (44100, (round(1.7 * 44100), 2))
    assert 0.3 < abs(audio).max() <= 1
    assert abs(audio[20000:22000]).max() > 0, "nothing is ever silent"


def test_a_random_model_is_spread_as_a_new_one(tmp_path: Path) -> None:
    lm = LanguageModel(TINY_LM)
    config = StageConfig(codec=TINY_CODEC, lm=TINY_LM, stem="drums", text_encoder=None)
    write_random_model(tmp_path / "model", config, dtype=torch.float32)
    made = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in lm.state_dict().items():
        other = made[f"lm.{name}"]
        if tensor.std() > 0:
            assert float(other.std()) == pytest.approx(float(tensor.std()), rel=0.15), name
        else:
            assert torch.equal(other, tensor), name
    write_random_model(tmp_path / "half", config)
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert torch.equal(half["lm.output_heads.weight"], made["lm.output_heads.weight"].bfloat16())
    assert torch.equal(half["codec.quantizer.codebooks"], made["codec.quantizer.codebooks"])
    model = StageModel.from_pretrained(str(tmp_path / "half"), device="cpu", precision="float32")
    assert model.config.stem == "drums"


def test_parts_of_a_window_shorter_than_the_warm_up(tiny_model: StageModel) -> None:
    parts = time_parts(tiny_model, GenerationConfig())
    assert set(parts) == {"encode_seconds", "prefill_seconds", "step_seconds", "decode_seconds"}
    assert all(seconds > 0 for seconds in parts.values())


def _refuse(what: str) -> None:
    raise UsageError(what, why="because", next_step="do this")


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_fresh_process() -> None:
    assert in_fresh_process(os.getpid) not in (os.getpid(), in_fresh_process(os.getpid))
    with pytest.raises(UsageError, match="it failed · because · do this") as refused:
        in_fresh_process(_refuse, "it failed")
    assert refused.value.exit_code == StageError.exit_code + 1
    with pytest.raises(DeviceError, match=r"was killed · perhaps .* too little memory"):
        in_fresh_process(_end)
