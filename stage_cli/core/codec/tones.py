"""Which semitones sound steadily in audio, and how loud: what a spectral codec hears of pitch.

Peaks of a long window's spectrum tell pitch, its neighbourhood whether it is a tone at all, and a short window tells
when: each has what the other lacks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.codec.spectral_config import SpectralConfig

COMPRESSION = 0.3
"""Magnitudes are raised to this power: what is quiet counts beside what is loud."""

# Full-scale sines are 1: below this nothing is worth an oscillator.
_QUIETEST_TONE = 1e-3
_BELOW_STRONGEST = 10 ** (-45 / 20)
# A tone stands out of what lies beside the main lobe of its window (Hann's is 2 bins to each side) by this factor …
_BESIDE = (4, 5)  # bins
_MARGIN = max(_BESIDE)
_PROMINENCE = 2.5
# … and lasts: under the long window it is nearly as loud as under the short one on average. Noise is half as loud.
_LASTING = 0.7


@torch.no_grad()
def tone_levels(audio: Tensor, config: SpectralConfig) -> Tensor:
    """Return the compressed amplitude of each tone.

    Args:
        audio: `[B, samples]`, a whole number of frames.
        config: the codec's, with tones.

    Returns:
        `[B, n, tones]`, one row a spectrum; amplitudes to the power of `COMPRESSION`.
    """
    hop, rate = config.spectrum_hop, config.sample_rate
    bins = config.pitch_bins
    # What lies beside the first and the last bins is looked at too: zeros below the first.
    long = F.pad(_magnitudes(audio, config.pitch_size, hop, bins + _MARGIN), (_MARGIN, 0))
    short = _magnitudes(audio, config.spectrum_size, hop, config.bins)
    width = rate / config.pitch_size
    here = long[..., _MARGIN:-_MARGIN]
    quietest = (_BELOW_STRONGEST * here.amax(dim=2, keepdim=True)).clamp(min=_QUIETEST_TONE)
    peaks = (here > long[..., _MARGIN - 1 : -_MARGIN - 1]) & (here >= long[..., _MARGIN + 1 : 1 - _MARGIN])
    # Peaks are few: what follows looks at them alone.
    row, spectrum, bin_ = (peaks & (here > quietest)).nonzero(as_tuple=True)

    def beside(shift: int) -> Tensor:
        return long[row, spectrum, bin_ + (_MARGIN + shift)]

    peak = beside(0)
    around = torch.stack([beside(sign * shift) for shift in _BESIDE for sign in (-1, 1)]).amax(dim=0)
    # Under the long window a tone is as loud as on average under the short ones that it covers.
    at = (bin_ * width / (rate / config.spectrum_size)).round().long().clamp(max=short.shape[2] - 1)
    covered = config.pitch_size // hop // 2 * 2 + 1
    average = F.avg_pool1d(short.transpose(1, 2), covered, 1, covered // 2, count_include_pad=False)[row, at, spectrum]
    is_tone = (peak > _PROMINENCE * around) & (peak > _LASTING * average)
    # A parabola through three logarithms finds the peak between the bins.
    low, middle, high = ((x + 1e-9).log() for x in (beside(-1), peak, beside(1)))
    offset = (0.5 * (low - high) / (low - 2 * middle + high).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    place = 12 * ((bin_ + offset).clamp(min=0.5) * width / config.tone_hertz(0)).log2()
    below = place.floor()
    share = place - below
    found = torch.zeros(*long.shape[:2], config.tones, device=audio.device)
    for tone, part in ((below, 1 - share), (below + 1, share)):
        inside = is_tone & (tone >= 0) & (tone < config.tones)
        found.index_put_((row, spectrum, tone.clamp(0, config.tones - 1).long()), part * inside, accumulate=True)
    hertz = torch.tensor([config.tone_hertz(tone) for tone in range(config.tones)], device=audio.device)
    nearest = (hertz / (rate / config.spectrum_size)).round().long()
    return (found.clamp(max=1) * short[..., nearest]) ** COMPRESSION


def _magnitudes(audio: Tensor, size: int, hop: int, bins: int) -> Tensor:
    """`[B, samples]` → the first bins, `[B, samples / hop, bins]`; a full-scale sine is 1."""
    edge = (size - hop) / 2
    pieces = F.pad(audio.float(), (math.floor(edge), math.ceil(edge))).unfold(-1, size, hop)
    window = torch.hann_window(size, device=audio.device)
    return torch.fft.rfft(pieces * window)[..., :bins].abs() * (2 / window.sum())
