"""COCOLA: does a stem sound coherent with its context? (Ciranni et al., arXiv 2404.16969, ICASSP 2025).

`Cocola.load(FILE)` reads the user's checkpoint of the published model; `score` compares a context with a stem, and
`pair_anchor` says what true and shuffled pairs score.

EfficientNet-B0 without its classifier (Tan and Le, arXiv 1905.11946), as the package efficientnet_pytorch has it.

Its padding is that of 224 × 224 pictures whatever comes in: at stride 2 one side gets one more zero than the other.
Checkpoints name the layers as that package does; `published_name` translates.

COCOLA's network: EfficientNet-B0, a projection, layer norm, tanh; and a bilinear form over two such vectors.

score(x, y) = hₓᵀ·W·h_y with h = tanh(norm(projection(EfficientNet(features)))). It is not symmetric: x is the context
and y the stem. The published code's own `score` has left the norm and the tanh out in some of its versions; training
has them in all, and so have we.

Harmonic-only and percussive-only scores come from the same weights: the other channel is set to 0 in both inputs, as it
was at random in training. The published `score` sets nothing to 0 whatever mode is chosen, so that all three of its
scores are one number.

What COCOLA hears: the mel spectra of the harmonic and of the percussive part of 5 s, side by side as two channels.

16 kHz mono. Spectra: frames of 1024 samples every 160, centred on samples 0, 160 … with silence around, under a
periodic Hann window of 400. Parts: medians over 31 frames (harmonic) and over 31 frequencies (percussive), mirrored at
the edges; each bin is shared in proportion to their squares (Fitzgerald, DAFx 2010; librosa's defaults). Powers of both
go through 64 Slaney mel bands from 60 to 7800 Hz, into dB below the loudest band of that part, 80 dB deep. So each
channel is between −80 and 0, and loudness does not count.

The numbers are those of the published code (github.com/gladia-research-group/cocola), which calls librosa 0.10.

Read a COCOLA checkpoint without running anything that is in it.

Lightning's `.ckpt` holds the settings of the run beside the weights, some of them as objects of the authors' classes.
Reading tensors only refuses such a file, so the few harmless names that the published files hold are stood in for by an
object that does nothing and keeps nothing. Every other name is refused as ever. Safetensors files with the same tensor
names are read too.

The COCOLA score of a context and a stem, and what true and shuffled pairs score.

Audio is brought to 16 kHz and cut into windows of 5 s that begin every 2.5 s; the score is the mean over the windows in
which both sound, and nan where there is none: audio shorter than 5 s, or silence. No unit and no fixed range: it is a
logit of the contrastive training, so read it between its anchors. True pairs are contexts with their own stems,
shuffled pairs contexts with the stems of other songs. Higher is better.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.audio.chunks import resample
from stage_cli.core.audio.spectra import frames, hann, mel_filters
from stage_cli.core.evaluation.metrics import other_songs
from stage_cli.core.weights.tensors import check_finite, open_checkpoint
from stage_cli.errors import WeightsError

WIDTH = 1280
"""Channels that come out."""

_STEM = 32
_EPSILON = 1e-3
_SQUEEZE = 0.25


@dataclass(frozen=True)
class _Stage:
    """Blocks of one shape; only the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

_NAMES = {
    "stem.conv": "_conv_stem",
    "stem.norm": "_bn0",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "squeeze": "_se_reduce",
    "excite": "_se_expand",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}


class EfficientNet(nn.Module):
    """Pictures `[B, channels, H, W]` to `[B, 1280]`, the mean over what is left of height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = _Convolution(channels, _STEM, kernel=3, stride=2)
        blocks, width = [], _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                blocks.append(_Block(width, stage, stride=stage.stride if number == 0 else 1))
                width = stage.width
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(width, WIDTH, kernel=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the pooled features."""
        hidden = F.silu(self.stem(pictures))
        for block in self.blocks:
            hidden = block(hidden)
        return F.silu(self.head(hidden)).mean(dim=(2, 3))


def published_name(name: str) -> str:
    """Translate the name of a tensor of `EfficientNet` to that of efficientnet_pytorch."""
    match = re.fullmatch(r"(blocks\.\d+\.)?(.+)\.(\w+)", name)
    if match is None:
        raise ValueError(f"{name} is not a tensor of an EfficientNet")
    block, layer, tensor = match.groups()
    return f"{'_' + block if block else ''}{_NAMES[layer]}.{tensor}"


class _Convolution(nn.Module):
    """A convolution without bias, padded at its ends, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=_EPSILON)
        padding = kernel - stride
        before, after = padding // 2, padding - padding // 2
        self._padding = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.pad(x, self._padding)))


class _Block(nn.Module):
    """An inverted bottleneck: widen, convolve each channel, weigh the channels, narrow; around it a skip path."""

    def __init__(self, inputs: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = _Convolution(inputs, inner, kernel=1) if stage.expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel=stage.kernel, stride=stride, groups=inner)
        squeezed = max(1, int(inputs * _SQUEEZE))
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, inner, 1)
        self.project = _Convolution(inner, stage.width, kernel=1)
        self._skips = stride == 1 and inputs == stage.width

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.silu(self.expand(x))
        hidden = F.silu(self.depthwise(hidden))
        weights = self.excite(F.silu(self.squeeze(hidden.mean(dim=(2, 3), keepdim=True))))
        hidden = self.project(weights.sigmoid() * hidden)
        return hidden + x if self._skips else hidden


Mode = Literal["both", "harmonic", "percussive"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""What is listened to."""

CHANNELS = 2
_MASKED: dict[Mode, int] = {"harmonic": 1, "percussive": 0}  # the channel that each mode does not hear


class CocolaNetwork(nn.Module):
    """Features `[B, 2, 64, frames]` to vectors `[B, D]`, and vectors to scores.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.backbone = EfficientNet(CHANNELS)
        self.projection = nn.Linear(WIDTH, dimension)
        self.norm = nn.LayerNorm(dimension)
        self.bilinear = nn.Parameter(torch.zeros(dimension, dimension))

    def forward(self, features: Tensor, mode: Mode = "both") -> Tensor:
        """Return the vectors of features, which are left as they are."""
        return self.norm(self.projection(self.backbone(masked(features, mode)))).tanh()

    def score(self, contexts: Tensor, stems: Tensor) -> Tensor:
        """Return the scores of pairs of vectors, `[B, D]` and `[B, D]` → `[B]`."""
        return ((contexts @ self.bilinear) * stems).sum(dim=-1)


def masked(features: Tensor, mode: Mode) -> Tensor:
    """Return features `[B, 2, bands, frames]` with the channel at 0 that the mode does not hear.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}, not {mode!r}")
    if mode == "both":
        return features
    heard = torch.ones(CHANNELS, 1, 1, dtype=features.dtype, device=features.device)
    heard[_MASKED[mode]] = 0
    return features * heard


def published_names(network: CocolaNetwork) -> dict[str, str]:
    """Return the name that the published checkpoints give to each tensor of the network."""
    outer = {
        "projection.weight": "encoder.projection.weight",
        "projection.bias": "encoder.projection.bias",
        "norm.weight": "layer_norm.weight",
        "norm.bias": "layer_norm.bias",
        "bilinear": "similarity.w",
    }
    inner = "backbone."
    return {
        name: outer.get(name) or "encoder.encoder.model.0." + published_name(name.removeprefix(inner))
        for name in network.state_dict()
    }


RATE = 16_000
SECONDS = 5.0
SAMPLES = round(SECONDS * RATE)
"""Samples of a window."""

HOP = 160
BANDS = 64
FRAMES = SAMPLES // HOP + 1
"""Frames of a window: 501."""

_FFT = 1024
_WINDOW = 400
_MEDIAN = 31
_FLOOR = 1e-10
_DEPTH = 80.0  # dB


def features(window: np.ndarray) -> np.ndarray:
    """Return the features of audio `[samples]` at 16 kHz: `[2, 64, 1 + samples // 160]` float32, harmonic first.

    Silence gives zeros.
    """
    spectrum = magnitudes(window)
    filters = mel_filters(sample_rate=RATE, fft=_FFT, bands=BANDS, low=60.0, high=7800.0, scale="slaney")
    return np.stack([_decibels(filters.T @ np.square(part)) for part in separate(spectrum)]).astype(np.float32)


def magnitudes(window: np.ndarray) -> np.ndarray:
    """Return the magnitudes of the spectra of audio `[samples]`: `[513, frames]` float64."""
    shape = np.zeros(_FFT)
    shape[(_FFT - _WINDOW) // 2 :][:_WINDOW] = hann(_WINDOW)
    audio = np.pad(np.asarray(window, dtype=np.float64), _FFT // 2)
    return np.abs(np.fft.rfft(frames(audio, _FFT, HOP) * shape)).T


def separate(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split magnitudes `[frequencies, frames]` into a harmonic and a percussive part of the same shape."""
    harmonic, percussive = _medians(spectrum) ** 2, _medians(spectrum.T).T ** 2
    both = harmonic + percussive
    share = np.divide(harmonic, both, out=np.full_like(both, 0.5), where=both > 0)
    return spectrum * share, spectrum * (1 - share)


def _medians(table: np.ndarray) -> np.ndarray:
    """Return the running medians along the rows. One long row: scipy's filter is ten times as fast on one dimension."""
    from scipy.ndimage import median_filter

    edge = _MEDIAN // 2
    mirrored = np.pad(table, ((0, 0), (edge, edge)), mode="symmetric")
    return median_filter(mirrored.ravel(), size=_MEDIAN).reshape(mirrored.shape)[:, edge:-edge]


def _decibels(powers: np.ndarray) -> np.ndarray:
    levels = 10 * np.log10(np.maximum(powers, _FLOOR))
    return np.maximum(levels - levels.max(), -_DEPTH)


_STEM_WEIGHT = "encoder.encoder.model.0._conv_stem.weight"
_PROJECTION = "encoder.projection.weight"

# Settings of the authors' run: enumerations and paths. An enumeration of Python 3.11's first releases is looked up by
# getattr: the stand-in looks nothing up.
_HARMLESS_MODULES = ("contrastive_model.", "pathlib.")
_HARMLESS_NAMES = ("builtins.getattr",)


class _Ignored:
    """Stands in for an object of a pickle: takes everything, keeps nothing."""

    def __new__(cls, *_: object) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def load_network(path: Path) -> CocolaNetwork:
    """Build the network of a checkpoint.

    Raises:
        WeightsError: the file cannot be read, wants to run code, or is not a COCOLA of harmonic and percussive mels.
    """
    tensors = _read(path)
    if _STEM_WEIGHT not in tensors or _PROJECTION not in tensors or tensors[_PROJECTION].ndim != 2:
        _refuse(path, f"it has no {_STEM_WEIGHT if _STEM_WEIGHT not in tensors else _PROJECTION}")
    channels = tensors[_STEM_WEIGHT].shape[1] if tensors[_STEM_WEIGHT].ndim == 4 else 0
    if channels != CHANNELS:
        _refuse(path, f"its network hears {channels} channel(s), not harmonic and percussive spectra")
    network = CocolaNetwork(tensors[_PROJECTION].shape[0])
    names, expected = published_names(network), network.state_dict()
    wrong = [
        theirs
        for ours, theirs in names.items()
        if theirs not in tensors or tensors[theirs].shape != expected[ours].shape
    ]
    wrong += sorted(tensors.keys() - set(names.values()))
    if wrong:
        _refuse(path, f"{len(wrong)} tensors are missing, unknown or misshapen, such as {', '.join(wrong[:3])}")
    state = {ours: tensors[theirs].to(expected[ours].dtype) for ours, theirs in names.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            check_finite(name, tensor)
    network.load_state_dict(state)
    return network.eval()


def _read(path: Path) -> dict[str, Tensor]:
    harmless = _harmless_names(path)
    if not harmless:
        file = open_checkpoint(path)
        return {name: file.read(name).clone() for name in file.shapes}
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in harmless]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError) as error:
        raise WeightsError(
            f"{path} cannot be read", why=str(error).splitlines()[0], next_step="download it again"
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        _refuse(path, "it has no state_dict")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _harmless_names(path: Path) -> list[str]:
    """Return what must be stood in for; nothing if there is nothing, or also something that may not be."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, OSError, pickle.UnpicklingError):
        return []  # safetensors, an old pickle, or broken: the common reader says what is wrong
    allowed = all(name.startswith(_HARMLESS_MODULES) or name in _HARMLESS_NAMES for name in names)
    return sorted(names) if allowed else []


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(
        f"{path} is not a COCOLA checkpoint that stage-cli can read",
        why=why,
        next_step="use the published COCOLA_HP_v1.ckpt",
    )


SILENCE = 1e-4
"""A window whose peak is below this (−80 dBFS) is silent."""

_BATCH = 8


@dataclass(frozen=True)
class CocolaVectors:
    """What the network makes of one piece of audio.

    Attributes:
        vectors: for each mode `[windows, D]`, on the CPU.
        sounds: which windows are not silent, `[windows]`.
    """

    vectors: dict[Mode, torch.Tensor]
    sounds: np.ndarray


@dataclass(frozen=True)
class CocolaScore:
    """The three scores; nan where no window of both sounds."""

    both: float
    harmonic: float
    percussive: float

    def metrics(self) -> dict[str, float]:
        """Return the scores under the names of the metrics."""
        return {"cocola": self.both, "cocola_harmonic": self.harmonic, "cocola_percussive": self.percussive}


@dataclass(frozen=True)
class PairAnchor:
    """Mean scores of true and of shuffled pairs; nan counts for nothing."""

    true: CocolaScore
    shuffled: CocolaScore


class Cocola:
    """A COCOLA model.

    Args:
        network: with its weights.
        device: where it runs.
    """

    def __init__(self, network: CocolaNetwork, *, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu") -> Cocola:
        """Load the user's checkpoint.

        Raises:
            WeightsError: it cannot be read, wants to run code, or is not a COCOLA of harmonic and percussive mels.
        """
        return cls(load_network(Path(path)), device=device)

    @torch.inference_mode()
    def vectors(self, audio: np.ndarray, sample_rate: int) -> CocolaVectors:
        """Return the vectors of mono audio `[samples]`, which serve for any number of pairs.

        Raises:
            ValueError: the audio is not mono or not finite.
        """
        windows = _windows(audio, sample_rate)
        heard = np.array([features(window) for window in windows], dtype=np.float32).reshape(
            -1, CHANNELS, BANDS, FRAMES
        )
        batches = torch.from_numpy(heard).to(self._device).split(_BATCH)
        made = {mode: torch.cat([self._network(batch, mode) for batch in batches]).cpu() for mode in MODES}
        return CocolaVectors(made, np.abs(windows).max(axis=1, initial=0.0) >= SILENCE)

    @torch.inference_mode()
    def compare(self, context: CocolaVectors, stem: CocolaVectors) -> CocolaScore:
        """Return the scores of a context and a stem that begin together; the longer one's end is left out."""
        count = min(len(context.sounds), len(stem.sounds))
        sounds = torch.from_numpy(context.sounds[:count] & stem.sounds[:count])
        found = {}
        for mode in MODES:
            first, second = (side.vectors[mode][:count][sounds].to(self._device) for side in (context, stem))
            found[mode] = float(self._network.score(first, second).mean()) if len(first) else float("nan")
        return CocolaScore(found["both"], found["harmonic"], found["percussive"])

    def score(self, context: np.ndarray, stem: np.ndarray, sample_rate: int) -> CocolaScore:
        """Return the scores of a context and a stem, mono `[samples]`, that begin together.

        Raises:
            ValueError: the audio is not mono or not finite.
        """
        return self.compare(self.vectors(context, sample_rate), self.vectors(stem, sample_rate))


def pair_anchor(
    cocola: Cocola,
    contexts: Sequence[CocolaVectors],
    stems: Sequence[CocolaVectors],
    songs: Sequence[str],
    *,
    seed: int,
) -> PairAnchor:
    """Score contexts with their own stems, and with the stems of other songs.

    Args:
        cocola: the model that made the vectors.
        contexts: of each item.
        stems: the true stem of each item.
        songs: the song of each item.
        seed: of the shuffle.

    Raises:
        ValueError: the lists differ in length, or there are not two songs.
    """
    if not len(contexts) == len(stems) == len(songs):
        raise ValueError(f"{len(contexts)} contexts, {len(stems)} stems and {len(songs)} songs")
    others = other_songs(songs, seed=seed)
    true = [cocola.compare(context, stem) for context, stem in zip(contexts, stems, strict=True)]
    shuffled = [cocola.compare(context, stems[other]) for context, other in zip(contexts, others, strict=True)]
    return PairAnchor(mean_score(true), mean_score(shuffled))


def mean_score(scores: Sequence[CocolaScore]) -> CocolaScore:
    """Return the means of scores; nan counts for nothing, and is what is left of nothing."""
    table = np.array([[score.both, score.harmonic, score.percussive] for score in scores]).reshape(-1, 3)
    kept = table[~np.isnan(table).any(axis=1)]
    return CocolaScore(*(kept.mean(axis=0).tolist() if len(kept) else [float("nan")] * 3))


def _windows(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the windows of audio, `[windows, 80000]` float32 at 16 kHz."""
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"audio must be mono, [samples], not {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("audio must be finite")
    if len(samples):
        samples = resample(samples, sample_rate, RATE)
    if len(samples) < SAMPLES:
        return np.zeros((0, SAMPLES), dtype=np.float32)
    return frames(samples, SAMPLES, SAMPLES // 2)
