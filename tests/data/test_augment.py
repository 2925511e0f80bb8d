"""Speed and pitch: nothing drifts, onsets land where the beats say, lengths are exact, failures are errors."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from prepared_songs import write_song

from stage_cli.core.data.augment import Augmentation, pick_augmentation, stretch
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset
from stage_cli.errors import StageError

RATE = 32_000
CHANGES = [
    Augmentation(speed, pitch) for speed, pitch in [(0.8, 0), (1.2, 0), (1.0, 4), (1.0, -4), (0.8, -4), (1.17, 3)]
]


@pytest.fixture(params=["python_stretch", "pedalboard"])
def library(request, monkeypatch):
    """Each library that may stretch, also where the other one is installed."""
    if request.param == "pedalboard":
        pytest.importorskip("pedalboard")
        monkeypatch.setitem(sys.modules, "python_stretch", None)
    return request.param


def hits(times, seconds, sample_rate=RATE, *, pitch=250.0, seed=0):
    """Drum hits with a hard attack: a falling tone with noise."""
    rng = np.random.default_rng(seed)
    audio = np.zeros(round(seconds * sample_rate), dtype=np.float32)
    time = np.arange(round(0.18 * sample_rate)) / sample_rate
    for start in times:
        sound = np.exp(-40 * time) * (np.sin(2 * np.pi * pitch * time) + 0.4 * rng.standard_normal(len(time)))
        at = round(start * sample_rate)
        part = sound[: max(0, len(audio) - at)]
        audio[at : at + len(part)] += 0.5 * part
    return audio


def onset(audio, near, sample_rate=RATE):
    """Seconds at which the energy first reaches a quarter of its peak within 0.1 s of `near`."""
    first = max(0, round((near - 0.1) * sample_rate))
    piece = audio[first : round((near + 0.1) * sample_rate)]
    energy = np.convolve(piece**2, np.ones(64) / 64, mode="same")
    return (first + int(np.argmax(energy > 0.25 * energy.max()))) / sample_rate


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("change", CHANGES)
def test_two_identical_tracks_keep_together_and_onsets_land_where_predicted(change):
    seconds, lead = 10.0, 0.24
    length = seconds * change.speed + 2 * lead
    beats = np.arange(0.3, length, 0.5)
    track = hits(beats, length)
    # The others are louder and different: they must not pull one of the first two, nor be pulled apart from them.
    other = 3 * hits(beats[::3] + 0.21, length, pitch=180, seed=1)
    audio = np.stack([track, track, other, track + 0.3 * other])
    out = stretch(audio, change, RATE, lead_frames=round(lead * RATE), frames=round(seconds * RATE))
    assert out.shape == (4, 320_000)
    assert out.dtype == np.float32
    predicted = change.move(beats, lead)
    predicted = predicted[(predicted > 0.11) & (predicted < seconds - 0.11)]
    assert len(predicted) >= 14
    first, second, mixed = (np.array([onset(out[channel], time) for time in predicted]) for channel in (0, 1, 3))
    assert np.abs(first - second).max() <= 0.002
    assert np.abs(first - mixed).max() <= 0.002
    assert np.abs(first - predicted).max() <= 0.010


@pytest.mark.parametrize("hertz", [110, 440])
@pytest.mark.parametrize("semitones", [-4, -1, 3, 4])
def test_the_pitch_moves_by_semitones_and_the_tempo_does_not_move_it(library, semitones, hertz):
    # Signalsmith's bends the lowest notes a little.
    limit = 0.4 if (library, hertz) == ("python_stretch", 110) else 0.1
    for speed in (1.0, 0.85):
        time = np.arange(round((4 * speed + 0.48) * RATE)) / RATE
        tone = (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[None]
        change = Augmentation(speed, semitones)
        out = stretch(tone, change, RATE, lead_frames=round(0.24 * RATE), frames=4 * RATE)[0]
        spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
        heard = np.fft.rfftfreq(len(out), 1 / RATE)[spectrum.argmax()]
        assert 12 * np.log2(heard / hertz) == pytest.approx(semitones, abs=limit)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("frames", [1, 31_999, 32_000, 100_003])
@pytest.mark.parametrize("speed", [0.8, 1.0, 1.2, 0.93])
def test_lengths_are_exact(frames, speed):
    lead = round(0.24 * RATE)
    audio = np.zeros((2, round(frames * speed) + 2 * lead), dtype=np.float32)
    assert stretch(audio, Augmentation(speed, 2), RATE, lead_frames=lead, frames=frames).shape == (2, frames)


@pytest.mark.usefixtures("library")
def test_the_same_input_gives_the_same_output():
    audio = hits(np.arange(0, 3, 0.5), 3.0)[None]
    one, two = (stretch(audio, Augmentation(0.9, 2), RATE, lead_frames=7680, frames=80_000) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_failure_is_an_error_and_never_the_unstretched_audio(monkeypatch):
    audio = np.zeros((2, 4000), dtype=np.float32)
    with pytest.raises(StageError, match=r"time stretch failed at speed 0\.9"):
        stretch(audio, Augmentation(0.9), RATE, lead_frames=1000, frames=100_000)
    import python_stretch

    class Broken(python_stretch.Signalsmith.Stretch):
        def process(self, audio_input):
            return np.full((2, 10_000), np.nan, dtype=np.float32)

    monkeypatch.setattr(python_stretch, "Signalsmith", SimpleNamespace(Stretch=Broken))
    with pytest.raises(StageError, match=r"time stretch failed at speed 1, \+2 semitones"):
        stretch(audio, Augmentation(1.0, 2), RATE, lead_frames=1000, frames=2000)


def test_without_a_library_it_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    monkeypatch.setitem(sys.modules, "pedalboard", None)
    audio = np.zeros((2, 4000), dtype=np.float32)
    with pytest.raises(StageError, match="needs python-stretch or pedalboard"):
        stretch(audio, Augmentation(0.9), RATE, lead_frames=1000, frames=1000)


def test_draws_are_as_published():
    config = DataConfig(("x",))
    draws = [pick_augmentation(config, np.random.default_rng(seed)) for seed in range(4000)]
    speeds = np.array([draw.speed for draw in draws if draw.speed != 1.0])
    pitches = np.array([draw.semitones for draw in draws])
    assert len(speeds) / len(draws) == pytest.approx(0.5 * 40 / 41, abs=0.03)
    assert (speeds.min(), speeds.max()) == (0.8, 1.2)
    assert speeds.mean() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(speeds, np.round(speeds, 2))
    assert set(pitches) == set(range(-4, 5))
    assert np.count_nonzero(pitches) / len(draws) == pytest.approx(0.5 * 8 / 9, abs=0.03)
    both = np.mean([draw.speed != 1.0 and draw.semitones != 0 for draw in draws])
    assert both == pytest.approx(0.25 * 40 / 41 * 8 / 9, abs=0.03)  # independent of each other
    plain = config.without_augmentation()
    assert all(pick_augmentation(plain, np.random.default_rng(seed)).is_identity for seed in range(100))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("kind", ["mix", "metronome"])
def test_items_keep_target_context_and_beats_together(tmp_path, kind):
    """The same hits in target and context, read from 44.1 kHz, resampled, stretched: both on the item's beats."""
    seconds = 40.0
    beats = np.arange(0.37, seconds - 0.2, 0.47)
    track = hits(beats, seconds, 44_100)
    write_song(tmp_path / "song", {"drums": track, "bass": track}, sample_rate=44_100, beats=beats)
    config = DataConfig((str(tmp_path),), context=kind, speed_probability=1.0, pitch_probability=1.0)
    dataset = StemDataset(config, RATE, seed=3, items_per_song=3)
    for index in range(3):
        item = dataset[index]
        assert not item.augmentation.is_identity
        assert item.target.shape == (320_000,)
        chosen = item.beats[(item.beats > 0.11) & (item.beats < len(item.context) / RATE - 0.11)]
        assert len(chosen) >= 8
        targets, contexts = (np.array([onset(audio, time) for time in chosen]) for audio in (item.target, item.context))
        assert np.abs(targets - chosen).max() <= 0.010
        assert np.abs(contexts - chosen).max() <= 0.010
        if kind == "mix":
            assert np.abs(targets - contexts).max() <= 0.002
