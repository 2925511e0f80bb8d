"""Which semitones sound steadily in audio, and how loud: what a spectral codec hears of pitch.

Peaks of a long window's spectrum tell pitch, its neighbourhood whether it is a tone at all, and a short window tells
when: each has what the other lacks.

A network that sees a bounded time to each side, fed piece by piece: what its outputs depend on is read again.

A small codec on short-time spectra: for a CPU, where convolutions over samples (EnCodec's) take too long to train.

Audio → short-time Fourier spectra → ConvNeXt blocks → frames' latents → residual vector quantizer → ConvNeXt blocks →
spectra → audio. Sources: ConvNeXt (arXiv 2201.03545), Vocos (arXiv 2306.00814) for the head that writes magnitudes and
phases; DDSP (arXiv 2001.04643) for oscillators that a network turns up and down. Phases are told relative to a wave at
the middle of their bin, so that a steady tone is a nearly steady input and output. With `SpectralConfig.tones` the
decoder also has an oscillator for each semitone, which runs on from the first frame to the last. Every layer sees a
bounded time to each side, so pieces of a long song come out as the whole does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.config import SpectralConfig
from stage_cli.core.codec.quantizer import ResidualVectorQuantizer
from stage_cli.core.codec.streaming import join

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


class Overlapping:
    """A network with a memory (`streaming_layers.Layer`).

    Args:
        network: `[B, in, n · inputs]` → `[B, out, n · outputs]` for n frames; it pads where audio begins and ends. It
            is also told which frame of the whole the first of them is.
        margin: frames to either side that a frame's output depends on.
        inputs: input samples in a frame.
        outputs: output samples in a frame.
    """

    def __init__(self, network: Callable[[Tensor, int], Tensor], margin: int, *, inputs: int, outputs: int) -> None:
        self._network = network
        self._margin = margin
        self._inputs = inputs
        self._outputs = outputs
        self._kept: Tensor | None = None
        self._first = 0  # frame of the whole that the kept inputs begin with
        self._made = 0  # frames among the kept ones whose output has been returned

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Take the next inputs; return the outputs that are ready, all of them if these inputs are the last."""
        x = x if self._kept is None else join(self._kept, x)
        whole = x.shape[-1] // self._inputs
        frames = -(-x.shape[-1] // self._inputs) if last else max(whole - self._margin, self._made)
        if frames == self._made:
            self._kept = x
            return x[..., :0]  # nothing: whoever joins the pieces leaves empty ones out
        output = self._network(x if last else x[..., : whole * self._inputs], self._first)
        made = output[..., self._made * self._outputs : frames * self._outputs]
        begin = max(0, frames - self._margin)
        self._kept = x[..., begin * self._inputs :].clone()
        self._made = frames - begin
        self._first += begin
        return made


_QUIETEST = 1e-5
# No bin of audio within ±1 under this window is louder.
_LOUDEST = 1e2
# Compressed, as all amplitudes of oscillators here: a little above full scale.
_LOUDEST_TONE = 1.2


class Block(nn.Module):
    """One ConvNeXt block: a convolution over time, channel by channel, then a feed-forward in each frame."""

    def __init__(self, config: SpectralConfig, layers: int) -> None:
        super().__init__()
        width, inside = config.width, config.expansion * config.width
        self.convolution = nn.Conv1d(width, width, config.kernel_size, padding=config.kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, inside)
        self.feed_forward_out = nn.Linear(inside, width)
        self.scale = nn.Parameter(torch.full((width,), 1.0 / layers))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, width, n]` → the same shape."""
        y = self.norm(self.convolution(x).transpose(1, 2))
        y = self.feed_forward_out(F.gelu(self.feed_forward_in(y)))
        return x + (self.scale * y).transpose(1, 2)


class SpectralEncoder(nn.Module):
    """Audio to latents."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.encoder_layers
        step = config.spectra_per_frame
        self.input = nn.Conv1d(3 * config.bins, config.width, 1)
        self.fine = nn.Sequential(*(Block(config, fine + coarse) for _ in range(fine)))
        self.down = nn.Conv1d(config.width, config.width, step, stride=step)
        self.coarse = nn.Sequential(*(Block(config, fine + coarse) for _ in range(coarse)))
        self.norm = nn.LayerNorm(config.width)
        for_tones = config.tone_dimension if config.tones else 0
        self.output = nn.Linear(config.width, config.dimension - for_tones)
        if config.tones:
            self.tones_in = nn.Linear(config.tones, config.width)
            self.tones_out = nn.Linear(config.width, for_tones)

    def forward(self, audio: Tensor) -> Tensor:
        """`[B, 1, samples]` → `[B, D, T]`; the last frame is filled up with silence."""
        x = self.coarse(self.down(self.fine(self.input(self.features(audio)))))
        latents = self.output(self.norm(x.transpose(1, 2)))
        if self.config.tones:
            latents = torch.cat([latents, self._detected_tones(audio)], dim=2)
        return latents.transpose(1, 2)

    def _detected_tones(self, audio: Tensor) -> Tensor:
        """`[B, 1, samples]` → `[B, T, tone_dimension]`: the tones alone, as loud as they are on average in a frame."""
        config = self.config
        levels = tone_levels(F.pad(audio[:, 0], (0, -audio.shape[-1] % config.hop_length)), config)
        mean = levels.unflatten(1, (-1, config.spectra_per_frame)).mean(dim=2)
        return self.tones_out(F.gelu(self.tones_in(mean.to(audio))))

    def features(self, audio: Tensor) -> Tensor:
        """`[B, 1, samples]` → `[B, 3 · bins, spectra]`: magnitude, real and imaginary part, compressed."""
        config = self.config
        missing = -audio.shape[-1] % config.hop_length
        edge = (config.spectrum_size - config.spectrum_hop) // 2
        pieces = F.pad(audio[:, 0], (edge, edge + missing)).unfold(-1, config.spectrum_size, config.spectrum_hop)
        spectra = torch.fft.rfft(pieces * _window(config.spectrum_size, pieces))
        magnitude = spectra.abs().clamp(min=_QUIETEST)
        compressed = magnitude**COMPRESSION
        steady = spectra * _steady_phase(config, spectra.shape[1], audio.device).conj() * (compressed / magnitude)
        return torch.cat([compressed, steady.real, steady.imag], dim=-1).transpose(1, 2)


class SpectralDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        coarse, fine = config.decoder_layers
        step = config.spectra_per_frame
        self.input = nn.Conv1d(config.dimension, config.width, config.kernel_size, padding=config.kernel_size // 2)
        self.coarse = nn.Sequential(*(Block(config, fine + coarse) for _ in range(coarse)))
        self.up = nn.Linear(config.width, step * config.width)
        self.fine = nn.Sequential(*(Block(config, fine + coarse) for _ in range(fine)))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, 2 * config.bins + config.tones)
        if config.tones:
            self.tones = nn.Linear(config.tone_dimension, config.tones)

    def forward(self, latents: Tensor, first_frame: int = 0) -> Tensor:
        """`[B, D, T]` → `[B, 1, T · hop]`; `first_frame` counts from where the oscillators began."""
        return self.parts(latents, first_frame)[0]

    def parts(self, latents: Tensor, first_frame: int = 0) -> tuple[Tensor, Tensor]:
        """Return the audio, and the oscillators' amplitudes to the power of `COMPRESSION`, `[B, n, tones]`."""
        split = latents.shape[1] - (self.config.tone_dimension if self.config.tones else 0)
        # What sounds beside the tones may be told by them, but must not shape what they say: losses on audio weigh
        # far more than the one on tones.
        x = self.coarse(self.input(torch.cat([latents[:, :split], latents[:, split:].detach()], dim=1))).transpose(1, 2)
        B, T, width = x.shape
        # A frame becomes its spectra.
        x = self.up(x).view(B, T * self.config.spectra_per_frame, width).transpose(1, 2)
        x = self.norm(self.fine(x).transpose(1, 2))
        bins = self.config.bins
        magnitude, phase, tones = self.output(x).float().split([bins, bins, self.config.tones], dim=-1)
        magnitude = magnitude.clamp(max=math.log(_LOUDEST)).exp()
        spectra = torch.polar(magnitude, phase) * _steady_phase(self.config, x.shape[1], x.device)
        audio = self._overlap(torch.fft.irfft(spectra), B)
        if not self.config.tones:
            return audio[:, None], tones
        # What holds on in a frame, times its course within: a sum would let silent oscillators rustle.
        held = self.tones(latents[:, split:].transpose(1, 2))
        levels = 2 * tones.sigmoid() * held.repeat_interleave(self.config.spectra_per_frame, dim=1)
        # Only the loss on the levels themselves teaches them: losses on audio would use them to fill in noise.
        return (audio + self._sounding(levels.detach(), first_frame))[:, None], levels

    def _sounding(self, levels: Tensor, first_frame: int) -> Tensor:
        """Let the oscillators sound: compressed amplitudes `[B, n, tones]` → `[B, n · spectrum_hop]`.

        Each level holds in the middle of its hop; in between, amplitudes go over as the slopes of a Hann window.
        """
        config = self.config
        hop, count = config.spectrum_hop, levels.shape[1]
        amplitude = levels.clamp(min=0, max=_LOUDEST_TONE) ** (1 / COMPRESSION)
        # Turns of a wave in double precision: after minutes, single precision would be out of tune. On the CPU, for
        # not every device has it.
        hertz = torch.tensor([config.tone_hertz(tone) for tone in range(config.tones)], dtype=torch.float64)
        turns = hertz / config.sample_rate
        first = first_frame * config.spectra_per_frame
        start = (torch.arange(first, first + count)[:, None] * hop * turns).frac() * (2 * math.pi)
        within = torch.arange(2 * hop) * turns[:, None] * (2 * math.pi)
        window = _window(2 * hop, within)
        waves = torch.cat([within.cos() * window, within.sin() * -window]).to(amplitude)
        turned = torch.cat([amplitude * start.cos().to(amplitude), amplitude * start.sin().to(amplitude)], dim=2)
        pieces = turned @ waves
        # Windows overlap by half: the second half of each meets the first half of the next.
        rising, falling = pieces.split(hop, dim=2)
        audio = F.pad(rising, (0, 0, 0, 1)) + F.pad(falling, (0, 0, 1, 0))
        return audio.flatten(1)[:, hop // 2 : hop // 2 + count * hop]

    def _overlap(self, pieces: Tensor, B: int) -> Tensor:
        """Add windowed pieces `[B, n, spectrum_size]` where they overlap: `[B, n · spectrum_hop]`."""
        size, hop = self.config.spectrum_size, self.config.spectrum_hop
        count, edge = pieces.shape[1], (size - hop) // 2
        length = (count - 1) * hop + size
        window = _window(size, pieces)

        def added(columns: Tensor) -> Tensor:
            return F.fold(columns, (1, length), (1, size), stride=(1, hop))[:, 0, 0]

        audio = added((pieces * window).transpose(1, 2))
        weight = added(window.square().expand(1, count, size).transpose(1, 2))
        return (audio / weight.clamp(min=1e-3)).view(B, length)[:, edge : length - edge]


class SpectralCodec(Codec):
    """Encoder, residual vector quantizer, decoder.

    Args:
        config: its shape.
    """

    # Its activations are small: pieces gain nothing.
    WHOLE_SECONDS_ON_CPU = 20.0

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__(config)
        self.shape = config
        self.encoder = SpectralEncoder(config)
        apart = (config.tone_codebooks, config.tone_dimension) if config.tones else (0, 0)
        self.quantizer = ResidualVectorQuantizer(config, apart=apart)
        self.decoder = SpectralDecoder(config)

    def encoder_stream(self) -> Overlapping:
        """Return the encoder with a memory, for audio in pieces."""
        config = self.shape
        encode = self.encoder
        return Overlapping(lambda x, _: encode(x), config.encoder_margin, inputs=config.hop_length, outputs=1)

    def decoder_stream(self) -> Overlapping:
        """Return the decoder with a memory, for latents in pieces."""
        config = self.shape
        return Overlapping(self.decoder, config.decoder_margin, inputs=1, outputs=config.hop_length)


def _window(size: int, like: Tensor) -> Tensor:
    return torch.hann_window(size, dtype=like.dtype, device=like.device)


def _steady_phase(config: SpectralConfig, spectra: int, device: torch.device) -> Tensor:
    """Unit numbers `[spectra, bins]` that turn as a wave at the middle of each bin does, anew in every frame."""
    step = torch.arange(spectra, device=device) % config.spectra_per_frame
    # Whole turns are taken out as whole numbers, which no rounding touches.
    turns = step[:, None] * torch.arange(config.bins, device=device) * config.spectrum_hop % config.spectrum_size
    angle = turns * (2 * math.pi / config.spectrum_size)
    return torch.polar(torch.ones_like(angle), angle)
