"""The front door for Python: every example of docs/python.md, what a stem is, and what is refused."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import stage_cli
from stage_cli.cli.app import app
from stage_cli.core.accompany import AccompanySettings, Stem, read_context
from stage_cli.core.contexts import ArrayContext
from stage_cli.core.model import StageModel
from stage_cli.core.weights import hub
from stage_cli.errors import StageError, UsageError

Write = Callable[..., Path]
PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_examples_of_the_page(
    tiny_model_dir: Path, tiny_player_dir: Path, write_music: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in their order, in one session; tiny models stand for the bundled and for the trained ones."""
    monkeypatch.chdir(tmp_path)
    write_music(seconds=3.0)
    for name in ("songs/a.wav", "songs/b.wav"):
        write_music(name, seconds=1.0)
    (tmp_path / "songs" / "broken.wav").write_bytes(b"RIFF")
    shutil.copytree(tiny_model_dir, tmp_path / "runs/drums/model")
    monkeypatch.setattr(hub, "ASSETS", tmp_path / "assets")
    shutil.copytree(tiny_model_dir, tmp_path / "assets" / "drums")
    shutil.copytree(tiny_player_dir, tmp_path / "assets" / "players" / "drums")
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    session: dict[str, Any] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"example {number + 1} of {PAGE.name}", "exec"), session)
    assert len(examples) >= 6
    assert session["blocks"].qsize() >= 4
    assert [take.seed for take in session["takes"]] == [10, 11, 12]
    assert session["mix"].shape == (2, 88200)
    written = {path.name for path in tmp_path.rglob("*.*") if path.suffix in (".wav", ".flac")}
    assert (tmp_path / "drums.mid").read_bytes()[:4] == b"MThd"
    assert {"drums.wav", "waltz.flac", "a.drums.wav", "b.drums.wav"} <= written
    assert "broken.drums.wav" not in written
    command = ["generate", "--context", "mix.wav", "--stem", "drums", "--seed", "1", "--output", "same.wav"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "same.wav").read_bytes() == (tmp_path / "drums.wav").read_bytes()


def test_importing_the_package_is_light() -> None:
    code = "import sys, stage_cli; print({'torch', 'numpy', 'typer', 'soundfile'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    assert (stage_cli.StageModel, stage_cli.Stem, stage_cli.StageError) == (StageModel, Stem, StageError)


def test_the_models_own_sampling_is_the_default(tiny_model: StageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"sampling": {"top_k": 3, "guidance": 1.5}, "metronome_sampling": {"top_k": 7}}
    monkeypatch.setattr(tiny_model, "config", replace(tiny_model.config, **own))
    seen: list[dict[str, float]] = []
    generate = StageModel.generate

    def noting(model: StageModel, context: Any, config: Any, **options: Any) -> Any:
        seen.append(config.sampling)
        return generate(model, context, config, **options)

    monkeypatch.setattr(StageModel, "generate", noting)
    tone = np.sin(np.arange(4000) / 9).astype(np.float32)
    tiny_model.accompany(tone, sample_rate=8000, seed=1)
    tiny_model.accompany(tone, sample_rate=8000, seed=1, top_k=9)
    tiny_model.accompany(bpm=120, duration=0.5, seed=1)
    assert [(sampling["top_k"], sampling["guidance"]) for sampling in seen] == [(3, 1.5), (9, 1.5), (7, 1.5)]


def test_an_array_keeps_its_rate_and_length(tiny_model: StageModel) -> None:
    """48 kHz is not taken for the codec's 8 kHz: the same sound at both rates gives nearly the same codes."""
    time = {rate: np.arange(rate) / rate for rate in (8000, 48000)}
    sound = {rate: (0.5 * np.sin(2 * np.pi * 220 * t)).astype(np.float32) for rate, t in time.items()}
    stems = {rate: tiny_model.accompany(sound[rate], sample_rate=rate, temperature=0, seed=0) for rate in time}
    for rate, stem in stems.items():
        assert (stem.audio.shape, stem.audio.dtype, stem.sample_rate) == ((rate,), np.float32, rate)
    codes = [
        read_context(tiny_model, ArrayContext(sound[rate], rate), AccompanySettings()).context for rate in (8000, 48000)
    ]
    assert codes[0].shape == codes[1].shape
    assert (codes[0] == codes[1]).float().mean() > 0.9


def test_live_blocks_are_the_stem(tiny_model: StageModel) -> None:
    blocks: list[np.ndarray] = []
    quiet = tiny_model.accompany(bpm=120, duration=1.5, seed=3)
    stem = tiny_model.accompany(bpm=120, duration=1.5, seed=3, on_audio=blocks.append)
    assert np.array_equal(stem.audio, quiet.audio), "whoever listens changes nothing"
    live = np.concatenate(blocks) * 10 ** (-stem.turned_down / 20)
    assert len(blocks) >= 4
    np.testing.assert_allclose(live, stem.audio, atol=1e-4)


def test_a_notebook_shows_a_player(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    stem = Stem(audio, 8000, 5, "<drums>", -6.0, -20.0)
    shown = stem._repr_html_()
    assert "&lt;drums&gt;" in shown
    encoded = re.search(r'<audio controls src="data:audio/flac;base64,([^"]+)">', shown)
    assert encoded is not None
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded[1])))
    assert rate == 8000
    np.testing.assert_allclose(samples, audio, atol=2**-15)
    monkeypatch.setattr("stage_cli.core.accompany._PLAYER_SAMPLES", 4000)
    assert "the first 0 s" in stem._repr_html_()
    assert len(stem._repr_html_()) < len(shown)
    assert repr(stem) == "Stem(<drums>, 1.00 s, 1 × 8000 Hz, seed 5, -20.0 LUFS)"


TONE = np.zeros(100, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((), {}, "nothing to accompany"),
        ((TONE,), {}, "`sample_rate` is missing"),
        (("mix.wav",), {"sample_rate": 8000}, "`sample_rate` goes with an array"),
        ((ArrayContext(TONE, 8000),), {"start": 0.1}, "do not go with ArrayContext"),
        ((TONE,), {"bpm": 120}, "`bpm` makes its own context"),
        ((), {"bpm": 120, "start": 1.0}, "`bpm` makes its own context.*leave out `start`"),
        ((TONE,), {"sample_rate": 8000, "offset": 1.0}, "`offset` goes with `bpm` only"),
        ((TONE,), {"sample_rate": 0}, "`sample_rate` cannot be 0"),
        ((TONE,), {"sample_rate": 44100.5}, "`sample_rate` cannot be"),
        ((TONE,), {"sample_rate": 8000, "start": 1.0}, "`start` cannot be 1"),
        ((TONE,), {"sample_rate": 8000, "start": 0.01249}, "`start` cannot be"),
        ((TONE,), {"sample_rate": 8000, "duration": 0.0}, "`duration` cannot be 0"),
        ((TONE,), {"sample_rate": 8000, "description": " "}, "`description` is empty"),
        ((TONE,), {"sample_rate": 8000, "description": "Rock"}, "takes no description"),
        ((TONE,), {"sample_rate": 8000, "guidance": -1.0}, "guidance"),
        ((TONE,), {"sample_rate": 8000, "continuation": TONE}, "`continuation` .* is as long as the context"),
        ((np.zeros((100, 2), dtype=np.float32),), {"sample_rate": 8000}, r"100 channels of 2.*transpose"),
        ((np.zeros((2, 2, 9), dtype=np.float32),), {"sample_rate": 8000}, "shape"),
        ((np.zeros(0, dtype=np.float32),), {"sample_rate": 8000}, "shape"),
        ((np.zeros(100, dtype=np.int16),), {"sample_rate": 8000}, "int16.*divide"),
        ((np.full(100, np.nan, dtype=np.float32),), {"sample_rate": 8000}, "not audio"),
    ],
)  # fmt: skip
def test_what_is_refused(tiny_model: StageModel, arguments: tuple, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        tiny_model.accompany(*arguments, **options)


def test_a_stem_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    stem = Stem(np.zeros((2, 800), dtype=np.float32), 8000, 1, "drums", -np.inf, -np.inf)
    for name in ("a/stem.wav", "a/stem.flac"):
        assert stem.save(tmp_path / name) == tmp_path / name
        assert soundfile.info(tmp_path / name).channels == 2
    with pytest.raises(UsageError, match="already exists"):
        stem.save(tmp_path / "a/stem.wav", overwrite=False)
    with pytest.raises(UsageError, match=r"cannot be written as stem\.mp3"):
        stem.save(tmp_path / "stem.mp3")
