"""Mel scales and triangles, against closed forms and librosa."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from stage_cli.core.audio.spectra import (
    htk_hertz,
    htk_mels,
    mel_filters,
    notes_below,
    semitones,
    triangles,
)

HERTZ = np.concatenate([[0.0], np.geomspace(1, 24_000, 500), [999.999, 1000.0, 1000.001]])


def test_mels_and_hertz_are_the_inverse_of_each_other() -> None:
    np.testing.assert_allclose(htk_hertz(htk_mels(HERTZ)), HERTZ, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(htk_mels(htk_hertz(htk_mels(HERTZ))), htk_mels(HERTZ), rtol=1e-12, atol=1e-10)


def test_known_frequencies_on_htks_scale() -> None:
    # A decade above the knee is 2595 mels; 1 kHz is meant to be 1000.
    found = htk_mels(np.array([0.0, 700.0, 6300.0, 69_300.0, 1000.0]))
    np.testing.assert_allclose(found[:4], [0.0, 2595 * np.log10(2), 2595.0, 5190.0], rtol=1e-14)
    assert found[4] == pytest.approx(1000, abs=0.02)


def test_the_scale_is_librosas() -> None:
    np.testing.assert_allclose(htk_mels(HERTZ), librosa.hz_to_mel(HERTZ, htk=True), rtol=1e-12, atol=1e-12)
    steps = np.linspace(0, 60, 241)
    np.testing.assert_allclose(htk_hertz(steps), librosa.mel_to_hz(steps, htk=True), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("scale", "norm"), [("slaney", "slaney"), ("htk", None)])
@pytest.mark.parametrize(("rate", "fft", "bands", "low"), [(16_000, 512, 96, 0.0), (44_100, 2822, 96, 30.0)])
def test_filters_are_librosas(scale: str, norm: str | None, rate: int, fft: int, bands: int, low: float) -> None:
    found = mel_filters(sample_rate=rate, fft=fft, bands=bands, low=low, high=rate / 2, scale=scale)
    expected = librosa.filters.mel(sr=rate, n_fft=fft, n_mels=bands, fmin=low, htk=scale == "htk", norm=norm).T
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 if norm is None else 2e-7)


def test_vggish_filters_are_triangles_in_mels() -> None:
    found = mel_filters(sample_rate=16_000, fft=512, bands=64, low=125.0, high=7500.0, scale="vggish")
    corners = np.linspace(*htk_mels(np.array([125.0, 7500.0])), 66)
    axis = htk_mels(np.fft.rfftfreq(512, 1 / 16_000))
    np.testing.assert_allclose(found, triangles(axis, corners[:-2], corners[1:-1], corners[2:]), atol=2e-5)


def test_triangles_at_their_corners_between_and_outside() -> None:
    axis = np.array([0.0, 1.0, 1.5, 2.0, 4.0, 6.0, 7.0])
    found = triangles(axis, np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([6.0, 7.0]))
    expected = [[0, 0], [0, 0], [0.5, 0], [1, 0], [0.5, 1], [0, 1 / 3], [0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_bands_that_share_their_corners_sum_to_one_between_the_outermost_centres() -> None:
    corners = htk_hertz(np.linspace(0.0, 2840.0, 34))
    axis = np.linspace(corners[1], corners[-2], 10_001)
    found = triangles(axis, corners[:-2], corners[1:-1], corners[2:])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_the_area_is_half_of_base_by_height() -> None:
    corners = htk_hertz(np.linspace(0.0, 2840.0, 18))
    axis, step = np.linspace(0.0, 8000.0, 400_001, retstep=True)
    low, high = corners[:-2], corners[2:]
    area = triangles(axis, low, corners[1:-1], high).sum(axis=0) * step
    np.testing.assert_allclose(area, (high - low) / 2, rtol=1e-6)


def test_semitones() -> None:
    """Each filter hears its own note best, a neighbour less, and no other; each weighs as much as any other."""
    size, rate, notes = 8192, 24_000, range(57, 99)
    filters = semitones(size, rate, notes)
    assert filters.shape == (size // 2 + 1, len(notes))
    np.testing.assert_allclose(filters.sum(axis=0), 1, rtol=1e-5)
    axis = np.fft.rfftfreq(size, 1 / rate)
    for place, note in enumerate(notes):
        hertz = librosa.midi_to_hz(note)
        assert abs(axis[filters[:, place].argmax()] - hertz) <= rate / size / 2 + 1e-6
        heard = np.flatnonzero(filters[np.abs(axis - hertz).argmin()])
        assert set(heard) <= {place - 1, place, place + 1}


def test_notes_end_at_half_the_sample_rate() -> None:
    assert notes_below(440.0, range(60, 80)) == range(60, 69)
    assert notes_below(441.0, range(60, 80)) == range(60, 70)
    assert notes_below(20_000.0, range(60, 80)) == range(60, 80)
    with pytest.raises(ValueError, match="1000 Hz hold no note of 523 Hz"):
        semitones(512, 1000, range(60, 73))
