"""What players listen to: the same frames at any rate and in any pieces."""

from __future__ import annotations

import numpy as np
import pytest

from stage_cli.core.players.config import FeatureSettings
from stage_cli.core.players.features import FLOOR_DB, LogMel, add_powers, log_mel

BANDS = FeatureSettings().bands


def _whole(audio: np.ndarray, rate: int) -> np.ndarray:
    return np.concatenate(list(log_mel([audio], rate)))


def _sine(rate: int, hertz: float = 1000.0, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_a_sine_has_its_power_at_every_rate(rate: int) -> None:
    frames = _whole(_sine(rate), rate)
    assert frames.shape == (50, BANDS)
    powers = 10 ** (frames[10:40] / 10)
    assert 10 * np.log10(powers.sum(axis=1)) == pytest.approx(10 * np.log10(0.125), abs=0.1)
    assert set(frames[10:40].argmax(axis=1)) == {_whole(_sine(44_100), 44_100)[25].argmax()}


@pytest.mark.parametrize("rate", [11_025, 44_100])
def test_pieces_give_the_frames_of_the_whole(rate: int) -> None:
    rng = np.random.default_rng(0)
    audio = rng.normal(size=3 * rate).astype(np.float32)
    pieces, at = [], 0
    while at < len(audio):
        size = int(rng.integers(1, 3000))
        pieces.append(audio[at : at + size])
        at += size
    found = np.concatenate(list(log_mel(pieces, rate)))
    np.testing.assert_allclose(found, _whole(audio, rate), atol=1e-3)


@pytest.mark.parametrize("samples", [1, 881, 882, 883, 44_100, 44_101])
def test_frames_are_those_centred_before_the_end(samples: int) -> None:
    frames = _whole(np.zeros(samples, np.float32), 44_100)
    assert len(frames) == FeatureSettings().frames(samples, 44_100) == int(np.ceil(samples / 882))
    assert (frames == FLOOR_DB).all()


def test_no_audio_has_no_frames() -> None:
    stream = LogMel(44_100)
    assert len(stream.push(np.zeros(0, np.float32))) == len(stream.finish()) == 0


def test_a_click_is_in_the_frames_around_it() -> None:
    audio = np.zeros(44_100, np.float32)
    audio[22_050] = 1
    heard = _whole(audio, 44_100).max(axis=1) > FLOOR_DB + 1
    assert heard[25]
    assert set(np.flatnonzero(heard)) <= {24, 25, 26}


def test_channels_are_averaged() -> None:
    left = np.random.default_rng(1).normal(size=8000).astype(np.float32)
    both = np.stack([left, np.zeros_like(left)], axis=1)
    np.testing.assert_allclose(np.concatenate(list(log_mel([both], 8000))), _whole(left / 2, 8000), atol=1e-3)


def test_powers_of_incoherent_stems_add() -> None:
    rng = np.random.default_rng(2)
    stems = rng.normal(size=(2, 8 * 44_100)).astype(np.float32)
    levels = np.stack([_whole(stem, 44_100) for stem in stems])
    together = _whole(stems.sum(axis=0), 44_100)
    difference = 10 * np.log10((10 ** (together / 10)).mean(axis=0) / (10 ** (add_powers(levels) / 10)).mean(axis=0))
    assert np.abs(difference).mean() < 0.3
    np.testing.assert_allclose(add_powers(levels[:1], np.array([-6.0])), levels[0] - 6, atol=1e-3)


def test_settings_are_checked() -> None:
    for wrong in ({"bands": 0}, {"lowest": 100.0, "highest": 50.0}, {"window": 0.0}, {"frame_rate": 0}):
        with pytest.raises(ValueError, match="no features"):
            FeatureSettings(**wrong)  # ty: ignore[invalid-argument-type]
