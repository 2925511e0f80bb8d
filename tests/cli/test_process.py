"""`stage` as a process of its own: start-up, signals, encodings, terminals, memory, shell completion."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile
import torch

from cli.conftest import snapshot, wav_header
from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig

Write = Callable[..., Path]

STAGE = (sys.executable, "-m", "stage_cli")
Environment = dict[str, str]

# Runs one command line after another, and tells after each its exit code and what has been imported by then.
REPORTING = """
import json, sys
from stage_cli.cli.app import app
heavy = {"torch", "transformers", "huggingface_hub", "scipy", "soundfile", "soxr", "numpy", "rich", "essentia"}
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as end:
        print("told:", json.dumps([arguments, end.code, sorted(heavy & set(sys.modules))]), file=sys.stderr)
"""
AUDIO = {"numpy", "soundfile"}
# Exit code, what may be imported, and the command line; what may import more comes later.
WITHOUT_TORCH: list[tuple[int, set[str], str]] = [
    (0, set(), "--help"),
    (0, set(), "--version"),
    (0, set(), "generate --help"),
    (2, set(), "generate --nonsense"),
    (2, set(), "generate mix.wav --top-k many"),
    (2, set(), "generate mix.wav --guidance -1"),
    (0, set(), "train --help"),
    (2, set(), "train"),
    (2, set(), "train -c drums --set train.steps=many"),
    (0, set(), "evaluate --help"),
    (2, set(), "evaluate --chunks x"),
    (2, set(), "evaluate --out r --metronome-set"),
    (0, set(), "bench --help"),
    (2, set(), "bench --random huge"),
    (2, set(), "bench --lengths 30,many"),
    (0, set(), "prepare-data --help"),
    (2, set(), "prepare-data x --beats y"),
    (2, set(), "prepare-data"),
    (0, set(), "demo-data --help"),
    (2, set(), "demo-data out --songs 0"),
    (2, set(), "demo-data"),
    (0, set(), "models import --help"),
    (0, {"huggingface_hub"}, "models list"),
    (2, {"huggingface_hub"} | AUDIO, "generate mix.wav"),
    (2, {"huggingface_hub"} | AUDIO, "generate mix.wav --stem drumms"),
    (2, {"huggingface_hub"} | AUDIO, "generate mix.wav --stem guitar"),
    (1, {"huggingface_hub"} | AUDIO, "generate mix.wav --stem drums --model x"),
]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One thread, and byte code that is kept: where Python writes none, each start would compile all of torch anew."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("byte-code"))}


def test_what_is_answered_without_torch(environment: Environment, tmp_path: Path) -> None:
    command_lines = json.dumps([line.split() for _, _, line in WITHOUT_TORCH])
    done = subprocess.run(
        [sys.executable, "-c", REPORTING, command_lines],
        cwd=tmp_path,
        env=environment | {"STAGE_MODELS": str(tmp_path), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line.removeprefix("told:")) for line in done.stderr.splitlines() if line.startswith("told:")]
    assert [(code, " ".join(arguments)) for arguments, code, _ in told] == [
        (code, line) for code, _, line in WITHOUT_TORCH
    ]
    for (_, allowed, line), (*_, imported) in zip(WITHOUT_TORCH, told, strict=True):
        assert set(imported) <= allowed, line


@pytest.fixture
def start(environment: Environment, tmp_path: Path, tiny_model_dir: Path) -> Iterator[Callable[..., forked.Popen]]:
    """Start `stage generate` for drums on a context that takes long; it is killed if it outlives the test."""
    started: list[forked.Popen] = []

    def run(context: Path) -> forked.Popen:
        command = [*STAGE, "generate", str(context), "--stem", "drums", "--model", str(tiny_model_dir), "--mix"]
        process = forked.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        pytest.param(signal.SIGINT, 130, "Stopped. Nothing half-written is left.", id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, "Model: ", id="terminated"),
    ],
)
def test_signals_leave_nothing_half_written(
    start: Callable[[Path], forked.Popen],
    write_music: Write,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    said: str,
) -> None:
    context = write_music(seconds=120.0, sample_rate=8000, channels=1)
    before = snapshot(tmp_path)
    process = start(context)
    deadline = time.monotonic() + 60
    while not any(path.name.startswith(".stage-") for path in tmp_path.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no output was begun"
        time.sleep(0.02)
    time.sleep(0.3)  # into the generation
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    # Python ends by the signal itself if that came in the middle of an `exec`; shells say 130 then, too.
    assert process.returncode in (code, -number), err
    assert out == ""
    assert err.splitlines()[-1].startswith(said), err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("encoding", "in_json"),
    [
        pytest.param({}, False, id="locale-c", marks=pytest.mark.slow),
        pytest.param({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, True, id="ascii-json"),
    ],
)
def test_names_that_the_locale_cannot_spell(
    environment: Environment, tmp_path: Path, tiny_model_dir: Path, encoding: dict[str, str], in_json: bool
) -> None:
    names = ["-Größe.wav", "音楽.wav", os.fsdecode(b"latin-\xe9.wav")]
    for name in names:
        with (tmp_path / name).open("wb") as file:
            soundfile.write(file, np.full(2000, 0.1), 8000, format="WAV")
    command = [*STAGE, "generate", f"--context={names[0]}", "-c", names[1], names[2], "--stem", "drums"]
    command += ["--model", str(tiny_model_dir), "--variations", "2"] + ["--json"] * in_json
    done = subprocess.run(
        [os.fsencode(part) for part in command],
        cwd=tmp_path,
        env=environment | {"LC_ALL": "C"} | encoding,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    stems = [tmp_path / f"{name.removesuffix('.wav')}.drums{number}.wav" for name in names for number in ("", ".2")]
    for stem in stems:
        with stem.open("rb") as file:
            assert soundfile.info(file).frames == 2000
    lines = done.stdout.decode().splitlines()
    if in_json:
        # In an ASCII locale Python itself sees bytes that it cannot spell, and hands them on as surrogates.
        told = [os.fsencode(json.loads(line)["path"]) for line in lines]
        assert told == [os.fsencode(stem.name) for stem in stems]
    else:
        assert len(lines) == 1 + len(stems)


def _run_in_terminal(command: list[str], folder: Path, environment: Environment) -> tuple[int, str]:
    """Run a command whose three streams are a terminal of 100 columns; exit code and all that it wrote."""
    leader, follower = pty.openpty()
    environment = environment | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = forked.Popen(command, cwd=folder, env=environment, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    written = b""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            written += os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
    os.close(leader)
    return process.wait(), written.decode()


def test_in_a_terminal(environment: Environment, write_music: Write, tiny_model_dir: Path, tmp_path: Path) -> None:
    context = write_music("[red]mix[bold].wav", seconds=3.0)
    command = [*STAGE, "generate", context.name, "missing.wav", "--stem", "drums", "--model", str(tiny_model_dir)]
    code, written = _run_in_terminal(command, tmp_path, environment)
    assert code == 1
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    assert "Error: cannot read missing.wav" in plain
    assert re.search(r"writing \[red\]mix\[bold\].wav .* / 3.0 s", plain), plain
    assert "× real time" in plain
    assert re.search(r"^\s*\[red\]mix\[bold\].drums.wav +3\.00 +-0\.1 ", plain, re.MULTILINE), plain
    assert "Traceback" not in plain
    assert wav_header(tmp_path / "[red]mix[bold].drums.wav") == (44100, 132300, 1, 3)


def test_a_reader_that_goes_away(environment: Environment, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = environment | {"STAGE_MODELS": str(tmp_path), "HF_HOME": str(tmp_path)}
    command = [*STAGE, "models", "list"]
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_player_that_is_closed(
    environment: Environment, write_music: Write, tiny_model_dir: Path, tmp_path: Path
) -> None:
    context = write_music(seconds=120.0, sample_rate=8000, channels=1)
    before = snapshot(tmp_path)
    command = [*STAGE, "generate", str(context), "--stem", "drums", "--model", str(tiny_model_dir)]
    command += ["--stream", "-", "--output", str(tmp_path / "kept.wav")]
    process = forked.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    heard = process.stdout.read(8000)  # waits for half a second of sound
    assert heard[:4] == b"RIFF"
    assert process.poll() is None, "two minutes are not made yet"
    assert snapshot(tmp_path) != before, "files are open"
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(timeout=30) == 1
    assert said.startswith("Loading")
    assert "Error" not in said
    assert "Traceback" not in said
    assert "Exception" not in said
    assert snapshot(tmp_path) == before


def test_a_terminal_is_no_player(environment: Environment, tiny_model_dir: Path, tmp_path: Path) -> None:
    command = [*STAGE, "generate", "--bpm", "120", "--stem", "drums", "--model", str(tiny_model_dir), "--stream", "-"]
    code, written = _run_in_terminal(command, tmp_path, environment)
    assert code == 2
    assert "--stream - would write audio into the terminal" in written
    assert "RIFF" not in written


def test_shell_completion(environment: Environment) -> None:
    stage = Path(sys.executable).with_name("stage")
    if not stage.exists():
        pytest.skip("the package is not installed: there is no `stage` to complete")

    def run(*arguments: str, **more: str) -> str:
        command = [str(stage), *arguments]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True).stdout

    for shell, line in (("bash", "complete -o default -F _stage_completion stage"), ("zsh", "#compdef stage")):
        assert line in run(_STAGE_COMPLETE=f"source_{shell}")
    # Typer asks which shell has started it; the variable makes it take our word instead.
    script = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_STAGE_COMPLETE=complete_bash" in script
    words = run(COMP_WORDS="stage generate --b", COMP_CWORD="2", _STAGE_COMPLETE="complete_bash").split()
    assert words == ["--bpm", "--beats-per-bar"]


@pytest.fixture(scope="module")
def long_frames_model_dir(tiny_config: StageConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is quick on long audio: 4 frames a second, one codebook, windows of 20 s."""
    codec = CodecConfig(
        sample_rate=8000, filters=2, dimension=4, ratios=(8, 8, 8, 4), lstm_layers=0, codebooks=1, codebook_size=32
    )
    lm = replace(tiny_config.lm, codebooks=1, dimension=32, layers=1, heads=1, feed_forward=32)
    torch.manual_seed(0)
    model = StageModel(replace(tiny_config, codec=codec, lm=lm, window_seconds=20.0))
    for parameter in (*model.parameters(), *model.buffers()):
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("models") / "long-frames"
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(
    environment: Environment, tmp_path: Path, long_frames_model_dir: Path
) -> None:
    rate = 16000
    noise = np.random.default_rng(0).integers(-3000, 3000, (rate * 30, 2), dtype=np.int16)
    peaks = {}
    for minutes in (0.5, 10):
        context = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(context, "w", rate, 2, "PCM_16") as file:
            for _ in range(int(minutes * 2)):
                file.write(noise)
        command = [*STAGE, "generate", str(context), "--stem", "drums", "--model", str(long_frames_model_dir), "--mix"]
        command += ["--temperature", "0", "--guidance", "1", "--json"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.communicate()
        process.communicate()
        peaks[minutes] = usage.ru_maxrss / 1024  # MiB
        stem = context.with_name(f"{context.stem}.drums.wav")
        assert wav_header(stem) == (rate, round(minutes * 60 * rate), 1, 3)
    # 10 minutes of this context are 73 MiB as float32, of the stem 37 MiB.
    assert peaks[10] - peaks[0.5] < 16, peaks
    assert peaks[10] <= 1.2 * peaks[0.5], peaks


ENDING = """
import atexit, sys, threading, weakref
import torch
from stage_cli.cli.app import app, main
class Kept: pass
kept = Kept()
weakref.finalize(kept, print, "finalized")
atexit.register(print, "registered")
thread = threading.Thread(target=lambda: (event.wait(), print("thread")))
event = threading.Event()
if sys.argv[1] == "thread":
    thread.start()
    atexit.register(event.set)
    threading.Timer(0.5, event.set).start()
sys.argv[1:] = ["generate", "missing.wav", "--stem", "drums"]
print("begun")
main()
"""


@pytest.mark.parametrize("case", ["alone", "thread"])
def test_what_is_to_be_done_at_the_end_is_done(case: str, environment: Environment) -> None:
    """Torch is not taken down module by module; all else ends as in any program."""
    done = forked.run(
        [sys.executable, "-c", ENDING, case], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "missing.wav" in done.stderr
    lines = done.stdout.split()
    assert lines[0] == "begun"
    assert set(lines[1:]) == {"finalized", "registered"} | ({"thread"} if case == "thread" else set())
