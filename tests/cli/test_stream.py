"""`stage generate --stream`: the same files, heard while they are made, and stdout that a player can read."""

from __future__ import annotations

import io
import itertools
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cli.conftest import Outcome, Refused, Stage, read_wav, snapshot
from stage_cli.core.model import StageModel

Write = Callable[..., Path]


@pytest.fixture
def quiet_model_dir(change_model: Callable[..., Path], tiny_model: StageModel) -> Path:
    """A model that nothing has to turn down."""
    output, state = "codec.decoder.output", tiny_model.state_dict()
    parts = {f"{output}.{part}": state[f"{output}.{part}"] / 16 for part in ("weight", "bias")}
    return change_model("quiet", tensors=parts)


@pytest.fixture
def streamed(stage: Stage, tiny_model_dir: Path) -> Stage:
    """Run `stage generate --stream - --stem drums`, which must succeed."""

    def run(*arguments: object) -> Outcome:
        outcome = stage("generate", "--stem", "drums", "--model", tiny_model_dir, "--stream", "-", *arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    return run


STREAMED: dict[str, tuple[tuple, set[str]]] = {
    "plain": ((), {"stem.wav"}),
    "mix": (("--mix",), {"stem.wav", "stem.mix.wav"}),
    "2": (("--variations", 2, "--mix"), {"stem.wav", "stem.mix.wav", "stem.2.wav", "stem.2.mix.wav"}),
    "part": (("--start", 0.3, "--duration", 1.1), {"stem.wav"}),
    "continued": (("--continue", "begun.wav"), {"stem.wav"}),
}
# Every pair of what is written, its format and whether it was turned down; all of them together are slow.
COVERING = {
    *(("plain", True, "flac"), ("plain", False, "wav"), ("mix", False, "flac"), ("mix", True, "wav")),
    *(("2", False, "flac"), ("part", True, "wav"), ("continued", False, "flac")),
}


@pytest.mark.parametrize(
    ("case", "quiet", "format"),
    [
        pytest.param(
            *(case, quiet, format),
            id=f"{case}-{'as-it-is' if quiet else 'turned-down'}-{format}",
            marks=() if (case, quiet, format) in COVERING else pytest.mark.slow,
        )
        for case, quiet, format in itertools.product(STREAMED, (False, True), ("wav", "flac"))
    ],
)
def test_a_streamed_file_is_the_file(
    generate: Stage,
    write_music: Write,
    quiet_model_dir: Path,
    tmp_path: Path,
    case: str,
    quiet: bool,
    format: str,
) -> None:
    options, written = STREAMED[case]
    write_music("begun.wav", seconds=0.4)
    command = [write_music(seconds=2.3), "--seed", 5, *options, *(("--model", quiet_model_dir) if quiet else ())]
    plain = generate(*command, "--output", f"plain/stem.{format}")
    streamed = generate(*command, "--stream", f"streamed/stem.{format}")
    assert all((result["turned_down"] == 0) is quiet for result in plain.results)
    names = {name.replace(".wav", f".{format}") for name in written}
    assert {path.name for path in (tmp_path / "streamed").iterdir()} == names
    for name in names:
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    for before, after in zip(plain.results, streamed.results, strict=True):
        assert (before["peak"], before["turned_down"]) == (after["peak"], after["turned_down"])
        assert before["notes"] == [note.replace("streamed/", "plain/") for note in after["notes"]]


def test_a_folder_of_streamed_files(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_music(f"songs/{name}.wav", seconds=0.5)
    generate(tmp_path / "songs", "--seed", 1, "--output", "plain")
    generate(tmp_path / "songs", "--seed", 1, "--stream", "streamed")
    assert {path.name for path in (tmp_path / "streamed").iterdir()} == {"a.drums.wav", "b.drums.wav"}
    for path in (tmp_path / "streamed").iterdir():
        assert path.read_bytes() == (tmp_path / "plain" / path.name).read_bytes()


def test_the_growing_files_name_is_told(
    stage: Stage, write_music: Write, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_music(seconds=0.5)
    outcome = stage("generate", "mix.wav", "-s", "drums", "-m", tiny_model_dir, "--stream", "stem.wav", "--mix")
    assert outcome.code == 0
    assert "Growing while it is generated: stem.wav.part, stem.mix.wav.part" in outcome.stderr
    assert outcome.stdout.splitlines()[1].startswith("stem.wav\t0.50\t")


@pytest.mark.parametrize("options", [(), ("--mix",)], ids=["stem", "mix"])
def test_stdout_is_wav(
    streamed: Stage, generate: Stage, write_music: Write, quiet_model_dir: Path, tmp_path: Path, options: tuple
) -> None:
    context = write_music(seconds=2.3, channels=2)
    before = snapshot(tmp_path)
    outcome = streamed(context, "--seed", 3, "--model", quiet_model_dir, *options)
    assert snapshot(tmp_path) == before, "no file is written that was not asked for"
    generate(context, "--seed", 3, "--model", quiet_model_dir, "--output", "stem.wav", *options)
    expected = read_wav("stem.mix.wav" if options else "stem.wav")
    with wave.open(io.BytesIO(outcome.audio)) as file:
        assert file.getparams()[:4] == (expected.shape[1], 2, 44100, len(expected))
        samples = np.frombuffer(file.readframes(len(expected)), dtype="<i2").reshape(expected.shape)
        assert file.readframes(1) == b""
    np.testing.assert_allclose(samples / 2**15, expected, rtol=0, atol=0.51 * 2**-15)
    read, rate = soundfile.read(io.BytesIO(outcome.audio), always_2d=True)
    assert rate == 44100
    np.testing.assert_array_equal(read * 2**15, samples)
    assert "Model: " in outcome.stderr
    assert "\nstdout\t2.30\t" in outcome.stderr, "the table"
    (tmp_path / "saved.wav").write_bytes(outcome.audio)
    generate("saved.wav"), "what was saved from the pipe is a file like any other"


def test_stdout_and_files(streamed: Stage, generate: Stage, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=1.3)
    generate(context, "--seed", 3, "--output", "plain.flac", "--mix")
    outcome = streamed(context, "--seed", 3, "--output", "kept.flac", "--mix")
    assert (tmp_path / "kept.flac").read_bytes() == (tmp_path / "plain.flac").read_bytes()
    assert (tmp_path / "kept.mix.flac").read_bytes() == (tmp_path / "plain.mix.flac").read_bytes()
    assert soundfile.info(io.BytesIO(outcome.audio)).channels == 2, "the mix"
    assert "\nkept.flac\t1.30\t" in outcome.stderr
    assert "kept.flac was turned down by" in outcome.stderr
    assert "What was streamed was turned down" in outcome.stderr
    assert list(tmp_path.glob("*.part")) == []


def test_a_metronome_to_stdout(streamed: Stage) -> None:
    outcome = streamed("--bpm", 100, "--duration", 1.5, "--mix", "--seed", 1)
    info = soundfile.info(io.BytesIO(outcome.audio))
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (8000, 12000, 1, "PCM_16")


@pytest.fixture
def cannot_stream(refused: Refused, write_music: Write, tiny_model_dir: Path, tmp_path: Path) -> Refused:
    """Run `stage generate` for drums on `mix.wav` with options that must be refused before anything is written."""

    def run(*options: object, code: int = 2, match: str) -> Outcome:
        write_music("songs/a.wav", seconds=0.2)
        write_music("songs/b.wav", seconds=0.2)
        command = ("generate", write_music(seconds=0.5), "--stem", "drums", "--model", tiny_model_dir)
        outcome = refused(*command, *options, code=code, match=match)
        assert outcome.audio == b""
        return outcome

    return run


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param(("--stream", "-", "--json"), "--json and --stream - both write to stdout.*drums.wav", id="json"),
        pytest.param(("--stream", "-", "songs"), "one stem, but there are 3 contexts.*--stream FOLDER", id="contexts"),
        pytest.param(("--stream", "-", "--variations", 2), "but there are 2 variations.*choose one", id="variations"),
        pytest.param(("--stream", "-", "--format", "flac"), "writes WAV, not flac.*--output x.flac", id="format"),
        pytest.param(("--stream", "-", "--output", "mix.wav"), "mix.wav is read and cannot be written", id="context"),
        pytest.param(
            ("--stream", "a.wav", "--output", "b.wav"), "--stream a.wav says where .*--output b.wav", id="two"
        ),
        pytest.param(("--stream", "a.mp3"), "--stream a.mp3: .mp3 cannot be written.*wav, flac", id="ending"),
        pytest.param(("--stream", "a.wav", "--format", "flac"), "--stream a.wav contradicts --format flac", id="other"),
        pytest.param(("--stream", "a.wav", "songs"), "--stream a.wav is one file, but there are 3", id="one-file"),
        pytest.param(("--stream", "old.wav"), "old.wav already exists.*--overwrite", id="exists"),
        pytest.param(("--stream", "killed.wav"), "killed.wav.part already exists.*--overwrite", id="part-exists"),
    ],
)
def test_what_does_not_go_together(cannot_stream: Refused, tmp_path: Path, options: tuple, match: str) -> None:
    (tmp_path / "old.wav").write_bytes(b"precious")
    (tmp_path / "killed.wav.part").write_bytes(b"precious")
    cannot_stream(*options, match=match)


def test_a_terminal_gets_no_audio(cannot_stream: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    class System:
        stdout = Terminal()

    monkeypatch.setattr("stage_cli.cli.generate.sys", System)
    cannot_stream("--stream", "-", match="into the terminal.*aplay.*--stream drums.wav")


def test_what_was_left_by_a_run_that_was_killed_may_be_replaced(
    generate: Stage, write_music: Write, tmp_path: Path
) -> None:
    (tmp_path / "stem.wav.part").write_bytes(b"half")
    generate(write_music(seconds=0.3), "--stream", "stem.wav", "--overwrite")
    assert {path.name for path in tmp_path.glob("stem*")} == {"stem.wav"}


def test_an_interruption_leaves_nothing(
    stage: Stage, write_music: Write, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = write_music(seconds=3.0)
    before = snapshot(tmp_path)
    steps = 0
    from stage_cli.core.generation import window

    sample = window.sample

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 70:  # in the second window
            assert soundfile.info(tmp_path / "stem.wav.part").channels == 1
            assert not (tmp_path / "stem.wav").exists()
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    monkeypatch.setattr(window, "sample", interrupted)
    command = ("generate", context, "--stem", "drums", "--model", tiny_model_dir, "--mix")
    outcome = stage(*command, "--stream", "stem.wav")
    assert (outcome.code, outcome.stdout) == (130, "")
    assert "Stopped. Nothing half-written is left." in outcome.stderr
    assert snapshot(tmp_path) == before
