"""The models that the package carries, as a user meets them: no network, no options, and they follow what they hear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stage_cli.core.accompany import AccompanySettings
from stage_cli.core.contexts import FileContext, MetronomeContext
from stage_cli.core.evaluation.metrics import onset_f
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel
from stage_cli.core.music.detection import find_onsets
from stage_cli.core.stem_files import StemRequest, write_stems
from stage_cli.core.weights.hub import ASSETS, bundled_name, bundled_stems

EXAMPLE = Path(__file__).parents[1] / "docs" / "audio" / "example.flac"
SECONDS = 10.0
TEMPOS = (84.0, 101.0, 117.0, 139.0, 163.0)


@pytest.fixture(scope="module")
def drums() -> StageModel:
    return StageModel.from_pretrained("bundled-drums", device="cpu", offline=True)


def test_there_are_drums_and_they_are_small() -> None:
    assert "drums" in bundled_stems()
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size <= 42e6  # the wheel is to stay under 45 MB
    for stem in bundled_stems():
        model = StageModel.from_pretrained(bundled_name(stem) or "", device="cpu", offline=True)
        assert model.config.stem == stem
        assert model.config.licence == "MIT"


@pytest.mark.parametrize("stem", bundled_stems())
def test_int8_says_what_float32_says(stem: str) -> None:
    """Their weights are stored as int8: only activations are rounded, to two bytes."""
    name, logits = bundled_name(stem) or "", {}
    codes = torch.randint(1024, (2, 1, 4, 100), generator=torch.Generator().manual_seed(0))
    for precision in ("float32", "int8"):
        model = StageModel.from_pretrained(name, device="cpu", precision=precision, offline=True)
        with torch.inference_mode():
            logits[precision] = model.lm(*delayed_sequence(*codes, model.config.lm), context_steps=101)
    difference = (logits["int8"] - logits["float32"]).pow(2).mean().sqrt()
    assert 0 < difference < 0.002 * logits["float32"].pow(2).mean().sqrt()


def test_drums_follow_clicks(drums: StageModel, tmp_path: Path) -> None:
    own, others = [], []
    config = GenerationConfig(seed=3).for_model(drums.config.sampling_for(metronome=True), [])
    for place, tempo in enumerate(TEMPOS):
        path = tmp_path / f"{tempo:g}.wav"
        request = StemRequest(MetronomeContext(tempo, duration=SECONDS), "drums", (path,))
        write_stems(drums, request, AccompanySettings(config))
        audio, rate = soundfile.read(path, dtype="float32")
        assert len(audio) == SECONDS * rate
        assert 0.05 < np.abs(audio).max() <= 1
        onsets = find_onsets(audio, rate)
        other = TEMPOS[(place + 1) % len(TEMPOS)]
        own.append(onset_f(onsets, np.arange(0, SECONDS, 60 / tempo), SECONDS))
        others.append(onset_f(onsets, np.arange(0, SECONDS, 60 / other), SECONDS))
    # Measured on 48 songs in docs/dev/bundled-models.md; five clips may be a little worse.
    assert np.mean(own) > 0.7, own
    assert np.mean(own) - np.mean(others) > 0.35, others


def test_bass_is_low_and_not_silent(tmp_path: Path) -> None:
    bass = StageModel.from_pretrained("bundled-bass", device="cpu", offline=True)
    shares = []
    for seed in (1, 2, 3):
        config = GenerationConfig(seed=seed).for_model(bass.config.sampling_for(metronome=False), [])
        path = tmp_path / f"bass-{seed}.wav"
        write_stems(bass, StemRequest(FileContext(EXAMPLE, 0.0, 6.0), "bass", (path,)), AccompanySettings(config))
        audio, rate = soundfile.read(path, dtype="float32")
        assert 0.05 < np.abs(audio).max() <= 1
        power = np.abs(np.fft.rfft(audio)) ** 2
        shares.append(power[np.fft.rfftfreq(len(audio), 1 / rate) < 500].sum() / power.sum())
    # Of nine in ten true basses of demo songs it is more than 0.85; the codec adds noise.
    assert np.mean(shares) > 0.65, shares


@pytest.mark.parametrize(("chosen", "other"), [({"advance": 0.9}, "lookahead"), ({"lookahead": 0.5}, "advance")])
def test_one_of_its_windows_settings_can_be_typed_alone(chosen: dict[str, float], other: str) -> None:
    model = StageModel.from_pretrained("bundled-drums", device="cpu", offline=True)
    for metronome in (False, True):
        own = model.config.sampling_for(metronome=metronome)
        config = GenerationConfig.from_options(chosen).for_model(own, chosen)
        ((name, value),) = chosen.items()
        assert getattr(config, name) == value
        assert getattr(config, other) == pytest.approx(min(own[other], 1 - value))
