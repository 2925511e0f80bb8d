"""Values as people type them, and the options that take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Refused, Stage
from stage_cli.cli import values
from stage_cli.cli.help import (
    EXAMPLES,
    complete_model,
    complete_recipe,
    complete_stem,
    without_old_spellings,
)
from stage_cli.core.audio.naming import find_audio
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.weights.hub import resolve
from stage_cli.errors import UsageError

TERMINAL = 80


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("90.5", 90.5), ("90,5", 90.5), ("90s", 90), ("1:30", 90), ("0:07.5", 7.5), ("1m30s", 90),
        ("1m", 60), ("2 min", 120), ("1:01:30", 3690), ("1h", 3600), (12.0, 12),
    ],
)  # fmt: skip
def test_lengths_of_time(text: object, expected: float) -> None:
    assert values.seconds("--duration")(text) == expected


@pytest.mark.parametrize("text", ["", "abc", "1:75", "1:", ":30", "1m30", "90 bananas", "1::2", "1:80:00"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match="--duration cannot be"):
        values.seconds("--duration")(text)


def test_tempi_and_bars() -> None:
    assert values.tempo("--bpm")("90,5") == 90.5
    assert values.tempo("--bpm")("90 BPM") == 90
    assert values.beats_per_bar("--beats-per-bar")("6/8") == 6
    assert values.beats_per_bar("--beats-per-bar")("3") == 3
    for parse in (values.tempo("--bpm"), values.beats_per_bar("--beats-per-bar")):
        with pytest.raises(UsageError, match="cannot be 'fast'"):
            parse("fast")


def test_home_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert values.at_home(Path("~/mix.wav")) == tmp_path / "mix.wav"
    assert values.at_home((Path("~/a"), "~/b", 3)) == (tmp_path / "a", "~/b", 3)
    assert values.at_home(Path("a/~/b")) == Path("a/~/b")


def test_missing_quotes(refused: Refused) -> None:
    refused("generate", "-s", "bass", "guitar", code=2, match=r'Quotes are missing.*--stem "bass guitar"')


def test_stdin_needs_a_name(refused: Refused) -> None:
    refused("generate", "-s", "drums", "-c", "-", code=2, match=r"stdin has no name.*--output")


@pytest.mark.parametrize("name", ["./models/drums", "a/b/c", "~/drums", "here/drums"])
def test_a_mistyped_folder_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="no folder"):
        resolve(name, offline=True)


def test_a_folder_without_the_programs_own_outputs(tmp_path: Path) -> None:
    for name in ("mix.wav", "mix.drums.wav", "120bpm.drums.wav", "90.5bpm.bass.2.wav", "120bpm.drums.mix.wav"):
        (tmp_path / name).touch()
    assert find_audio([tmp_path]) == [tmp_path / "mix.wav"]


def test_old_spellings() -> None:
    assert without_old_spellings("evaluate", ["--out", "a", "--seconds=3"]) == ["--output", "a", "--duration=3"]
    assert without_old_spellings("train", ["-cdrums", "--", "-c"]) == ["--config=drums", "--", "-c"]
    assert without_old_spellings("generate", ["-c", "mix.wav"]) == ["-c", "mix.wav"]


def test_completion() -> None:
    assert complete_stem("b") == ["bass", "bowed_strings"]
    assert "drums" in complete_recipe("dr")
    assert "musicgen-small" in complete_model("music")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_help(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(TERMINAL))
    group = ["models"] if name in ("list", "show", "pull", "import", "merge", "push") else []
    text = stage(*group, name, "--help").stdout
    assert "Examples:" in text
    assert len(EXAMPLES[name]) == 3
    for example in EXAMPLES[name]:
        assert example in text
    for old in ("--out ", "--seconds"):
        assert old not in text


def test_help_has_panels_and_whole_summaries(stage: Stage) -> None:
    text = stage("generate", "--help").stdout
    titles = ["What to accompany:", "What to generate:", "Sampling:", "Output:", "Machine:", "Examples:"]
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)
    assert "bowed_strings" in text
    text = stage("--help").stdout
    assert "..." not in text.partition("\n")[2]
    assert "prepare " in text
    assert "exactly as long." in " ".join(text.split())


def test_songs_of_the_metronome_set() -> None:
    from stage_cli.core.evaluation.song_clips import MetronomeClips

    def tempi(songs: int | None) -> set[str]:
        config = EvaluationConfig(Path(), metronome_set=True, models=("none",), songs=songs)
        return {plan.song for plan in MetronomeClips(config).plans}

    assert len(tempi(None)) == 80
    assert tempi(4) == {"110 bpm", "130 bpm", "150 bpm", "170 bpm"}
