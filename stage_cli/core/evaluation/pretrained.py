"""`codec`: what a codec's encoder writes before quantization, one vector for each frame (50 a second).

Always there and offline: the model that is evaluated carries its codec. Frames hear what sounds together at one moment,
not form or phrasing. The reference toolkits' `encodec-emb` does the same with another EnCodec.

Networks of the transformers library from a directory: tensors are read by us, and nothing in it is executed.

`clap`: vectors of a CLAP, which hears audio and reads text into one space (Wu et al., arXiv 2211.06687).

One vector of length 1 for each 10 s. Needs a checkpoint of the transformers library: a directory, or a Hub id.
The music checkpoint is the default (Apache-2.0).

CLAP's text score: the cosine of the angle between the vectors of a description and of audio, −1 to 1, the mean over
the audio's pieces. Real pairs reach some 0.2 to 0.5; compare with the score of true stems, not with 1.

`mert`: the last layer of MERT-v1 (Li et al., arXiv 2306.00107), 75 vectors a second.

MERT's repository brings Python code, which we do not run. It is not needed: as published, MERT-v1 (95M and 330M) is a
HuBERT, which the transformers library has built in. What MERT's code adds (constant-Q features, DeepNorm, batch norm of
the positions) is switched off in both configs; one that switches it on is refused. `attention_relax`, set in the 330M
model, is only read by the DeepNorm layers. Checked against the config and the code that are published beside the
weights. Licence of the weights: CC-BY-NC-4.0.

`vggish`: the network of the first FAD papers, one vector of 128 for each 0.96 s (Hershey et al., arXiv 1609.09430).

Users bring the weights: a safetensors file or a pickle of tensors, with the names of the public PyTorch port
(`features.{0,3,6,8,11,13}`, `embeddings.{0,2,4}`, each `.weight` and `.bias`; the PCA's tensors are let be).

As in the reference toolkits, vectors are taken before the last activation, without PCA and quantization. Front end:
16 kHz; magnitudes of frames of 400 samples every 160, periodic Hann window, Fourier transform of 512; 64 HTK mel bands
from 125 to 7500 Hz; log(mel + 0.01); examples of 96 frames that do not overlap. Audio shorter than one example gets
silence behind it; an incomplete last example is left out.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.audio.spectra import frames, hann, mel_filters
from stage_cli.core.codec.codec import Codec
from stage_cli.core.evaluation.embeddings import Embedding, padded, pieces
from stage_cli.core.model_config import read_config
from stage_cli.core.weights.checkpoint import weights_file
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.tensors import open_checkpoint
from stage_cli.errors import WeightsError


class CodecEmbedding(Embedding):
    """The latents of a codec, `[frames, D]`.

    Args:
        codec: a model's (`StageModel.codec`), or one read by `load_codec`.
    """

    name = "codec"

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.sample_rate = codec.config.sample_rate
        self.width = codec.config.dimension

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the latents of each clip; a codec of several channels gets the clip in each."""
        return [self._latents(clip) for clip in clips]

    @torch.inference_mode()
    def _latents(self, clip: np.ndarray) -> np.ndarray:
        weight = next(self._codec.parameters())
        audio = torch.from_numpy(clip).to(weight.device, weight.dtype).expand(1, self._codec.config.channels, -1)
        return self._codec.latents(audio)[0].T.float().cpu().numpy()


PICKLE = "pytorch_model.bin"
"""Where older repositories keep their weights; read with `weights_only=True`."""


def network_directory(name: str, *, offline: bool = False) -> Path:
    """Find a network's directory by path or Hub id, fetching it if needed.

    Raises:
        UsageError: no such name.
        HubError: it cannot be fetched.
    """
    return resolve(name, offline=offline, network=True)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Read all tensors of a directory's weights.

    Raises:
        WeightsError: there are none, or they cannot be read.
    """
    path = weights_file(directory)
    if not path.exists():
        path = directory / PICKLE
    if not path.exists():
        raise WeightsError(f"{directory} holds no weights", why=f"neither model.safetensors nor {PICKLE} is in it")
    file = open_checkpoint(path)
    return {name: file.read(name).clone() for name in file.shapes}


def build(network: Any, config: Any, tensors: Mapping[str, Tensor], directory: Path) -> Any:
    """Make a network of the transformers library, in fp32 and evaluation mode.

    Args:
        network: the class.
        config: of the network.
        tensors: its weights; unknown ones are let be.
        directory: where they are from, for the message.

    Raises:
        WeightsError: a weight is missing or misshapen.
    """
    with _quiet():
        try:
            made, found = network.from_pretrained(
                None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise WeightsError(f"{directory} does not fit", why=str(error).strip().splitlines()[0]) from None
    wrong = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    if wrong:
        raise WeightsError(
            f"{directory} does not fit a {network.__name__}",
            why=f"{len(wrong)} weights are missing or misshapen, such as {', '.join(wrong[:3])}",
            next_step="fetch it again, or name another one",
        )
    return made.eval()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the library from showing a progress bar and a report of its own."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


CLAP_DEFAULT = "laion/larger_clap_music"

_CLAP_BATCH = 8
_NEEDED = ("preprocessor_config.json", "tokenizer.json")


class ClapEmbedding(Embedding):
    """The audio and text vectors of a CLAP.

    Args:
        source: a directory or Hub id.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: no such source.
        HubError: it cannot be fetched.
        WeightsError: it is not a CLAP, or not whole.
    """

    name = "clap"

    def __init__(self, source: str = CLAP_DEFAULT, *, device: str = "cpu", offline: bool = False) -> None:
        from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

        directory = network_directory(source, offline=offline)
        values = read_config(directory / "config.json")
        if values.get("model_type") != "clap":
            raise WeightsError(f"{directory} is not a CLAP", why=f"its config.json says {values.get('model_type')!r}")
        for file in _NEEDED:
            if not (directory / file).exists():
                raise WeightsError(f"{directory} has no {file}", next_step="fetch the CLAP again")
        self._device = torch.device(device)
        self._model: Any = build(ClapModel, ClapConfig(**values), read_tensors(directory), directory).to(self._device)
        self._features: Any = ClapFeatureExtractor.from_pretrained(directory, local_files_only=True)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.sample_rate = int(self._features.sampling_rate)
        self.width = int(self._model.config.projection_dim)

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one vector for each 10 s; shorter audio is repeated, as the feature extractor does it."""
        cut = [pieces(clip, int(self._features.nb_max_samples)) for clip in clips]
        flat = [piece for several in cut for piece in several]
        rows = np.concatenate(
            [self._audio(flat[first : first + _CLAP_BATCH]) for first in range(0, len(flat), _CLAP_BATCH)]
        )
        return np.split(rows, np.cumsum([len(several) for several in cut])[:-1])

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of B descriptions, `[B, width]` float32, each of length 1.

        Raises:
            ValueError: there is none, or one is empty.
        """
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("descriptions must not be empty")
        # RoBERTa counts positions from 2: two fewer tokens than positions.
        longest = int(self._model.config.text_config.max_position_embeddings) - 2
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt").to(
            self._device
        )
        output = self._model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return output.pooler_output.float().cpu().numpy()

    @torch.inference_mode()
    def _audio(self, clips: list[np.ndarray]) -> np.ndarray:
        batch = self._features(clips, sampling_rate=self.sample_rate, return_tensors="pt").to(self._device)
        # The library marks one clip of each batch at random as longer than it is; none of ours is.
        longer = torch.zeros(len(clips), 1, dtype=torch.bool, device=self._device)
        output = self._model.get_audio_features(input_features=batch["input_features"].float(), is_longer=longer)
        return output.pooler_output.float().cpu().numpy()


def text_score(clap: ClapEmbedding, audio: np.ndarray, sample_rate: int, description: str) -> float:
    """Return how well audio fits a description, −1 to 1; nan if the description is empty or the audio silent.

    Args:
        clap: the embedding.
        audio: mono `[samples]`.
        sample_rate: Hz.
        description: what it should sound like.

    Raises:
        ValueError: the audio is empty, not mono or not finite.
    """
    heard = clap.embed(audio, sample_rate)
    if not description.strip() or not np.any(audio):
        return float("nan")
    return cosine(heard, clap.embed_text([description]))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean cosine of the angles between all rows of two tables, `[n, width]` and `[m, width]`."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return float(np.mean((a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))))


MERT_DEFAULT = "m-a-p/MERT-v1-95M"

_TYPES = ("mert_model", "hubert")
_NOT_HUBERT = ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")
_PREPROCESSOR = "preprocessor_config.json"
_SECONDS = 30  # attention grows with the square of the length


class MertEmbedding(Embedding):
    """The last hidden states of a MERT-v1, `[frames, width]`.

    Args:
        source: a directory or Hub id.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: no such source.
        HubError: it cannot be fetched.
        WeightsError: it is not a MERT-v1, or not whole.
    """

    name = "mert"

    def __init__(self, source: str = MERT_DEFAULT, *, device: str = "cpu", offline: bool = False) -> None:
        from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

        directory = network_directory(source, offline=offline)
        values = read_config(directory / "config.json")
        if values.get("model_type") not in _TYPES:
            raise WeightsError(f"{directory} is not a MERT", why=f"its config.json says {values.get('model_type')!r}")
        if extra := [name for name in _NOT_HUBERT if values.get(name)]:
            raise WeightsError(
                f"{directory} is a MERT that only its own code can run",
                why=f"its config.json asks for {', '.join(extra)}, and code from elsewhere is never executed",
                next_step=f"use {MERT_DEFAULT}",
            )
        if not (directory / _PREPROCESSOR).exists():
            raise WeightsError(f"{directory} has no {_PREPROCESSOR}", next_step="fetch the MERT again")
        config = HubertConfig(
            **{name: value for name, value in values.items() if name not in ("auto_map", "model_type")}
        )
        self._device = torch.device(device)
        self._model: Any = build(HubertModel, config, read_tensors(directory), directory).to(self._device)
        self._features: Any = Wav2Vec2FeatureExtractor.from_pretrained(directory, local_files_only=True)
        self.sample_rate = int(self._features.sampling_rate)
        self.width = int(config.hidden_size)
        self._shortest = _receptive_field(config.conv_kernel, config.conv_stride)

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the hidden states of each clip, of which at most 30 s are heard at once."""
        return [
            np.concatenate([self._hidden(piece) for piece in pieces(clip, _SECONDS * self.sample_rate)])
            for clip in clips
        ]

    @torch.inference_mode()
    def _hidden(self, piece: np.ndarray) -> np.ndarray:
        clip = padded(piece, self._shortest)
        batch = self._features(clip, sampling_rate=self.sample_rate, return_tensors="pt")
        output = self._model(input_values=batch["input_values"].float().to(self._device))
        return output.last_hidden_state[0].float().cpu().numpy()


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the fewest samples that make a frame."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


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
    filters = mel_filters(sample_rate=RATE, fft=_FFT, bands=BANDS, low=125.0, high=7500.0, scale="vggish")
    bands = np.log(spectra @ filters + _OFFSET)
    whole = len(bands) // EXAMPLE
    return bands[: whole * EXAMPLE].reshape(whole, EXAMPLE, BANDS).astype(np.float32)
