import itertools

import numpy as np
import pytest

from stage_cli.core.music.beats import BeatGrid, constant_grid, metronome, metronome_blocks
from stage_cli.errors import UsageError

RATE = 32_000


def librosa_clicks(times, sample_rate, length):
    """librosa.clicks of librosa 0.11, written out from its documentation: the independent reference."""
    click = np.logspace(0, -10, num=round(sample_rate * 0.1), base=2.0)
    click *= np.sin(2 * np.pi * 1000.0 / sample_rate * np.arange(len(click)))
    signal = np.zeros(length + len(click))
    for start in (np.asarray(times) * sample_rate).astype(int):
        if start < length:
            signal[start : start + len(click)] += click
    return signal[:length]


def test_a_constant_grid_has_its_beats_at_multiples_of_the_period():
    grid = constant_grid(120, 4, duration=4.0, offset=0.25)
    assert grid.beats == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75], abs=1e-12)
    assert grid.downbeats == pytest.approx([0.25, 2.25], abs=1e-12)


@pytest.mark.parametrize(("beats_per_bar", "downbeats"), [(1, 12), (3, 4), (5, 3), (32, 1)])
def test_bars(beats_per_bar, downbeats):
    grid = constant_grid(180, beats_per_bar, duration=4.0)
    assert len(grid.beats) == 12
    assert grid.downbeats == grid.beats[::beats_per_bar]
    assert len(grid.downbeats) == downbeats


def test_beats_do_not_drift_and_stay_before_the_end():
    grid = constant_grid(177.7, 4, duration=24 * 3600.0)
    assert grid.beats[-1] < 24 * 3600.0 <= grid.beats[-1] + 60 / 177.7
    assert grid.beats[100_000] == pytest.approx(100_000 * 60 / 177.7, abs=1e-9)


def test_a_beat_exactly_at_the_end_is_left_out():
    assert constant_grid(60, 4, duration=3.0).beats == (0.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"bpm": 19.9}, r"`bpm` cannot be 19.9 · allowed: 20 to 400"),
        ({"bpm": 401}, "`bpm` cannot be 401"),
        ({"bpm": -120}, "`bpm`"),
        ({"bpm": float("nan")}, "`bpm` cannot be nan"),
        ({"bpm": float("inf")}, "`bpm` cannot be inf"),
        ({"beats_per_bar": 0}, r"`beats_per_bar` cannot be 0 · allowed: a whole number from 1 to 32"),
        ({"beats_per_bar": 33}, "`beats_per_bar`"),
        ({"beats_per_bar": 3.5}, "`beats_per_bar`"),
        ({"beats_per_bar": float("nan")}, "`beats_per_bar`"),
        ({"duration": 0.0}, "`duration` cannot be 0 "),
        ({"duration": -1.0}, "`duration`"),
        ({"duration": 24 * 3600 + 1}, r"`duration` .* up to 24 hours"),
        ({"duration": float("inf")}, "`duration`"),
        ({"duration": float("nan")}, "`duration`"),
        ({"offset": -0.1}, "`offset` cannot be -0.1"),
        ({"offset": 10.0}, r"`offset` cannot be 10 · allowed: seconds from 0 to below the duration \(10\)"),
        ({"offset": float("nan")}, "`offset`"),
    ],
)
def test_values_out_of_range_name_their_option(change, option):
    with pytest.raises(UsageError, match=option):
        constant_grid(**({"bpm": 120.0, "beats_per_bar": 4, "duration": 10.0, "offset": 0.0} | change))


@pytest.mark.parametrize(
    ("beats", "complaint"),
    [((-0.1,), "negative"), ((float("nan"),), "finite"), ((1.0, 1.0), "rise"), ((2.0, 1.0), "rise")],
)
def test_a_grid_that_is_none_is_refused(beats, complaint):
    with pytest.raises(ValueError, match=complaint):
        BeatGrid(beats, ())
    with pytest.raises(ValueError, match=complaint):
        BeatGrid((), beats)


@pytest.mark.parametrize("sample_rate", [32_000, 44_100, 16_000])
def test_a_metronome_is_two_librosa_click_tracks_clipped(sample_rate):
    # Times on samples of all three rates, so that rounding and librosa's truncation agree; clicks that overlap
    # (0.03 s apart), one that the end cuts, one beyond the end.
    beats = (0.0, 0.5, 0.53, 1.0, 1.5, 1.97, 2.0)
    downbeats = (0.0, 1.0, 1.97)
    length = 2 * sample_rate
    expected = librosa_clicks(beats, sample_rate, length) + librosa_clicks(downbeats, sample_rate, length)
    track = metronome(BeatGrid(beats, downbeats), 2.0, sample_rate)
    assert track.dtype == np.float32
    assert track.shape == (length,)
    assert np.abs(expected).max() > 1.5  # the clip is really tested
    np.testing.assert_allclose(track, np.clip(expected, -1, 1), atol=1e-6, rtol=0)


def test_downbeats_are_louder():
    grid = constant_grid(120, 4, duration=4.0)
    track = metronome(grid, 4.0, RATE)
    energies = [float(np.sum(track[int(beat * RATE) : int(beat * RATE) + RATE // 10] ** 2)) for beat in grid.beats]
    plain = energies[1]
    assert energies[4] == pytest.approx(energies[0], rel=1e-6)
    assert energies[2] == pytest.approx(plain, rel=1e-6)
    assert 2.5 * plain < energies[0] < 4 * plain  # 4 times without the clip


def test_the_click_is_at_1_khz():
    spectrum = np.abs(np.fft.rfft(metronome(BeatGrid((0.0,), ()), 1.0, RATE)))
    assert spectrum.argmax() == 1000  # bins of 1 Hz


@pytest.mark.parametrize("block_frames", [1, 997, 3200, 32_000, 10**9])
def test_blocks_join_to_the_whole(block_frames):
    grid = constant_grid(173.3, 3, duration=1.2, offset=0.111)
    whole = metronome(grid, 1.2, RATE)
    blocks = list(metronome_blocks(grid, 1.2, RATE, block_frames=block_frames))
    assert {len(block) for block in blocks[:-1]} <= {block_frames}
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_a_day_of_metronome_starts_at_once_and_keeps_its_blocks_small():
    grid = constant_grid(20, 4, duration=24 * 3600.0)
    first = list(itertools.islice(metronome_blocks(grid, 24 * 3600.0, RATE), 3))
    assert [len(block) for block in first] == [65_536] * 3


@pytest.mark.parametrize(("duration", "samples"), [(1e-9, 1), (1 / RATE, 1), (0.1, 3200), (1.00001, RATE)])
def test_length(duration, samples):
    assert len(metronome(BeatGrid((0.0,), (0.0,)), duration, RATE)) == samples


def test_no_beats_are_silence():
    np.testing.assert_array_equal(metronome(BeatGrid((), ()), 0.5, RATE), np.zeros(RATE // 2))


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_metronome_of_no_length_is_refused(duration):
    with pytest.raises(UsageError, match="`duration`"):
        metronome(BeatGrid((0.0,), ()), duration, RATE)
