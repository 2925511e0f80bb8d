"""Beats, onsets and keys of audio whose truth is known: clicks and tones made here, and the band's own scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import mir_eval
import numpy as np
import pytest
import soxr

from stage_cli.core.band.composer import compose
from stage_cli.core.band.demo_data import compose_and_render
from stage_cli.core.band.score import Score
from stage_cli.core.evaluation.metrics import beat_f1, tempo_error
from stage_cli.core.evaluation.systems import click_drum, silence
from stage_cli.core.music import rhythm as rhythm_module
from stage_cli.core.music.detection import find_key, find_onsets, track_beats

RATE = 32_000


def placed(sound: Callable[[np.ndarray], np.ndarray], times: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Add a sound, a function of its own time in seconds, at each time."""
    audio = np.zeros(round(seconds * rate))
    own = np.arange(round(0.3 * rate)) / rate
    for time in times:
        at = round(time * rate)
        part = sound(own)[: len(audio) - at]
        audio[at : at + len(part)] += part
    return audio.astype(np.float32)


def click(time: np.ndarray) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 1000 * time) * 2.0 ** (-100 * time)


def kick(time: np.ndarray) -> np.ndarray:
    return 0.8 * np.sin(2 * np.pi * (50 * time + 2 * (1 - np.exp(-30 * time)))) * np.exp(-18 * time)


def hat(time: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(time))
    return 0.05 * np.diff(noise, prepend=0.0) * np.exp(-60 * time)


def plucked_bass(time: np.ndarray) -> np.ndarray:
    partials = sum(np.sin(2 * np.pi * 55 * n * time) / n for n in range(1, 9))
    return 0.3 * partials * np.exp(-6 * time) * np.minimum(1, time / 0.003) * np.minimum(1, (0.3 - time) / 0.02)


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
@pytest.mark.parametrize("sound", [click, kick, hat, plucked_bass])
def test_onsets_are_found_to_10_ms(sound: Callable[[np.ndarray], np.ndarray], rate: int) -> None:
    rng = np.random.default_rng(rate)
    times = 0.2 + np.cumsum(rng.uniform(0.11, 0.5, 30))
    audio = placed(sound, times, times[-1] + 0.5, rate)
    for peak in (1.0, 0.03):
        onsets = find_onsets(audio * np.float32(peak / np.abs(audio).max()), rate)
        assert len(onsets) == len(times)
        assert np.abs(onsets - times).max() < 0.01


def test_strokes_of_all_loudnesses() -> None:
    times = np.arange(0.3, 9, 0.25)
    loud, quiet = placed(kick, times[::2], 9.5, RATE), placed(hat, times[1::2], 9.5, RATE)
    onsets = find_onsets(loud + 0.3 * quiet, RATE)  # a hat 30 dB below the kick
    assert len(onsets) == len(times)
    assert np.abs(onsets - times).max() < 0.01


def test_what_hums_has_no_onsets() -> None:
    time = np.arange(4 * RATE) / RATE
    sawtooth = 0.3 * (2 * (41.2 * time % 1) - 1)  # the lowest E of a bass: a period of 24 ms
    vibrato = 0.3 * np.sin(2 * np.pi * 220 * time + np.sin(2 * np.pi * 6 * time))  # half a semitone up and down
    for audio in (sawtooth, vibrato):
        tail = np.minimum(1, (4 - time) / 0.5)
        begun = np.concatenate((np.zeros(RATE // 2), audio * tail)).astype(np.float32)
        onsets = find_onsets(begun, RATE)
        assert len(onsets) == 1
        assert onsets[0] == pytest.approx(0.5, abs=0.01)
        assert not len(find_onsets((audio * tail).astype(np.float32), RATE))  # it has begun before the clip


@pytest.mark.parametrize("late", [0.0, 0.002, 0.006])
def test_the_first_sample_may_be_an_onset(late: float) -> None:
    times = np.array([late, 0.5, 1.0])
    onsets = find_onsets(placed(click, times, 1.5, RATE), RATE)
    assert len(onsets) == 3
    assert np.abs(onsets - times).max() < 0.01


def test_silence_has_no_onsets() -> None:
    assert find_onsets(silence(10, RATE), RATE).shape == (0,)
    assert find_onsets(np.zeros(0), RATE).shape == (0,)
    assert not len(find_onsets(0.0099 * placed(click, np.array([1.0]), 2, RATE), RATE))
    assert len(find_onsets(placed(click, np.array([0.02]), 0.1, RATE), RATE)) == 1  # shorter than a window


@pytest.fixture(scope="module")
def band() -> list[tuple[Score, dict[str, np.ndarray]]]:
    """Scores and stems."""
    return [(compose(77, index, 10.0), compose_and_render(77, index, 10.0)) for index in range(4)]


@pytest.mark.parametrize(("stem", "precision", "recall"), [("drums", 0.97, 0.93), ("bass", 0.9, 0.95)])
def test_onsets_of_the_band(
    band: list[tuple[Score, dict[str, np.ndarray]]], stem: str, precision: float, recall: float
) -> None:
    """Against the composer's notes within ±30 ms; notes less than 25 ms apart count as one."""
    right = analysis = written = 0
    for score, stems in band:
        audio = stems[stem].mean(axis=1)
        notes = sorted(note.onset for part in score.parts if part.stem == stem for note in part.notes)
        truth = notes[:1]
        for note in notes:
            if note - truth[-1] > 0.025:
                truth.append(note)
        onsets = find_onsets(audio, 44_100)
        pairs = mir_eval.util.match_events(np.array(truth), onsets, 0.03)
        errors = np.array([onsets[there] - truth[here] for here, there in pairs])
        assert abs(np.median(errors)) < 0.004
        right, analysis, written = right + len(pairs), analysis + len(onsets), written + len(truth)
    assert written > 45
    assert right / analysis > precision
    assert right / written > recall


@pytest.mark.parametrize("bpm", [72, 96, 120.5, 144, 168])
def test_beats_of_a_click_drum(bpm: float) -> None:
    beats = np.arange(0.17, 9.9, 60 / bpm)
    rhythm = track_beats(click_drum(beats, 10, RATE), RATE)
    assert beat_f1(beats, rhythm.beats) > 0.95
    assert tempo_error(rhythm.bpm, bpm) < 0.005
    assert rhythm.source == "essentia"


def test_beats_lie_in_the_audio() -> None:
    beats = np.arange(0.0, 12, 0.5)
    rhythm = track_beats(click_drum(beats, 7.3, RATE), RATE)
    assert rhythm.beats[0] >= 0
    assert rhythm.beats[-1] < 7.3
    assert set(rhythm.downbeats) <= set(rhythm.beats)


def test_no_beats() -> None:
    for audio in (silence(10, RATE), silence(0, RATE), click_drum([0.5, 1.0], 1.5, RATE)):
        rhythm = track_beats(audio, RATE)
        assert (rhythm.beats, rhythm.bpm) == ((), None)


def test_beat_this_is_asked_if_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def analyse(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
        assert (audio.dtype, audio.shape, rate) == (np.float32, (5 * 44_100,), 44_100)
        return np.array([0.5, 1.0, 1.5, 5.5]), np.array([0.5, 5.5])

    monkeypatch.setattr(rhythm_module, "tracker", lambda _: analyse)
    rhythm = track_beats(click_drum([0.5, 1.0, 1.5], 5, RATE) + 0.01, RATE, tracker="beat-this")
    assert (rhythm.beats, rhythm.downbeats, rhythm.source) == ((0.5, 1.0, 1.5), (0.5,), "beat-this")


def test_the_key_of_a_cadence() -> None:
    time = np.arange(RATE) / RATE
    chords = [(57, 60, 64), (62, 65, 69), (56, 59, 64), (57, 60, 64)]  # A minor, D minor, E, A minor
    audio = np.concatenate([
        sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * n * time) / n for pitch in chord for n in (1, 2, 3))
        for chord in chords
    ])  # fmt: skip
    key = find_key((0.1 * audio).astype(np.float32), RATE)
    assert key is not None
    assert (key.tonic, key.scale) == ("A", "minor")
    assert find_key(silence(5, RATE), RATE) is None


@pytest.mark.parametrize("detector", [find_onsets, track_beats, find_key])
def test_bad_audio(detector: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"must be mono, \[samples\], not \[2, 100\]"):
        detector(np.zeros((2, 100)), RATE)
    with pytest.raises(ValueError, match="audio must be finite"):
        detector(np.array([0.0, math.nan]), RATE)
    with pytest.raises(ValueError, match="sample rate must be above 0 Hz, not 0"):
        detector(np.zeros(100), 0)


def test_unknown_tracker() -> None:
    with pytest.raises(ValueError, match="tracker must be one of essentia, beat-this, librosa, not 'madmom'"):
        track_beats(silence(1, RATE), RATE, tracker="madmom")


def test_a_click_drum_clicks_alike_on_every_beat() -> None:
    audio = click_drum([0.0, 0.5, 1.25], 1.5, RATE)
    assert (audio.shape, audio.dtype) == ((48_000,), np.float32)
    starts = [0, 16_000, 40_000]
    for start in starts:
        np.testing.assert_array_equal(audio[start : start + 3200], audio[:3200])
    assert np.abs(audio).max() == pytest.approx(0.5, abs=0.02)
    assert not audio[3200:16_000].any()
    assert not click_drum([], 1.0, RATE).any()
    with pytest.raises(ValueError, match="beats must rise"):
        click_drum([1.0, 0.5], 2.0, RATE)


def test_resampling_moves_no_onset() -> None:
    times = np.array([0.5, 1.1, 1.9])
    audio = placed(click, times, 2.5, 48_000)
    for rate in (16_000, 22_050, 44_100):
        onsets = find_onsets(soxr.resample(audio, 48_000, rate), rate)
        assert np.abs(onsets - times).max() < 0.01
