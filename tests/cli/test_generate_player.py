"""`stage generate` with a player: stem and notes, what goes with it and what does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from cli.conftest import Outcome, Refused, Stage, read_wav, snapshot, wav_header
from stage_cli.core.weights import hub

Write = Callable[..., Path]


@pytest.fixture
def play(stage: Stage, tiny_player_dir: Path) -> Stage:
    """Run `stage generate` with the tiny player, which must succeed; `--json` on stdout."""

    def run(*arguments: object) -> Outcome:
        outcome = stage(
            "generate", "--stem", "drums", "--model", tiny_player_dir, "--kit", "electronic", "--json", *arguments
        )
        assert outcome.code == 0, outcome.stderr
        return outcome

    return run


def test_a_stem_and_its_notes(play: Stage, write_music: Write) -> None:
    context = write_music(seconds=3.0, sample_rate=48_000)
    result = play(context, "--seed", 1).result
    assert result["path"] == str(context.with_name("mix.drums.wav"))
    assert result["midi_path"] == str(context.with_name("mix.drums.mid"))
    assert wav_header(result["path"]) == (48_000, 144_000, 2, 3)
    struck = [message for message in mido.MidiFile(result["midi_path"]) if message.type == "note_on"]
    assert 0 < len([message for message in struck if message.velocity]) <= result["note_count"]
    assert {message.channel for message in struck} == {9}
    assert result["bpm"] >= 0
    assert result["beats"] >= 0
    assert 0 <= result["beat_confidence"] <= 1
    assert any(note.startswith(("Beats:", "No beats")) for note in result["notes"])


def test_a_tempo_alone(play: Stage, tmp_path: Path) -> None:
    result = play("--bpm", 90, "--duration", 4, "--seed", 1).result
    assert (result["path"], result["midi_path"]) == ("90bpm.drums.wav", "90bpm.drums.mid")
    assert (result["bpm"], result["beats"], result["beat_confidence"]) == (pytest.approx(90), 6, 1)
    tempos = [message.tempo for message in mido.MidiFile(tmp_path / "90bpm.drums.mid") if message.type == "set_tempo"]
    assert tempos[0] == pytest.approx(60e6 / 90, abs=1)


def test_names_of_several_takes(play: Stage, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=1.0)
    results = play(context, "--variations", 2, "--mix", "--output", "out/take.flac", "--seed", 3).results
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "take.flac", "take.2.flac", "take.mix.flac", "take.2.mix.flac", "take.mid", "take.2.mid",
    }  # fmt: skip
    assert [result["seed"] for result in results] == [3, 4]
    again = play(context, "--seed", 4, "--output", "again.wav").result
    one, two = soundfile.read(again["path"])[0], soundfile.read(tmp_path / "out" / "take.2.flac")[0]
    np.testing.assert_allclose(one, two, rtol=0, atol=2**-23)
    assert (tmp_path / "again.mid").read_bytes() == (tmp_path / "out" / "take.2.mid").read_bytes()


def test_the_mix_is_context_and_stem(play: Stage, write_music: Write) -> None:
    result = play(write_music(seconds=1.5, subtype="PCM_24"), "--mix", "--seed", 1).result
    context = read_wav(result["context"])
    stem_gain, mix_gain = (10 ** (-result[key] / 20) for key in ("turned_down", "mix_turned_down"))
    expected = mix_gain * (context + read_wav(result["path"]) / stem_gain)
    np.testing.assert_allclose(read_wav(result["mix_path"]), expected, atol=1e-5)


def test_gain_is_in_decibels(play: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.0)
    usual, quiet = (play(context, "--seed", 1, "--gain", gain, "--output", f"{gain}.wav").result for gain in (-12, -18))
    np.testing.assert_allclose(read_wav(quiet["path"]), read_wav(usual["path"]) * 10 ** (-6 / 20), atol=1e-6)


def test_without_midi(play: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.0)
    result = play(context, "--no-midi").result
    assert result["midi_path"] is None
    assert result["note_count"] is not None
    assert {path.name for path in context.parent.iterdir()} == {"mix.wav", "mix.drums.wav"}


@pytest.mark.parametrize("output", [None, "folder", "beat.mid", "beat.wav"])
def test_midi_only(play: Stage, write_music: Write, tmp_path: Path, output: str | None) -> None:
    context = write_music(seconds=2.0)
    both = play(context, "--seed", 1, "--output", "both.wav").result
    result = play(context, "--seed", 1, "--midi-only", *(["--output", output] if output else [])).result
    written = {None: str(context.with_name("mix.drums.mid")), "folder": "folder/mix.drums.mid"}
    assert result["midi_path"] == written.get(output, "beat.mid")
    assert (result["path"], result["mix_path"]) == (None, None)
    assert (tmp_path / result["midi_path"]).read_bytes() == (tmp_path / both["midi_path"]).read_bytes()
    audio = {path.name for path in tmp_path.rglob("*") if path.suffix == ".wav"}
    assert audio == {"mix.wav", "both.wav"}


def test_what_is_streamed_is_the_stem(
    play: Stage, stage: Stage, tiny_player_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    context = write_music(seconds=2.0)
    play(context, "--seed", 1, "--gain", -12, "--output", "stem.wav")
    arguments = ("generate", context, "-s", "drums", "-m", tiny_player_dir, "--kit", "electronic", "--gain", -12)
    outcome = stage(*arguments, "--seed", 1, "--stream", "-", "--output", "same.wav")
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "same.wav").read_bytes() == (tmp_path / "stem.wav").read_bytes()
    assert (tmp_path / "same.mid").read_bytes() == (tmp_path / "stem.mid").read_bytes()
    streamed = np.frombuffer(outcome.audio[-4 * 2 * 44_100 :], dtype="<i2").reshape(-1, 2) / 2**15
    np.testing.assert_allclose(streamed, read_wav(tmp_path / "stem.wav"), atol=2 / 2**15)


def test_no_file_is_replaced(play: Stage, refused: Refused, tiny_player_dir: Path, write_music: Write) -> None:
    context = write_music(seconds=1.0)
    midi = context.with_name("mix.drums.mid")
    midi.write_bytes(b"mine")
    command = ("generate", context, "--stem", "drums", "--model", tiny_player_dir)
    refused(*command, code=2, match=r"mix.drums.mid already exists")
    refused(*command, "--midi-only", code=2, match=r"mix.drums.mid already exists")
    play(context, "--overwrite", "--midi-only")
    assert midi.read_bytes()[:4] == b"MThd"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--guidance", "2"), r"--guidance does not apply"),
        (("--top-k", "9"), r"--top-k does not apply"),
        (("--advance", "0.5"), r"--advance does not apply"),
        (("--description", "loud"), r"no --description"),
        (("--continue", "mix.wav", "--duration", "0.5"), "continu"),
        (("--kit", "acustic"), r"acoustic"),
        (("--kit", "studio", "--sounds", "x.sf2"), r"exclude"),
        (("--sounds", "none.sf2"), r"none.sf2"),
        (("--gain", "99"), r"--gain cannot be 99"),
        (("--midi-only", "--mix"), r"--mix goes with audio"),
        (("--midi-only", "--no-midi"), r"--no-midi goes with audio"),
        (("--midi-only", "--stream", "x.wav"), r"--stream goes with audio"),
        (("--midi-only", "--format", "wav"), r"--format goes with audio"),
        (("--device", "cuda"), r"--device cuda does not go with a player"),
        (("--precision", "int8"), r"--precision int8 does not go with a player"),
        (("--stem", "bass"), r"writes drums, not bass"),
    ],
)
def test_what_does_not_go_with_a_player(
    refused: Refused, tiny_player_dir: Path, write_music: Write, options: tuple[str, ...], match: str
) -> None:
    context = write_music(seconds=1.0)
    stem = () if "--stem" in options else ("--stem", "drums")
    refused("generate", context, *stem, "--model", tiny_player_dir, *options, code=2, match=match)


@pytest.mark.parametrize(
    "options", [("--kit", "studio"), ("--sounds", "x"), ("--gain", "1"), ("--no-midi",), ("--midi-only",)]
)
def test_what_goes_with_a_player_only(
    refused: Refused, tiny_model_dir: Path, write_music: Write, options: tuple[str, ...]
) -> None:
    context = write_music(seconds=0.5)
    command = ("generate", context, "--stem", "drums", "--model", tiny_model_dir)
    refused(*command, *options, code=2, match=rf"{options[0]} goes with a player")


def test_the_player_is_the_default(
    stage: Stage, tiny_player_dir: Path, tiny_model_dir: Path, write_music: Write, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hub, "ASSETS", tmp_path / "assets")
    shutil.copytree(tiny_model_dir, tmp_path / "assets" / "drums")
    context = write_music(seconds=0.5)
    command = ("generate", context, "--stem", "drums", "--json", "--overwrite")
    assert stage(*command).result["model"] == "bundled-drums"
    shutil.copytree(tiny_player_dir, tmp_path / "assets" / "players" / "drums")
    assert stage(*command).result["model"] == "player-drums"
    old = stage(*command, "--model", "bundled-drums").result
    assert (old["model"], old["midi_path"], old["note_count"], old["bpm"]) == ("bundled-drums", None, None, None)


def test_no_torch_is_imported(tiny_player_dir: Path, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=1.0)
    code = f"""
import sys
from stage_cli.cli.app import app
arguments = ["generate", {str(context)!r}, "-s", "drums", "-m", {str(tiny_player_dir)!r}, "--json"]
try:
    app(arguments)
except SystemExit as end:
    assert not end.code
print(*({{"torch", "librosa", "transformers", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    result, modules = done.stdout.splitlines()
    assert json.loads(result)["note_count"] > 0
    assert modules == ""
    assert "mix.drums.mid" in snapshot(tmp_path)
