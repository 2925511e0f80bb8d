"""Training a codec: its losses, the module that the engine trains, and its validation.

How far a reconstruction is from its original, in spectra of several resolutions.

Sources: multi-resolution spectra, Parallel WaveGAN (arXiv 1910.11480); log-mel spectra of several sizes, Descript's
codec (arXiv 2306.06546); the compressed complex spectrum, which phases enter too, from speech enhancement
(arXiv 1811.07030).

The module that the engine trains: a codec and the losses of its reconstructions.

A codec as something to train: crops of the data set's audio in, reconstructions out.

Validation of a codec: its losses on songs that it never learns from, and reconstructions to be heard.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.audio.spectra import htk_hertz, htk_mels, notes_below, semitones, triangles
from stage_cli.core.audio.writing import AtomicAudioWriter, gain_for, write_scaled
from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.config import make_codec
from stage_cli.core.codec.quantizer import CodebookTraining
from stage_cli.core.codec.spectral import SpectralCodec, SpectralDecoder, tone_levels
from stage_cli.core.data.dataset import AudioBatch, Item, StemDataset, collate
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.splits import split_songs
from stage_cli.core.training.losses import evaluating
from stage_cli.core.training.record import demo_folder
from stage_cli.core.training.settings import CodecTrainConfig, TrainingConfig
from stage_cli.core.training.task import ParameterGroup
from stage_cli.core.training.validation import ValidationItems, ValidationResult
from stage_cli.core.weights.checkpoint import load_codec
from stage_cli.core.weights.saving import save_codec_directory
from stage_cli.errors import UsageError

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


@dataclass(frozen=True)
class CodecInputs:
    """What one forward pass is made of.

    Attributes:
        audio: `[N, 1, samples]`.
        seed: of the latents that start codebooks and replace dead codes.
    """

    audio: Tensor
    seed: int


class CodecModule(nn.Module):
    """A codec in training.

    Args:
        codec: its weights; trained.
        config: weights of the losses, and when the quantizer joins.
    """

    steps_seen: Tensor

    def __init__(self, codec: Codec, config: CodecTrainConfig) -> None:
        super().__init__()
        self.codec = codec
        self.settings = config
        # A buffer: it belongs to the checkpoint.
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: CodecInputs) -> dict[str, Tensor]:
        """Reconstruct and compare.

        Returns:
            "loss" with a gradient; detached "mel", "spectrum", "phase", "level", "pitch", "tones" (0 for a codec
            without), "commitment", and "codes_used" `[K]`: how many codes the batch used, in effect; 0 where the
            codebooks do not learn.
        """
        config, audio = self.settings, inputs.audio
        quantizing = not self.training or int(self.steps_seen) >= config.unquantized_steps
        commitment, used = audio.new_zeros(()), audio.new_zeros(self.codec.config.codebooks)
        if config.base:
            with torch.no_grad():
                vectors = self.codec.quantizer.decode(self.codec.quantizer.encode(self.codec.encoder(audio)))
        elif quantizing:
            generator = torch.Generator().manual_seed(inputs.seed)
            quantized = self.codec.quantizer(self.codec.encoder(audio), generator=generator)
            vectors, commitment, used = quantized.quantized, quantized.commitment_loss, quantized.perplexity
        else:
            # First the networks learn to carry audio at all; codebooks then start from latents that mean something.
            vectors = self.codec.encoder(audio)
        made, tones = self._decode(vectors, audio)
        if self.training:
            self.steps_seen += 1
        losses = spectral_losses(made[:, 0].float(), audio[:, 0].float(), self.codec.config.sample_rate)
        loss = (
            config.mel_weight * losses["mel"]
            + config.spectrum_weight * losses["spectrum"]
            + config.phase_weight * losses["phase"]
            + config.level_weight * losses["level"]
            + config.pitch_weight * losses["pitch"]
            + config.tone_weight * tones
            + config.commitment_weight * commitment
        )
        logged = {**losses, "tones": tones, "commitment": commitment, "codes_used": used}
        return {"loss": loss, **{name: value.detach() for name, value in logged.items()}}

    def _decode(self, vectors: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction, as long as the audio, and the loss on the tones."""
        codec, samples = self.codec, audio.shape[-1]
        if not isinstance(codec, SpectralCodec) or not codec.shape.tones:
            return codec.decoder(vectors)[..., :samples], audio.new_zeros(())
        made, levels = cast("SpectralDecoder", codec.decoder).parts(vectors)
        whole = nn.functional.pad(audio[:, 0], (0, -samples % codec.shape.hop_length))
        return made[..., :samples], tone_loss(levels, tone_levels(whole, codec.shape))


# Crops with a lower peak teach nothing.
_SILENCE = 1e-3
# Apart from the streams that items are picked from, which begin with the same seed.
_CODEC_STREAM = 789_996


class CodecTask:
    """A codec that learns from scratch, from contexts and targets alike (the engine's `Task`).

    Attributes:
        codec: that learns.
        training_songs: that it learns from.
        validation_songs: that it never learns from.

    Args:
        config: of the run.

    Raises:
        UsageError: there are no songs, or none for the validation; or the base has other sizes.
        WeightsError: the base holds no codec.
    """

    units: tuple[str, ...] = ("Block",)

    def __init__(self, config: TrainingConfig) -> None:
        if config.codec is None:
            raise ValueError("a run without the table [codec] trains no codec")
        self.config = config
        self.settings: CodecTrainConfig = config.codec
        self.crop = round(self.settings.crop_seconds * self.settings.shape.sample_rate)
        split = split_songs(find_songs(config.data.root), config.data)
        self.training_songs = split.training
        rate = self.settings.shape.sample_rate
        self.dataset = StemDataset(config.data, rate, config.run.seed, songs=split.training)
        self.validation_songs = split.validation
        self.codec = self._new_codec() if not self.settings.base else self._base_codec()
        self.module: nn.Module = CodecModule(self.codec, self.settings)

    def _new_codec(self) -> Codec:
        codec = make_codec(self.settings.shape)
        initialise_weights(codec, self.config.run.seed)
        codec.quantizer.start_training(CodebookTraining(decay=self.settings.codebook_decay))
        return codec

    def _base_codec(self) -> Codec:
        codec = load_codec(self.settings.base)
        if codec.config != self.settings.shape:
            raise UsageError(
                f"codec.base = {self.settings.base!r} contradicts the table [codec.shape]",
                why="a codec that goes on keeps its sizes",
                next_step="give [codec.shape] the base's sizes",
            )
        codec.encoder.requires_grad_(False)
        return codec

    @staticmethod
    def collate(items: Sequence[Item]) -> AudioBatch:
        """Make a batch."""
        return collate(items)

    @torch.no_grad()
    def inputs(self, batch: AudioBatch, epoch: int, *, gains: bool = True) -> CodecInputs:
        """Cut whole crops out of contexts and targets, leave silent ones out, and (`gains`) turn each down a little.

        At least one crop is kept.
        """
        crops, factors = [], []
        quietest = self.settings.quietest_gain
        for row, item in enumerate(batch.items):
            chance = np.random.default_rng((self.config.run.seed, epoch, item.index, _CODEC_STREAM))
            for audio, samples in (
                (batch.context[row], int(batch.context_samples[row])),
                (batch.target[row], batch.target.shape[1]),
            ):
                pieces = audio[:samples].unfold(0, self.crop, self.crop) if samples >= self.crop else audio[:0, None]
                crops.extend(pieces)
                factors.extend(10 ** (chance.uniform(quietest if gains else 0, 0, len(pieces)) / 20))
        audio = torch.stack(crops) * torch.tensor(factors, dtype=torch.float32, device=batch.target.device)[:, None]
        heard = audio.abs().amax(dim=1) > _SILENCE
        heard[0] |= ~heard.any()
        first = batch.items[0].index
        seed = int(np.random.SeedSequence((self.config.run.seed, epoch, first, _CODEC_STREAM)).generate_state(1)[0])
        return CodecInputs(audio[heard][:, None], seed)

    def parameter_groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Matrices of the blocks' feed-forwards are "matrix"; vectors do not decay."""
        matrices, tensors, vectors = [], [], []
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.ndim == 2 and ".feed_forward_" in name:
                matrices.append(name)
            else:
                (tensors if parameter.ndim > 1 else vectors).append(name)
        groups = [
            ParameterGroup(tuple(matrices), kind="matrix"),
            ParameterGroup(tuple(tensors)),
            ParameterGroup(tuple(vectors), decay=False),
        ]
        return [group for group in groups if group.names]

    def audio_seconds(self, batch: AudioBatch) -> float:
        """Seconds of contexts and targets."""
        samples = int(batch.context_samples.sum()) + batch.target.numel()
        return samples / self.settings.shape.sample_rate

    def place(self, device: torch.device) -> None:
        """Nothing is frozen."""

    def save(self, directory: Path, metrics: Mapping[str, float], state: Mapping[str, Tensor] | None = None) -> None:
        """Write the codec: `config.json` and `model.safetensors`."""
        del metrics
        tensors: Mapping[str, Any] = self.module.state_dict() if state is None else state
        kept = ((n, t) for n, t in tensors.items() if n.startswith("codec.") and ".statistics." not in n)
        save_codec_directory(directory, self.settings.shape, self.settings.licence, kept)


@torch.no_grad()
def initialise_weights(codec: Codec, seed: int) -> None:
    """Give a new codec's matrices and kernels random weights of variance 1 / inputs; its biases become zero.

    Args:
        codec: changed; norms and scales stay as they are.
        seed: fixes the weights; each tensor is drawn from (seed, its place among the sorted names) alone.
    """
    for place, (name, parameter) in enumerate(sorted(codec.named_parameters())):
        if parameter.ndim > 1:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + place) % 2**63)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn / math.sqrt(parameter[0].numel()))
        elif name.endswith("bias"):
            parameter.zero_()


class CodecValidator:
    """Validate a codec, again and again on the same items.

    Args:
        config: the run's.
        task: what is trained; placed on its device.
        device: where its module is.

    Raises:
        UsageError: no song can be used.
    """

    def __init__(self, config: TrainingConfig, task: CodecTask, device: torch.device) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.items = ValidationItems(config, task.validation_songs, task.codec.config.sample_rate)

    @torch.no_grad()
    def __call__(self, step: int, check: Callable[[], None] = lambda: None) -> ValidationResult:
        """Return "validation/loss", "validation/mel", "validation/spectrum", "validation/phase", and demos.

        Args:
            step: of the weights.
            check: called before each item; what it raises ends the validation.

        Raises:
            StageError: a song cannot be read, or a demo cannot be written.
        """
        sums: dict[str, float] = {}
        demos: list[Path] = []
        seconds = 0.0
        with evaluating(self.task.module):
            for position in range(len(self.items)):
                check()
                batch = collate([self.items.item(position)]).to(self.device)
                inputs = self.task.inputs(batch, 0, gains=False)
                length = inputs.audio.shape[0] * inputs.audio.shape[2]
                seconds += length
                for name, value in self.task.module(inputs).items():
                    if value.ndim == 0:
                        sums[name] = sums.get(name, 0.0) + length * float(value)
                if position < self.config.validate.demos:
                    demos += self._write_demo(step, position + 1, batch.target[:1])
        metrics = {f"validation/{name}": value / seconds for name, value in sums.items()}
        return ValidationResult(metrics, tuple(demos))

    def _write_demo(self, step: int, number: int, audio: torch.Tensor) -> list[Path]:
        """Write the audio `[1, samples]` and what the codec makes of it."""
        made = self.task.codec.decode(self.task.codec.encode(audio[:, None]))[0, 0, : audio.shape[1]]
        folder = demo_folder(self.config.directory, step)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for part, sound in (("original", audio[0]), ("reconstruction", made)):
            paths.append(folder / f"{number:02}.{part}.flac")
            _write(paths[-1], sound.float().cpu().numpy(), self.task.codec.config.sample_rate)
        return paths


def _write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    with AtomicAudioWriter(path, sample_rate, 1, "flac", overwrite=True, frames=len(samples)) as writer:
        write_scaled([samples], writer, gain_for(float(np.abs(samples).max(initial=0.0))))
