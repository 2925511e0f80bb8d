"""A codec as something to train: crops of the data set's audio in, reconstructions out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.kinds import make_codec
from stage_cli.core.codec.quantizer import CodebookTraining
from stage_cli.core.data.collate import AudioBatch, collate
from stage_cli.core.data.dataset import StemDataset
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.item import Item
from stage_cli.core.data.splits import split_songs
from stage_cli.core.training.codec.module import CodecInputs, CodecModule
from stage_cli.core.training.config.codec import CodecTrainConfig
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.engine.task import ParameterGroup
from stage_cli.core.weights.codecs import load_codec
from stage_cli.core.weights.saving import save_codec_directory
from stage_cli.errors import UsageError

# Crops with a lower peak teach nothing.
_SILENCE = 1e-3
_STREAM = 0xC0DEC


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
        draw_weights(codec, self.config.run.seed)
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
            chance = np.random.default_rng((self.config.run.seed, epoch, item.index, _STREAM))
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
        seed = int(np.random.SeedSequence((self.config.run.seed, epoch, first, _STREAM)).generate_state(1)[0])
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
def draw_weights(codec: Codec, seed: int) -> None:
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
