"""Outputs that cannot be written: what exists keeps its bytes, and nothing half-written is left."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Outcome, Refused, Stage, snapshot

Write = Callable[..., Path]


@pytest.fixture
def cannot_write(refused: Refused, write_music: Write, tiny_model_dir: Path) -> Refused:
    """Run `stage generate` for drums on `mix.wav` (2 s) with options that must be refused."""

    def run(*options: object, code: int, match: str) -> Outcome:
        command = ("generate", write_music(), "--stem", "drums", "--model", tiny_model_dir)
        return refused(*command, *options, code=code, match=match)

    return run


@pytest.mark.parametrize(
    ("options", "existing"),
    [
        pytest.param((), "mix.drums.wav", id="default-name"),
        pytest.param(("--format", "flac"), "mix.drums.flac", id="flac"),
        pytest.param(("--variations", 3), "mix.drums.3.wav", id="one-of-the-variations"),
        pytest.param(("--mix",), "mix.drums.mix.wav", id="mix"),
        pytest.param(("--output", "out.wav"), "out.wav", id="file"),
        pytest.param(("--output", "out.wav", "--variations", 2), "out.2.wav", id="file-of-a-variation"),
        pytest.param(("--output", "stems"), "stems/mix.drums.wav", id="folder"),
    ],
)
def test_a_file_that_exists(cannot_write: Refused, tmp_path: Path, options: tuple, existing: str) -> None:
    (tmp_path / existing).parent.mkdir(exist_ok=True)
    (tmp_path / existing).write_bytes(b"precious")
    cannot_write(*options, code=2, match=rf"{existing} already exists.*use --overwrite to replace it, or another")


def test_a_file_that_appears_meanwhile(
    stage: Stage, write_music: Write, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stage_cli.core import stem_files

    context = write_music(seconds=0.3)
    before = snapshot(tmp_path)
    write_scaled = stem_files.write_scaled

    def while_another_program_writes(*arguments: Any) -> None:
        write_scaled(*arguments)
        (tmp_path / "mix.drums.wav").write_bytes(b"precious")

    monkeypatch.setattr(stem_files, "write_scaled", while_another_program_writes)
    outcome = stage("generate", context, "--stem", "drums", "--model", tiny_model_dir)
    assert outcome.code == 2
    assert "mix.drums.wav already exists" in outcome.stderr
    assert snapshot(tmp_path) == before | {"mix.drums.wav": b"precious"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param(("--output", "mix.wav"), r"mix.wav is read and cannot be written.*another --output", id="context"),
        pytest.param(("--output", "./a/../mix.wav"), "mix.wav is read and cannot be written", id="by-another-path"),
        pytest.param(("--output", "link.wav"), "link.wav is read and cannot be written", id="by-a-link"),
        pytest.param(
            ("--continue", "old.wav", "--output", "old.wav"), "old.wav is read and cannot be written", id="continuation"
        ),
    ],
)
def test_a_file_that_is_read(
    cannot_write: Refused, write_music: Write, tmp_path: Path, options: tuple, match: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link.wav").symlink_to("mix.wav")
    write_music("old.wav", seconds=0.5)
    cannot_write(*options, "--overwrite", code=2, match=match)


def test_two_contexts_of_one_name(refused: Refused, write_music: Write, tiny_model_dir: Path, tmp_path: Path) -> None:
    contexts = write_music("a/mix.wav", seconds=0.2), write_music("b/mix.flac", seconds=0.2)
    match = "Two contexts would both be written to .*stems/mix.drums.wav.*to different folders"
    command = ("generate", *contexts, "--stem", "drums", "--model", tiny_model_dir)
    refused(*command, "--output", tmp_path / "stems", code=2, match=match)


@pytest.mark.parametrize(
    ("output", "match"),
    [
        pytest.param("mix.wav/stem.wav", "cannot write mix.wav/stem.wav.*is a file, not a folder", id="below-a-file"),
        pytest.param("mix.wav/a/b/stem.wav", "cannot write mix.wav/a/b/stem.wav.*not a folder", id="far-below-a-file"),
        pytest.param("notes.txt", "cannot write notes.txt/mix.drums.wav.*is a file, not a folder", id="text-file"),
        pytest.param("/proc/stem.wav", "cannot write /proc/stem.wav.*choose another", id="no-place-for-files"),
        pytest.param("/dev/null", "cannot write /dev/null/mix.drums.wav.*not a folder", id="device"),
        pytest.param("x" * 300 + ".wav", "cannot (use|write) x+.wav.*[nN]ame (is )?too long", id="name-too-long"),
    ],
)
def test_a_place_that_cannot_be_written_to(cannot_write: Refused, tmp_path: Path, output: str, match: str) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    cannot_write("--output", output, code=1, match=match)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system of its own at `tmp_path/disk`; skip where that is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount_at(options: str) -> Path:
        try:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")
        return disk

    yield mount_at
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def test_a_read_only_disk(cannot_write: Refused, mount: Callable[[str], Path]) -> None:
    disk = mount("size=1m,ro")
    cannot_write("--output", disk, code=1, match="cannot write .*the disk is read-only.*choose another folder")


@pytest.mark.parametrize(
    ("kilobytes", "match"),
    [
        # 2 s at 44.1 kHz: 345 KB of float32 wait on the disk; 258 KB make the stem; 517 KB the stereo mix.
        pytest.param(64, "cannot store the stem in .*disk.*No space left.*free some space", id="while-generating"),
        pytest.param(344, "cannot store the stem in .*disk.*No space left.*free some space", id="at-the-very-end"),
        pytest.param(480, "cannot write .*mix.drums.wav.*the disk is full.*free some space", id="while-writing"),
        pytest.param(800, "cannot write .*mix.drums.mix.wav.*the disk is full", id="while-writing-the-mix"),
    ],
)
def test_a_full_disk(cannot_write: Refused, mount: Callable[[str], Path], kilobytes: int, match: str) -> None:
    disk = mount(f"size={kilobytes}k")
    cannot_write("--output", disk, "--mix", code=1, match=match)
    assert list(disk.iterdir()) == []


def test_a_full_disk_does_not_stop_the_next_context(
    stage: Stage, write_music: Write, tiny_model_dir: Path, mount: Callable[[str], Path]
) -> None:
    disk = mount("size=200k")
    contexts = write_music("long.wav", seconds=2.0), write_music("short.wav", seconds=0.2)
    outcome = stage("generate", *contexts, "--stem", "drums", "--model", tiny_model_dir, "--output", disk)
    assert outcome.code == 1
    assert "No space left on device" in outcome.stderr
    assert [path.name for path in disk.iterdir()] == ["short.drums.wav"]


def test_a_file_larger_than_the_system_allows(cannot_write: Refused) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    context_size = 2 * 44100 * 2 * 2 + 1000  # what `cannot_write` itself writes must pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (context_size, hard))
    try:
        cannot_write("--mix", code=1, match="cannot write .*mix.drums.mix.wav.*larger than the system allows")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_flac_of_too_many_channels(refused: Refused, write_music: Write, tiny_model_dir: Path) -> None:
    context = write_music(seconds=0.2, channels=9)
    command = ("generate", context, "--stem", "drums", "--model", tiny_model_dir, "--mix", "--format", "flac")
    refused(*command, code=1, match="cannot write .*mix.drums.mix.flac.*9 channels.*--format wav")


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
            assert snapshot(tmp_path) != before, "files are open"
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    monkeypatch.setattr(window, "sample", interrupted)
    outcome = stage("generate", context, "--stem", "drums", "--model", tiny_model_dir, "--mix")
    assert (outcome.code, outcome.stdout) == (130, "")
    assert "Stopped. Nothing half-written is left." in outcome.stderr
    assert snapshot(tmp_path) == before
