"""How far a reconstruction is from its original, in spectra of several resolutions.

Sources: multi-resolution spectra, Parallel WaveGAN (arXiv 1910.11480); log-mel spectra of several sizes, Descript's
codec (arXiv 2306.06546); the compressed complex spectrum, which phases enter too, from speech enhancement
(arXiv 1811.07030).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.audio.mel import htk_hertz, htk_mels, notes_below, semitones, triangles

# Window sizes in samples, and mel bands of each: short ones for attacks, long ones for pitch.
RESOLUTIONS: tuple[tuple[int, int], ...] = ((128, 12), (256, 24), (512, 40), (1024, 64), (2048, 96))
# Below these, differences are not heard: magnitudes of a full-scale sine's window are about 1.
_QUIETEST_MEL = 1e-4
_QUIETEST_BIN = 1e-4
COMPRESSION = 0.3
_LEVEL_SIZE = 1024
# Windows long enough to tell semitones apart, and the MIDI notes that are told apart.
PITCH_SIZES: tuple[int, ...] = (4096, 8192)
PITCHES = range(28, 100)
_QUIETEST_PITCH = 1e-3
_LEVEL_SECONDS = 0.1


def spectra(audio: Tensor, size: int) -> Tensor:
    """Return complex spectra `[B, frames, size / 2 + 1]` of `audio [B, samples]`; a full-scale sine peaks near 1."""
    window = torch.hann_window(size, dtype=audio.dtype, device=audio.device)
    padded = torch.nn.functional.pad(audio, (size // 2, size // 2))
    return torch.fft.rfft(padded.unfold(-1, size, size // 4) * window) * (2 / window.sum())


def spectral_losses(made: Tensor, true: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """Compare audio `[B, samples]` with its original; each loss is a mean over the batch and the resolutions.

    Returns:
        "mel": mean absolute difference of log10 mel spectra. "spectrum": spectral convergence (the difference's norm
        by the original's) and mean absolute difference of natural-log magnitudes, added. "phase": mean squared
        difference of complex spectra whose magnitudes are compressed. "level": mean absolute difference of log10
        energies of mel bands over 0.1 s. (What lies in the middle of the other losses is a median: for noise, it is
        1.6 dB too quiet.) "pitch": mean absolute difference of log10 magnitudes of semitones, under long windows.
    """
    losses: dict[str, list[Tensor]] = {"mel": [], "spectrum": [], "phase": [], "level": [], "pitch": []}
    for size, bands in RESOLUTIONS:
        ours, theirs = spectra(made, size), spectra(true, size)
        # A magnitude of exactly zero has no gradient.
        our_magnitude, their_magnitude = ours.abs().clamp(min=1e-8), theirs.abs().clamp(min=1e-8)
        filters = mel_filters(size, bands, sample_rate).to(made)
        our_mel, their_mel = our_magnitude @ filters, their_magnitude @ filters
        losses["mel"].append((_log10(our_mel, _QUIETEST_MEL) - _log10(their_mel, _QUIETEST_MEL)).abs().mean())
        if size == _LEVEL_SIZE:
            frames = max(1, round(_LEVEL_SECONDS * sample_rate / (size // 4)))
            our_level, their_level = _energy(our_mel, frames), _energy(their_mel, frames)
            losses["level"].append((our_level - their_level).abs().mean())
        convergence = (our_magnitude - their_magnitude).norm() / their_magnitude.norm().clamp(min=1e-3)
        logs = (our_magnitude.clamp(min=_QUIETEST_BIN).log() - their_magnitude.clamp(min=_QUIETEST_BIN).log()).abs()
        losses["spectrum"].append(convergence + logs.mean())
        # d/dx of |x|^0.3 is infinite at 0: both are compressed as if a little louder.
        our_gain = (our_magnitude + _QUIETEST_BIN) ** (COMPRESSION - 1)
        their_gain = (their_magnitude + _QUIETEST_BIN) ** (COMPRESSION - 1)
        difference = torch.view_as_real(ours * our_gain - theirs * their_gain)
        losses["phase"].append(difference.square().sum(dim=-1).mean())
    for size in PITCH_SIZES:
        filters = _semitones(size, sample_rate).to(made)
        ours, theirs = (_log10(spectra(x, size).abs() @ filters, _QUIETEST_PITCH) for x in (made, true))
        losses["pitch"].append((ours - theirs).abs().mean())
    return {name: torch.stack(values).mean() for name, values in losses.items()}


def tone_loss(levels: Tensor, true: Tensor) -> Tensor:
    """Squared differences of compressed amplitudes `[B, n, tones]`, summed over the tones: their mean over the rest.

    The other losses would not teach oscillators. A tone that is added to what sounds at its pitch already, in whatever
    phase, makes that louder as often as quieter, so none would ever begin to sound.
    """
    return (levels.float() - true).square().sum(dim=2).mean()


@functools.cache
def mel_filters(size: int, bands: int, sample_rate: int) -> Tensor:
    """Return triangular mel filters `[size / 2 + 1, bands]`, each with sum 1; none is empty.

    Mel scale: O'Shaughnessy's, as HTK's.
    """
    lowest, highest = htk_mels(np.array([0, sample_rate / 2])).tolist()
    # numpy would space them a last bit differently, and codecs were trained with these.
    corners = htk_hertz(torch.linspace(lowest, highest, bands + 2, dtype=torch.float64).numpy())
    # A filter narrower than the bins would be empty: it reaches at least one bin to each side.
    width = sample_rate / size
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    low, high = np.minimum(low, centre - width), np.maximum(high, centre + width)
    filters = triangles(np.fft.rfftfreq(size, 1 / sample_rate), low, centre, high)
    return torch.from_numpy(filters / filters.sum(axis=0)).float()


@functools.cache
def _semitones(size: int, sample_rate: int) -> Tensor:
    return torch.from_numpy(semitones(size, sample_rate, notes_below(sample_rate / 2, PITCHES)))


def _log10(x: Tensor, quietest: float) -> Tensor:
    return x.clamp(min=quietest).log10()


def _energy(mel: Tensor, frames: int) -> Tensor:
    """Log10 of the mean energy of each mel band `[B, T, bands]` over stretches of some frames."""
    stretches = min(frames, mel.shape[1])
    pooled = torch.nn.functional.avg_pool1d(mel.square().transpose(1, 2), stretches, stretches)
    return _log10(pooled, _QUIETEST_MEL**2)
