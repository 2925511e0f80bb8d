"""Mel scales and triangles, against closed forms and librosa."""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import pytest

from stage_cli.core.audio.spectra import (
    htk_hertz,
    htk_mels,
    notes_below,
    semitones,
    slaney_hertz,
    slaney_mels,
    triangles,
)

HERTZ = np.concatenate([[0.0], np.geomspace(1, 24_000, 500), [999.999, 1000.0, 1000.001]])

Scale = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(("mels", "hertz"), [(htk_mels, htk_hertz), (slaney_mels, slaney_hertz)])
def test_scales_are_the_inverse_of_each_other(mels: Scale, hertz: Scale) -> None:
    np.testing.assert_allclose(hertz(mels(HERTZ)), HERTZ, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(mels(hertz(mels(HERTZ))), mels(HERTZ), rtol=1e-12, atol=1e-10)


def test_known_frequencies_on_htks_scale() -> None:
    # A decade above the knee is 2595 mels; 1 kHz is meant to be 1000.
    found = htk_mels(np.array([0.0, 700.0, 6300.0, 69_300.0, 1000.0]))
    np.testing.assert_allclose(found[:4], [0.0, 2595 * np.log10(2), 2595.0, 5190.0], rtol=1e-14)
    assert found[4] == pytest.approx(1000, abs=0.02)


def test_known_frequencies_on_slaneys_scale() -> None:
    # 15 mels of 200 / 3 Hz up to 1 kHz, then 27 up to 6.4 kHz, each as many times the one before.
    hertz = np.array([0.0, 200 / 3, 400.0, 1000.0, 1000 * 6.4 ** (1 / 27), 6400.0])
    np.testing.assert_allclose(slaney_mels(hertz), [0, 1, 6, 15, 16, 42], rtol=1e-14)
    np.testing.assert_allclose(slaney_hertz(np.array([0, 1, 6, 15, 16, 42])), hertz, rtol=1e-14)


@pytest.mark.parametrize(("mels", "hertz", "htk"), [(htk_mels, htk_hertz, True), (slaney_mels, slaney_hertz, False)])
def test_scales_are_librosas(mels: Scale, hertz: Scale, htk: bool) -> None:
    np.testing.assert_allclose(mels(HERTZ), librosa.hz_to_mel(HERTZ, htk=htk), rtol=1e-12, atol=1e-12)
    steps = np.linspace(0, 60, 241)
    np.testing.assert_allclose(hertz(steps), librosa.mel_to_hz(steps, htk=htk), rtol=1e-12, atol=1e-10)


def test_triangles_at_their_corners_between_and_outside() -> None:
    axis = np.array([0.0, 1.0, 1.5, 2.0, 4.0, 6.0, 7.0])
    found = triangles(axis, np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([6.0, 7.0]))
    expected = [[0, 0], [0, 0], [0.5, 0], [1, 0], [0.5, 1], [0, 1 / 3], [0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_bands_that_share_their_corners_sum_to_one_between_the_outermost_centres() -> None:
    corners = slaney_hertz(np.linspace(0.0, 45.0, 34))
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
