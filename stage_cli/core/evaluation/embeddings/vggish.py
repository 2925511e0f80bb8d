"""`vggish`: the network of the first FAD papers, one vector of 128 for each 0.96 s (Hershey et al., arXiv 1609.09430).

Users bring the weights: a safetensors file or a pickle of tensors, with the names of the public PyTorch port
(`features.{0,3,6,8,11,13}`, `embeddings.{0,2,4}`, each `.weight` and `.bias`; the PCA's tensors are let be).

As in the reference toolkits, vectors are taken before the last activation, without PCA and quantization. Front end:
16 kHz; magnitudes of frames of 400 samples every 160, periodic Hann window, Fourier transform of 512; 64 HTK mel bands
from 125 to 7500 Hz; log(mel + 0.01); examples of 96 frames that do not overlap. Audio shorter than one example gets
silence behind it; an incomplete last example is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.evaluation.embeddings.embedding import Embedding, padded
from stage_cli.core.evaluation.embeddings.spectra import frames, hann, mel_filters
from stage_cli.core.weights.tensors import open_checkpoint
from stage_cli.errors import WeightsError

RATE = 16_000
FRAME = 400
HOP = 160
BANDS = 64
EXAMPLE = 96
"""Frames of an example."""

_FFT = 512
_OFFSET = 0.01
_VGGISH_BATCH = 16
_IGNORED = ("pproc.", "pca_")
# Channels of the convolutions, pooled where a list ends.
_STAGES = ((64,), (128,), (256, 256), (512, 512))


class VGGish(nn.Module):
    """Log-mel examples `[B, 96, 64]` to vectors `[B, 128]`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for stage in _STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        shrunk = 2 ** len(_STAGES)
        inputs = channels * (EXAMPLE // shrunk) * (BANDS // shrunk)
        self.embeddings = nn.Sequential(
            nn.Linear(inputs, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, examples: Tensor) -> Tensor:
        """Return the vectors before the last activation."""
        hidden = self.features(examples[:, None])
        return self.embeddings(hidden.permute(0, 2, 3, 1).flatten(1))  # channels last, as TensorFlow has them


class VggishEmbedding(Embedding):
    """The vectors of a VGGish, `[examples, 128]`.

    Args:
        weights: the user's file.
        device: where it runs.

    Raises:
        WeightsError: the file cannot be read, or holds no VGGish.
    """

    name, sample_rate, width = "vggish", RATE, 128

    def __init__(self, weights: Path | str, *, device: str = "cpu") -> None:
        path = Path(weights)
        file = open_checkpoint(path)
        with torch.device("meta"):
            network = VGGish()
        expected = network.state_dict()
        wrong = [name for name, tensor in expected.items() if file.shapes.get(name) != tuple(tensor.shape)]
        wrong += [name for name in file.shapes if name not in expected and not name.startswith(_IGNORED)]
        if wrong:
            raise WeightsError(
                f"{path} holds no VGGish",
                why=f"missing, unknown or misshapen: {', '.join(wrong[:4])}",
                next_step="the names of the public PyTorch port are expected (features.0.weight …)",
            )
        network.load_state_dict({name: file.read(name).float().clone() for name in expected}, assign=True)
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()

    @torch.inference_mode()
    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one vector for each example of each clip."""
        found = []
        for clip in clips:
            examples = torch.from_numpy(log_mel_examples(clip)).to(self._device)
            found.append(torch.cat([self._network(batch) for batch in examples.split(_VGGISH_BATCH)]).cpu().numpy())
        return found


def log_mel_examples(clip: np.ndarray) -> np.ndarray:
    """Return the examples of audio `[samples]` at 16 kHz: `[examples, 96, 64]` float32, at least one."""
    audio = padded(np.asarray(clip, dtype=np.float64), FRAME + (EXAMPLE - 1) * HOP)
    spectra = np.abs(np.fft.rfft(frames(audio, FRAME, HOP) * hann(FRAME), _FFT))
    filters = mel_filters(sample_rate=RATE, fft=_FFT, bands=BANDS, low=125.0, high=7500.0, scale="htk")
    bands = np.log(spectra @ filters + _OFFSET)
    whole = len(bands) // EXAMPLE
    return bands[: whole * EXAMPLE].reshape(whole, EXAMPLE, BANDS).astype(np.float32)
