"""The beats of a song from what the ears make of it."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest

from stage_cli.core.players.config import GRID_CHANNELS
from stage_cli.core.players.grid import find_grid
from stage_cli.core.players.grid_channels import grid_channels, phase, pulses


def _heard(beats: np.ndarray, downbeats: np.ndarray, seconds: float, seed: int = 0) -> np.ndarray:
    """Activations as ears give them: triangles that are not certain, and noise."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * 50)
    certain = pulses(beats, frames, 50, width=1.5) * 0.5, pulses(downbeats, frames, 50, width=1.5) * 0.5
    return np.clip(np.stack(certain, axis=1) + rng.exponential(0.02, (frames, 2)), 0, 1)


@pytest.mark.parametrize("bpm", [61.0, 90.0, 128.5, 174.0])
@pytest.mark.parametrize("bar", [3, 4])
def test_a_constant_tempo_is_found_to_a_few_milliseconds(bpm: float, bar: int) -> None:
    beats = np.arange(0.37, 30, 60 / bpm)
    found = find_grid(_heard(beats, beats[::bar], 30), 50, 30.0)
    assert found.bpm == pytest.approx(bpm, rel=1e-3)
    assert found.beats_per_bar == bar
    assert mir_eval.beat.f_measure(beats, np.array(found.grid.beats), f_measure_threshold=0.01) > 0.97
    assert mir_eval.beat.f_measure(beats[::bar], np.array(found.grid.downbeats), f_measure_threshold=0.01) > 0.9
    assert found.confidence > 0.3


def test_a_drifting_tempo_is_followed() -> None:
    beats = np.cumsum(60 / (100 * np.exp(0.15 * np.sin(np.arange(80) / 12))))
    found = find_grid(_heard(beats, beats[::4], beats[-1]), 50, float(beats[-1]))
    assert mir_eval.beat.f_measure(beats, np.array(found.grid.beats), f_measure_threshold=0.04) > 0.95


def test_a_known_tempo_is_kept() -> None:
    beats = np.arange(0.2, 20, 0.5)
    heard = _heard(beats, beats[::4], 20)
    assert find_grid(heard, 50, 20.0, bpm=60.0).bpm == pytest.approx(60, rel=0.02)
    assert find_grid(heard, 50, 20.0, bpm=120.0).bpm == pytest.approx(120, rel=0.02)


def test_beats_go_on_through_silence() -> None:
    beats = np.arange(0.2, 30, 0.5)
    heard = _heard(beats, beats[::4], 30)
    heard[500:900] = 0.01
    found = np.array(find_grid(heard, 50, 30.0).grid.beats)
    assert mir_eval.beat.f_measure(beats, found, f_measure_threshold=0.02) > 0.95


@pytest.mark.parametrize("frames", [0, 1, 40])
def test_too_short_a_song_has_no_beats(frames: int) -> None:
    found = find_grid(np.full((frames, 2), 0.1), 50, frames / 50)
    assert found.grid.beats == found.grid.downbeats == ()
    assert found.bpm == found.confidence == 0


def test_silence_is_told_as_uncertain() -> None:
    assert find_grid(np.full((1000, 2), 0.02), 50, 20.0).confidence < 0.05


def test_channels_tell_pulses_phases_and_what_is_shown() -> None:
    beats = np.arange(0.1, 12, 0.5)
    channels = grid_channels(beats, beats[::4], 500, 50)
    assert channels.shape == (500, GRID_CHANNELS)
    assert channels[5, 0] == channels[5, 1] == 1
    assert channels[30, 0] == 1
    assert channels[30, 1] == 0
    assert channels[5, 2] == pytest.approx(1, abs=1e-5)  # cosine of the place in the beat
    assert (channels[:, 12:] == 1).all()
    assert (grid_channels(beats, None, 500, 50)[:, [1, 10, 11, 13]] == 0).all()
    assert (grid_channels(None, None, 500, 50) == 0).all()
    later = grid_channels(beats, beats[::4], 400, 50, start=2.0)
    np.testing.assert_allclose(later, channels[100:], atol=1e-5)


def test_a_pulse_between_two_frames_is_shared() -> None:
    np.testing.assert_allclose(pulses(np.array([0.05]), 6, 50), [0, 0, 0.5, 0.5, 0, 0], atol=1e-6)


def test_phase_goes_on_beyond_both_ends() -> None:
    np.testing.assert_allclose(phase(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.5, 3.0, 6.0])), [-1, 0.5, 1.5, 3.0])
