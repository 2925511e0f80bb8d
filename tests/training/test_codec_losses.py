"""The losses of a codec's training: zero for the same audio, larger for what is further away, and with gradients."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from stage_cli.core.training.codec.losses import RESOLUTIONS, mel_filters, spectra, spectral_losses

RATE = 16_000


def tone(frequency: float, phase: float = 0.0) -> torch.Tensor:
    time = torch.arange(RATE) / RATE
    return 0.5 * torch.sin(2 * torch.pi * frequency * time + phase)[None]


def test_spectra_are_scaled_to_full_scale_sines() -> None:
    for size, _ in RESOLUTIONS:
        frequency = RATE / size * (size // 8)  # the middle of a bin
        peak = spectra(2 * tone(frequency), size).abs()[0, 4:-4].amax(dim=-1)
        torch.testing.assert_close(peak, torch.ones_like(peak), atol=0.02, rtol=0)


def test_the_same_audio_costs_nothing() -> None:
    audio = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert {name: round(float(loss), 6) for name, loss in spectral_losses(audio, audio, RATE).items()} == {
        "mel": 0.0,
        "spectrum": 0.0,
        "phase": 0.0,
        "level": 0.0,
    }


def test_each_loss_hears_what_it_should() -> None:
    true = tone(440)
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    near, far = (spectral_losses(true + level * noise, true, RATE) for level in (0.003, 0.03))
    assert all(0 < near[name] < far[name] for name in near)
    # A tone of another phase sounds the same: only the complex spectra differ much.
    turned = spectral_losses(tone(440, phase=1.5), true, RATE)
    assert turned["mel"] < 0.05
    assert turned["phase"] > 20 * spectral_losses(tone(440, phase=0.05), true, RATE)["phase"]
    # Half as loud is log10(2) in every band that sounds.
    assert float(spectral_losses(0.5 * noise, noise, RATE)["mel"]) == pytest.approx(0.301, abs=0.003)


def test_gradients_are_finite_also_where_audio_is_silent() -> None:
    made = torch.zeros(1, 4000, requires_grad=True)
    sum(spectral_losses(made, tone(300)[:, :4000], RATE).values()).backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert float(made.grad.abs().sum()) > 0


@pytest.mark.parametrize(("size", "bands"), RESOLUTIONS)
def test_mel_filters(size: int, bands: int) -> None:
    filters = mel_filters(size, bands, RATE)
    assert filters.shape == (size // 2 + 1, bands)
    torch.testing.assert_close(filters.sum(dim=0), torch.ones(bands))
    # Where librosa's filters are wider than the bins, ours are the same.
    reference = librosa.filters.mel(sr=RATE, n_fft=size, n_mels=bands, htk=True, norm=None).T
    wide = (reference > 0).sum(axis=0) > 6
    assert wide.any()
    np.testing.assert_allclose(filters.numpy()[:, wide], reference[:, wide] / reference[:, wide].sum(axis=0), atol=2e-3)
