"""Contexts that cannot be accompanied, or nearly so: what is said, and that nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli.conftest import Refused, Stage, read_wav, wav_header

Write = Callable[..., Path]


def _missing(path: Path) -> Path:
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _text(path: Path) -> Path:
    path.write_text("Verse 1: A minor, F, C, G\n" * 50)
    return path


def _zeros(path: Path) -> Path:
    path.write_bytes(bytes(10_000))
    return path


def _without_samples(path: Path) -> Path:
    soundfile.write(path, np.zeros((0, 2)), 44100)
    return path


def _cut(path: Path) -> Path:
    path = path.with_suffix(".wav")
    soundfile.write(path, np.full((44100, 2), 0.1), 44100)
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def _cut_flac(path: Path) -> Path:
    path = path.with_suffix(".flac")
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 44100), 44100)
    path.write_bytes(path.read_bytes()[:40_000])
    return path


def _with(sample: float) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        samples = np.zeros((12_000, 2))
        samples[6000, 1] = sample
        soundfile.write(path, samples, 8000, subtype="DOUBLE")
        return path

    return write


def _folder_without_audio(path: Path) -> Path:
    folder = path.with_name("songs")
    (folder / "more").mkdir(parents=True)
    _text(folder / "lyrics.txt")
    _with(0.1)(folder / "more" / "mix.wav")
    return folder


def _folder_of_that_name(path: Path) -> Path:
    path.mkdir()
    return path


BAD_CONTEXTS = [
    pytest.param(_missing, 1, r"cannot read {name}.*there is no such file.*check the name", id="missing"),
    pytest.param(_empty, 1, r"cannot read {name}.*the file is empty \(0 bytes\).*export or download", id="empty"),
    pytest.param(_text, 1, r"cannot read {name}.*no audio format.*ffmpeg -i INPUT output.wav", id="text"),
    pytest.param(_zeros, 1, r"cannot read {name}.*no audio format.*ffmpeg -i INPUT output.wav", id="zero-bytes"),
    pytest.param(_without_samples, 1, r"cannot read {name}.*no samples \(0 frames\).*export it again", id="no-samples"),
    pytest.param(_cut, 1, r"{name} is truncated.*44100 frames, 2\d{{4}} could be read", id="truncated-wav"),
    pytest.param(_cut_flac, 1, r"(cannot decode )?{name}.*truncated.*export or download it again", id="truncated-flac"),
    pytest.param(_with(np.nan), 1, r"{name} holds samples.*at 0.750 s is nan.*24-bit PCM", id="nan"),
    pytest.param(_with(np.inf), 1, r"{name} holds samples.*at 0.750 s is inf.*24-bit PCM", id="infinite"),
    pytest.param(_with(32000), 1, r"{name} holds samples.*is 32000, more than 60 dB above", id="integers-as-floats"),
    pytest.param(_folder_without_audio, 2, r"no audio in the folder {name}.*name another folder", id="folder-no-audio"),
    pytest.param(_folder_of_that_name, 2, r"no audio in the folder {name}", id="folder-named-like-a-file"),
]


@pytest.mark.parametrize(("make", "code", "match"), BAD_CONTEXTS)
def test_a_context_that_cannot_be_used(
    refused: Refused, tiny_model_dir: Path, tmp_path: Path, make: Callable[[Path], Path], code: int, match: str
) -> None:
    context = make(tmp_path / "mix.wav")
    refused(
        "generate", context, "--stem", "drums", "--model", tiny_model_dir, "--mix",
        code=code, match=match.format(name=f"\\S*{context.name}"),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "code", "match"), [row for row in BAD_CONTEXTS if "folder" not in str(row.id)])
def test_a_continuation_that_cannot_be_used(
    refused: Refused,
    write_music: Write,
    tiny_model_dir: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    code: int,
    match: str,
) -> None:
    beginning = make(tmp_path / "beginning.wav")
    refused(
        "generate", write_music(), "--stem", "drums", "--model", tiny_model_dir, "--continue", beginning,
        code=code, match=match.format(name=f"\\S*{beginning.name}"),
    )  # fmt: skip


def test_a_name_that_is_too_long(refused: Refused, tiny_model_dir: Path) -> None:
    match = "cannot (use|read) x+.wav.*File name too long.*check the name"
    refused("generate", "x" * 300 + ".wav", "--stem", "drums", "--model", tiny_model_dir, code=1, match=match)


@pytest.mark.parametrize("frames", [1, 2, 7, 159, 160, 161])
def test_the_shortest_contexts(generate: Stage, tmp_path: Path, frames: int) -> None:
    soundfile.write(tmp_path / "mix.wav", np.full((frames, 2), 0.1), 44100)
    result = generate(tmp_path / "mix.wav", "--mix").result
    assert wav_header(result["path"]) == (44100, frames, 1, 3)
    assert wav_header(result["mix_path"]) == (44100, frames, 2, 3)


@pytest.mark.parametrize(
    ("samples", "note"),
    [
        pytest.param(np.zeros((8000, 2)), "The context is silent: there is nothing to follow.", id="silent"),
        pytest.param(
            np.outer(np.sin(np.arange(8000) / 9), [0.5, -0.5]),
            "The context's channels cancel out in mono: there is nothing to follow.",
            id="channels-cancel-out",
        ),
    ],
)
def test_a_context_that_says_nothing(generate: Stage, tmp_path: Path, samples: np.ndarray, note: str) -> None:
    soundfile.write(tmp_path / "mix.wav", samples, 8000)
    result = generate(tmp_path / "mix.wav").result
    assert note in result["notes"]
    assert wav_header(result["path"]) == (8000, 8000, 1, 3)


def test_a_float_file_above_full_scale_is_mixed_without_clipping(generate: Stage, tmp_path: Path) -> None:
    samples = 4 * np.sin(np.arange(8000) / 9)
    soundfile.write(tmp_path / "mix.wav", samples, 8000, subtype="FLOAT")
    result = generate(tmp_path / "mix.wav", "--mix").result
    stem = read_wav(result["path"])[:, 0] * 10 ** (result["turned_down"] / 20)
    mixed = read_wav(result["mix_path"])[:, 0] * 10 ** (result["mix_turned_down"] / 20)
    assert result["mix_turned_down"] > 12
    np.testing.assert_allclose(mixed, samples + stem, rtol=0, atol=8 * 2**-23)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("my mix.wav", "my mix.drums.wav", id="space"),
        pytest.param("Größe ☃ 音楽.wav", "Größe ☃ 音楽.drums.wav", id="unicode"),
        pytest.param("-mix.wav", "-mix.drums.wav", id="leading-dash"),
        pytest.param("[red]mix[bold].wav", "[red]mix[bold].drums.wav", id="markup"),
        pytest.param("two\nlines\t.wav", r"'two\nlines\t.drums.wav'", id="line-break"),
        pytest.param("mix", "mix.drums.wav", id="no-ending"),
    ],
)
def test_names(stage: Stage, write_music: Write, tiny_model_dir: Path, tmp_path: Path, name: str, shown: str) -> None:
    write_music(name, seconds=0.3, format="WAV")
    command = ("generate", f"--context={name}", "--stem", "drums", "--model", tiny_model_dir)
    outcome = stage(*command)
    assert outcome.code == 0, outcome.stderr
    _, row = outcome.stdout.splitlines()
    assert row.split("\t")[0] == shown
    assert f"\n{shown} was turned down by" in outcome.stderr
    stem = tmp_path / f"{name.removesuffix('.wav')}.drums.wav"
    assert wav_header(stem) == (44100, 13230, 1, 3)
    assert stage(*command, "--json", "--overwrite").result["path"] == stem.name
