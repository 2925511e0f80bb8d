"""Wrong use of `stage generate`: exit code 2, a message that says what to do, and no file touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Refused, Stage
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig

Write = Callable[..., Path]

NUMBERS = [
    ("--guidance", ("-1", "nan", "inf", "1e30"), "is not possible.*allowed: 0 to 100"),
    ("--temperature", ("-0.1", "nan", "inf", "1e30"), "is not possible.*allowed: 0 to 10"),
    ("--top-k", ("-1", "99999999999999999999"), "is not possible.*allowed: 0 to 1000000"),
    ("--top-p", ("0", "-1", "1.1", "nan", "inf"), "is not possible.*allowed: more than 0 and at most 1"),
    ("--advance", ("0", "-1", "1.1", "nan", "inf"), "is not possible.*allowed: more than 0 and at most 1"),
    ("--lookahead", ("-0.1", "1.1", "nan", "inf"), "is not possible.*allowed: 0 to 1"),
    ("--variations", ("0", "-3", "65", "99999999999999999999"), "is not possible.*allowed: 1 to 64"),
    ("--seed", ("-1", "99999999999999999999"), "is not possible.*allowed: 0 to"),
    ("--start", ("-0.1", "nan", "inf"), "cannot be.*give the seconds to skip, 0 or more"),
    ("--start", ("2", "2.5", "1e30"), "lies past the end of .*mix.wav.*2.000 s long.*give a --start below 2.000"),
    ("--start", ("1e308",), "--start"),
    ("--duration", ("0", "-1", "nan", "inf"), "cannot be.*give a number of seconds above 0"),
]
METRONOME_NUMBERS = [
    ("--bpm", ("0", "-120", "19.9", "400.1", "nan", "inf", "1e308"), "cannot be.*allowed: 20 to 400"),
    ("--beats-per-bar", ("0", "-4", "33", "99999999999999999999"), "cannot be.*allowed: a whole number from 1 to 32"),
    ("--offset", ("-0.1", "30", "nan", "inf", "1e308"), r"cannot be.*from 0 to below the duration \(30\)"),
    ("--duration", ("0", "-1", "nan", "inf", "86401", "1e308"), "cannot be.*above 0, up to 24 hours"),
]


@pytest.mark.parametrize(("option", "values", "match"), NUMBERS)
def test_a_number_out_of_range(
    refused: Refused, write_music: Write, tiny_model_dir: Path, option: str, values: tuple[str, ...], match: str
) -> None:
    command = ("generate", write_music(), "--stem", "drums", "--model", tiny_model_dir)
    for value in values:
        refused(*command, option, value, code=2, match=f"Error: {option}.*{match}")


@pytest.mark.parametrize(("option", "values", "match"), METRONOME_NUMBERS)
def test_a_number_out_of_range_for_a_metronome(
    refused: Refused, tiny_model_dir: Path, option: str, values: tuple[str, ...], match: str
) -> None:
    command = ("generate", "--stem", "drums", "--model", tiny_model_dir, "--bpm", "120")
    for value in values:
        refused(*command, option, value, code=2, match=f"Error: {option} {match}")


@pytest.mark.parametrize(
    "option",
    ["--guidance", "--temperature", "--top-k", "--top-p", "--advance", "--lookahead", "--variations", "--seed"],
)
def test_a_word_is_no_number(refused: Refused, option: str) -> None:
    refused("generate", "mix.wav", option, "many", code=2, match=f"Invalid value for '{option}'.*'many' is not a valid")


@pytest.mark.parametrize("option", ["--start", "--duration", "--bpm", "--beats-per-bar", "--offset"])
def test_a_word_is_no_time_and_no_tempo(refused: Refused, option: str) -> None:
    refused("generate", "mix.wav", option, "many", code=2, match=f"Error: {option} cannot be 'many'.*next: give")


def test_a_duration_beyond_all_files_is_the_rest_of_the_file(generate: Stage, write_music: Write) -> None:
    result = generate(write_music(seconds=0.3), "--duration", "1e308").result
    assert result["frames"] == 13230
    assert "The context ends after 0.30 s: the stem is that long." in result["notes"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param((), "--stem is missing.*for example: --stem drums", id="no-stem"),
        pytest.param(("--stem", ""), "--stem is missing", id="empty-stem"),
        pytest.param(
            ("mix.wav", "--stem", "drumms"), "unknown stem 'drumms'.*did you mean drums", id="stem-misspelled"
        ),
        pytest.param(
            ("mix.wav", "--stem", "zither"),
            "unknown stem 'zither'.*the stems are: vocals, bass, drums", id="stem-unknown",
        ),
        pytest.param(
            ("--stem", "drums"), "There is nothing to accompany.*--context mix.wav.*--bpm 120", id="no-context"
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--bpm", "90"),
            "--bpm makes its own context.*leave out --context", id="bpm-and-context",
        ),
        pytest.param(
            ("--stem", "drums", "--bpm", "90", "--start", "1"),
            "--bpm makes its own context.*leave out --start", id="bpm-and-start",
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--offset", "0"), "--offset goes with --bpm only", id="offset-without-bpm"
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--beats-per-bar", "3"),
            "--beats-per-bar goes with --bpm only", id="beats-per-bar-without-bpm",
        ),
        pytest.param(
            ("mix.wav", "other.wav", "--stem", "drums", "--continue", "beginning.wav"),
            "--continue goes with one context", id="continue-two-contexts",
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--description", " \n"),
            "--description is empty.*leave it out, or say how", id="empty-description",
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--format", "mp3"),
            "--format mp3 is unknown.*allowed: wav, flac", id="unknown-format",
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--output", "stem.mp3"),
            "--output stem.mp3: .mp3 cannot be written.*allowed: wav, flac", id="output-in-another-format",
        ),
        pytest.param(
            ("mix.wav", "--stem", "drums", "--output", "stem.flac", "--format", "wav"),
            "--output stem.flac contradicts --format wav", id="output-contradicts-format",
        ),
        pytest.param(
            ("mix.wav", "other.wav", "--stem", "drums", "--output", "stem.wav"),
            "--output stem.wav is one file, but there are 2 contexts.*name a folder", id="one-file-for-two-contexts",
        ),
        pytest.param(("mix.wav", "--stem", "drums", "--stm", "x"), "No such option: --stm", id="unknown-option"),
    ],
)  # fmt: skip
def test_options_that_cannot_work(
    refused: Refused, write_music: Write, tiny_model_dir: Path, options: tuple[str, ...], match: str
) -> None:
    for name in ("mix.wav", "other.wav"):
        write_music(name, seconds=0.1)
    refused("generate", "--model", tiny_model_dir, *options, code=2, match=match)


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        pytest.param(("--device", "tpu"), 2, "--device tpu is unknown.*allowed: auto, cpu, cuda", id="unknown"),
        pytest.param(("--device", ""), 2, "--device .* is unknown.*allowed: auto, cpu, cuda", id="empty"),
        pytest.param(("--device", "cuda:x"), 2, "--device cuda:x is unknown.*allowed: auto, cpu", id="cuda-x"),
        pytest.param(("--device", "cuda:99"), 1, "--device cuda:99: there is no such device", id="cuda-99"),
        pytest.param(("--device", "mps"), 1, "--device mps: there is no such device.*use --device cpu", id="mps"),
        pytest.param(("--precision", "fp64"), 2, "--precision fp64 is unknown.*allowed: auto, float32", id="precision"),
        pytest.param(
            ("--precision", "float16", "--device", "cpu"), 2,
            "--precision float16 is not possible on a CPU.*use --precision bfloat16", id="float16-on-cpu",
        ),
    ],
)  # fmt: skip
def test_device_and_precision(
    refused: Refused, write_music: Write, tiny_model_dir: Path, options: tuple[str, ...], code: int, match: str
) -> None:
    refused("generate", write_music(), "--stem", "drums", "--model", tiny_model_dir, *options, code=code, match=match)


def test_cuda_that_is_absent(
    refused: Refused, write_music: Write, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    match = "--device cuda: there is no such device.*CUDA.*use --device cpu, or auto"
    command = ("generate", write_music(), "--stem", "drums", "--model", tiny_model_dir)
    refused(*command, "--device", "cuda", code=1, match=match)


def test_int8_of_widths_that_its_kernel_cannot(
    refused: Refused, write_music: Write, tiny_config: StageConfig, tmp_path: Path
) -> None:
    from dataclasses import replace

    narrow = replace(tiny_config, lm=replace(tiny_config.lm, dimension=48))
    StageModel(narrow).save_pretrained(tmp_path / "narrow")
    match = "--precision int8 is not possible here.*widths are not multiples of 32.*use --precision auto"
    command = ("generate", write_music(), "--stem", "drums", "--model", tmp_path / "narrow", "--precision", "int8")
    refused(*command, code=2, match=match)


def test_int8(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=0.5)
    generate(context, "--seed", 1, "--precision", "int8", "--output", "int8.wav")
    generate(context, "--seed", 1, "--output", "auto.wav")
    assert Path("int8.wav").read_bytes() != Path("auto.wav").read_bytes()


def test_out_of_memory(
    refused: Refused, write_music: Write, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("stage_cli.core.generation.window.sample", exhausted)
    command = ("generate", write_music(), "--stem", "drums", "--model", tiny_model_dir)
    match = (
        r"Out of memory on cpu.*weights alone need: float32 [\d.]+ GB, .*int8 [\d.]+ GB.*"
        "try --precision int8 on --device cpu, or a smaller --model, or fewer --variations"
    )
    refused(*command, code=1, match=match)


@pytest.mark.parametrize("arguments", [("nonsense",), ("models", "nonsense")])
def test_an_unknown_command(refused: Refused, arguments: tuple[str, ...]) -> None:
    refused(*arguments, code=2, match="No such command 'nonsense'")


def test_version(stage: Stage) -> None:
    from stage_cli import __version__

    outcome = stage("--version")
    assert (outcome.code, outcome.stdout) == (0, f"stage {__version__}\n")


@pytest.mark.parametrize("command", [(), ("generate",), ("models",), ("models", "list"), ("models", "import")])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(stage: Stage, command: tuple[str, ...], flag: str) -> None:
    outcome = stage(*command, flag)
    assert outcome.code == 0
    assert outcome.stdout.startswith(" ".join(("Usage: stage", *command)))
