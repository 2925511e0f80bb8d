import math

import numpy as np
import pyloudnorm
import pytest
from scipy.signal import sosfreqz

from stage_cli.core.audio.loudness import LoudnessMeter, k_weighting

RATES = [16_000, 32_000, 44_100, 48_000, 96_000]


def measure(audio, rate, block=None):
    meter = LoudnessMeter(rate, audio.shape[1])
    for first in range(0, len(audio), block or len(audio)):
        meter.push(audio[first : first + (block or len(audio))])
    return meter


def test_every_rate_weighs_the_same_below_4_khz():
    frequencies = np.array([20.0, 50.0, 100.0, 1000.0, 2000.0, 4000.0])

    def decibels(rate):
        return 20 * np.log10(np.abs(sosfreqz(k_weighting(rate), frequencies, fs=rate)[1]))

    # 0.15 dB: the bilinear transform bends the shelf's slope where 2 kHz is a quarter of the band.
    for rate in RATES:
        np.testing.assert_allclose(decibels(rate)[:4], decibels(48_000)[:4], atol=0.05, rtol=0)
        np.testing.assert_allclose(decibels(rate), decibels(48_000), atol=0.15, rtol=0)


def noise(rate, seconds=6.0, channels=2):
    rng = np.random.default_rng(rate)
    return (0.1 * rng.standard_normal((int(seconds * rate), channels))).astype(np.float32)


def song(rate, seconds=8.0):
    """Chords with beats, a quiet verse, a silent break and a loud end: both gates have work."""
    rng = np.random.default_rng(7)
    time = np.arange(int(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * f * time + p) / n for n, (f, p) in enumerate(((55, 0), (220, 1), (1760, 2)), 1))
    hits = rng.standard_normal(len(time)) * np.exp(-20 * (time % 0.5))
    level = np.select([time < 3, time < 4.5], [0.02, 0.0], 0.25)
    left = level * (chord + hits)
    return np.stack([left, 0.5 * left + 0.1 * level * hits], axis=1).astype(np.float32)


def test_the_filters_at_48_khz_are_those_that_the_standard_prints():
    # ITU-R BS.1770-4, tables 1 and 2.
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
    np.testing.assert_allclose(k_weighting(48_000), [shelf, high_pass], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("signal", [noise, song])
def test_agrees_with_pyloudnorm(rate, signal):
    audio = signal(rate)
    reference = pyloudnorm.Meter(rate).integrated_loudness(audio.astype(np.float64))
    assert -40 < reference < 0
    # 0.05 LU: pyloudnorm approximates the standard's filters by textbook ones.
    assert measure(audio, rate).integrated == pytest.approx(reference, abs=0.05)


def test_agrees_with_pyloudnorms_exact_filters():
    rate = 48_000  # the only rate at which they are exact
    audio = song(rate)
    reference = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(audio.astype(np.float64))
    assert measure(audio, rate).integrated == pytest.approx(reference, abs=0.002)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("channels", "loudness"), [(1, -23.0), (2, -20.0)])
def test_a_sine_reads_as_the_standard_says(rate, channels, loudness):
    # BS.1770-4: 997 Hz at 0 dBFS in one channel reads −3.01 LUFS; −19.99 dBFS so reads −23.0, in two channels +3.01.
    time = np.arange(rate * 5) / rate
    sine = 10 ** (-19.99 / 20) * np.sin(2 * np.pi * 997 * time)
    meter = measure(np.repeat(sine[:, None], channels, axis=1), rate)
    assert meter.integrated == pytest.approx(loudness, abs=0.05)  # EBU Tech 3341 allows 0.1
    assert meter.peak == pytest.approx(-19.99, abs=0.01)


@pytest.mark.parametrize("channels", [5, 6])
def test_surround_channels_weigh_more_and_lfe_nothing(channels):
    def only(channel):
        audio = np.zeros((48_000, channels))
        audio[:, channel] = noise(48_000, 1.0, 1)[:, 0]
        return measure(audio, 48_000).integrated

    surround = channels - 1
    assert only(surround) - only(0) == pytest.approx(10 * math.log10(1.41), abs=1e-6)
    assert only(2) == only(0)
    if channels == 6:
        assert only(3) == -math.inf


def test_a_quiet_part_is_gated_out():
    rate = 48_000
    loud = noise(rate, 4.0)
    quiet = 10 ** (-30 / 20) * noise(rate, 20.0)
    alone = measure(loud, rate).integrated
    together = measure(np.concatenate([loud, quiet]), rate).integrated
    assert together == pytest.approx(alone, abs=0.25)  # the three blocks across the border still count
    assert measure(quiet, rate).integrated == pytest.approx(alone - 30, abs=0.1)


@pytest.mark.parametrize("rate", [11_025, 44_100])  # at 11025 Hz a tenth of a second is no whole number of frames
@pytest.mark.parametrize("block", [1_000, 4_411, 65_536])
def test_chunked_equals_whole(rate, block):
    audio = song(rate, 3.0)
    whole, chunked = measure(audio, rate), measure(audio, rate, block)
    assert chunked.integrated == pytest.approx(whole.integrated, abs=1e-9)
    assert chunked.peak == whole.peak


def test_single_frames_equal_whole():
    audio = song(8_000, 0.6)[:, :1]
    assert math.isfinite(measure(audio, 8_000).integrated)
    assert measure(audio, 8_000, 1).integrated == pytest.approx(measure(audio, 8_000).integrated, abs=1e-9)


def test_mono_blocks_may_have_one_axis():
    audio = noise(32_000, 1.0, 1)
    flat = LoudnessMeter(32_000, 1)
    flat.push(audio[:, 0])
    assert flat.integrated == measure(audio, 32_000).integrated


def test_silence_and_too_short_audio_have_no_loudness():
    silent = measure(np.zeros((48_000, 2)), 48_000)
    assert silent.integrated == -math.inf
    assert silent.peak == -math.inf
    assert measure(noise(48_000, 0.399), 48_000).integrated == -math.inf
    assert math.isfinite(measure(noise(48_000, 0.4), 48_000).integrated)
    assert LoudnessMeter(48_000, 2).integrated == -math.inf


def test_what_is_quieter_than_the_absolute_gate_has_no_loudness():
    audio = noise(48_000, 2.0)
    gain = 10 ** ((-70 - measure(audio, 48_000).integrated) / 20)  # to -70 LUFS
    assert measure(0.7 * gain * audio, 48_000).integrated == -math.inf
    assert measure(1.4 * gain * audio, 48_000).integrated == pytest.approx(-67.1, abs=0.1)


def test_the_peak_is_the_highest_sample_of_any_channel():
    audio = np.zeros((100, 2))
    audio[40, 0], audio[60, 1] = 0.25, -0.5
    assert measure(audio, 48_000, 7).peak == pytest.approx(20 * math.log10(0.5), abs=1e-12)


def test_a_block_of_the_wrong_shape_is_refused():
    meter = LoudnessMeter(48_000, 2)
    with pytest.raises(ValueError, match=r"expected blocks \[frames, 2\], got \[10, 3\]"):
        meter.push(np.zeros((10, 3)))
    with pytest.raises(ValueError, match="expected blocks"):
        meter.push(np.zeros(10))
