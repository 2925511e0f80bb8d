"""The losses of a codec's training: zero for the same audio, larger for what is further away, and with gradients."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from stage_cli.core.codec.config import SpectralConfig
from stage_cli.core.codec.spectral import COMPRESSION, SpectralCodec, tone_levels
from stage_cli.core.training.codec_task import (
    RESOLUTIONS,
    CodecInputs,
    CodecModule,
    initialise_weights,
    mel_filters,
    spectra,
    spectral_losses,
    tone_loss,
)
from stage_cli.core.training.settings import CodecTrainConfig

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
        "pitch": 0.0,
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


def test_a_semitone_is_heard_in_the_pitch_and_hardly_in_the_mels() -> None:
    """A low E and an F: one mel band holds both, two semitones do not."""
    low, high = tone(82.41), tone(87.31)
    losses = spectral_losses(high, low, RATE)
    assert losses["pitch"] > 2 * losses["mel"]
    out_of_tune = spectral_losses(tone(82.41 * 2 ** (5 / 1200)), low, RATE)
    assert out_of_tune["pitch"] < 0.2 * losses["pitch"]


# Tones ---------------------------------------------------------------------------------------------------------------

CONFIG = SpectralConfig(tones=72)


def note(midi: float, seconds: float = 2.0, level: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(seconds * 24_000), dtype=torch.float64) / 24_000
    return (level * torch.sin(2 * torch.pi * 440 * 2 ** ((midi - 69) / 12) * time)).float()


def amplitudes(audio: torch.Tensor) -> torch.Tensor:
    """`[n, tones]`, without the windows that reach beyond the ends."""
    return (tone_levels(audio[None], CONFIG) ** (1 / COMPRESSION))[0, 20:-20]


@pytest.mark.parametrize("midi", [33, 40, 52, 69, 90])
def test_a_note_is_its_tone(midi: int) -> None:
    found = amplitudes(note(midi))
    torch.testing.assert_close(found[:, midi - 28], torch.full((len(found),), 0.5), atol=0.1, rtol=0)
    found[:, midi - 28] = 0
    assert found.max() < 0.06


def test_a_note_between_two_tones_is_shared() -> None:
    found = amplitudes(note(60.5))
    shares = found[:, 60 - 28 : 62 - 28]
    assert shares.min() > 0.15
    assert shares.max() < 0.3
    assert found.count_nonzero(dim=1).eq(2).all()


def test_chords_are_told_apart() -> None:
    found = amplitudes(sum((note(midi, level=0.2) for midi in (45, 52, 57, 61)), torch.zeros(48_000)))
    assert (found.mean(dim=0) > 0.1).nonzero()[:, 0].add(28).tolist() == [45, 52, 57, 61]


def test_noise_and_clicks_are_no_tones() -> None:
    noise = 0.2 * torch.randn(48_000, generator=torch.Generator().manual_seed(0))
    click = torch.zeros(48_000)
    click[::12_000] = 1.0
    for audio in (noise, click, torch.zeros(48_000)):
        tonal, whole = amplitudes(audio).square().sum(dim=1).mean(), audio.square().mean()
        assert tonal < 0.01 * max(float(whole), 1e-4)


def test_a_note_begins_when_it_begins() -> None:
    """The short window tells when, not the long one: 30 ms before it is quiet, 30 ms after it is there."""
    audio = note(45)
    audio[:24_000] = 0
    found = tone_levels(audio[None], CONFIG)[0, :, 45 - 28] ** (1 / COMPRESSION)
    assert found[: 100 - 3].max() < 0.1
    assert found[100 + 3 : 150].min() > 0.3


@pytest.mark.slow
def test_oscillators_can_be_taught_and_are_not_without_the_loss() -> None:
    assert float(tone_loss(torch.full((1, 4, 3), 0.5), torch.zeros(1, 4, 3))) == pytest.approx(0.75)
    shape = SpectralConfig(
        sample_rate=8000, hop_length=320, spectrum_hop=80, spectrum_size=320, width=32, encoder_layers=(1, 1),
        decoder_layers=(1, 1), dimension=16, codebook_size=32, tones=40, lowest_tone=36, pitch_size=1024,
        tone_dimension=6,
    )  # fmt: skip
    audio = torch.stack([note(midi)[: 3 * 3200 * 2 : 1] for midi in (50, 57, 62, 69)])[:, None]
    losses = []
    for weight in (0.0, 5.0):
        module = CodecModule(
            SpectralCodec(shape), CodecTrainConfig(shape=shape, tone_weight=weight, unquantized_steps=99)
        )
        initialise_weights(module.codec, 0)
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(40):
            outputs = module.train()(CodecInputs(audio, 0))
            optimizer.zero_grad()
            outputs["loss"].backward()
            optimizer.step()
        losses.append(float(outputs["tones"]))
    assert losses[1] < 0.5 * losses[0]


def test_losses_on_audio_leave_the_tones_alone() -> None:
    """They weigh far more: tones would become a second way to tell everything else."""
    shape = SpectralConfig(
        width=16, encoder_layers=(0, 0), decoder_layers=(0, 0), dimension=16, codebook_size=32, tones=40,
        lowest_tone=36, tone_dimension=6,
    )  # fmt: skip
    module = CodecModule(SpectralCodec(shape), CodecTrainConfig(shape=shape, tone_weight=0.0, unquantized_steps=99))
    initialise_weights(module.codec, 0)
    module.train()(CodecInputs(note(57)[None, None, :24000], 0))["loss"].backward()
    weights = dict(module.codec.named_parameters())
    assert weights["decoder.input.weight"].grad is not None
    for name in ("encoder.tones_in.weight", "encoder.tones_out.weight", "decoder.tones.weight"):
        grad = weights[name].grad
        assert grad is None or grad.abs().max() == 0


def test_a_codec_without_tones_has_no_loss_on_them() -> None:
    shape = SpectralConfig(width=8, encoder_layers=(0, 0), decoder_layers=(0, 0), codebook_size=4)
    module = CodecModule(SpectralCodec(shape), CodecTrainConfig(shape=shape, tone_weight=5.0, unquantized_steps=99))
    assert float(module(CodecInputs(note(50)[None, None, :9600], 0))["tones"]) == 0
