"""What `stage train` trains: a language model that writes a stem, on tokens of a frozen codec.

Which parameters are optimized how.

The task of `stage train`: songs in, a STAGE model out (the engine's `Task`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.data.dataset import AudioBatch, Item, StemDataset, left_pad_codes
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.splits import split_songs
from stage_cli.core.model import StageModel
from stage_cli.core.precision import SMALL_MODEL, Runtime
from stage_cli.core.training.lora import save_adapter
from stage_cli.core.training.settings import TrainingConfig, contradiction
from stage_cli.core.training.stem_module import (
    CodeBatch,
    Conditioning,
    ContextHeads,
    Dropouts,
    StemModule,
    TokenBatch,
    TokenItem,
    collate_items,
    pick_conditioning,
)
from stage_cli.core.training.task import ParameterGroup
from stage_cli.core.training.tokens import CachedTokens, cached_tokens, encode_batch, make_tokens
from stage_cli.core.weights.checkpoint import own_shapes
from stage_cli.core.weights.saving import save_directory
from stage_cli.errors import UsageError

# What maps hidden states to hidden states. AdamW's steps suit embeddings; for what is heard of the context, whose input
# is eight times as wide as a layer's, they are so large that all else learns more slowly (docs/dev/bundled-models.md).
_HIDDEN = re.compile(r"(?:^|\.)(layers\.\d+|aligned|context_convolutions\.blocks\.\d+)\.")


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """Whether a parameter is a matrix that maps hidden states to hidden states, which Muon takes."""
    return dimensions == 2 and _HIDDEN.search(name) is not None


def parameter_groups(module: nn.Module) -> list[ParameterGroup]:
    """Divide the trainable parameters: matrices of hidden states (for Muon), other matrices and tables, vectors.

    Norms and biases do not decay. (In STAGE's own training they do; at its rates, 1e-8 a step, that is nothing.)
    """
    trainable = [(name, parameter.ndim) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matrices = tuple(name for name, ndim in trainable if is_hidden_matrix(name, ndim))
    vectors = tuple(name for name, ndim in trainable if ndim < 2)
    others = tuple(name for name, _ in trainable if name not in {*matrices, *vectors})
    groups = [
        ParameterGroup(matrices, "matrix"),
        ParameterGroup(others, "other"),
        ParameterGroup(vectors, "other", decay=False),
    ]
    return [group for group in groups if group.names]


class StemTask:
    """A model that learns to write stems.

    Attributes:
        config: the run's.
        model: codec, text encoder and language model; the trained weights are its own.
        module: the part of it that is trained.
        training_songs: that it learns from.
        validation_songs: that are never trained on.
        dataset: of the training; with `data.tokens = "cache"` call `prepare_tokens` before its first item.

    Args:
        config: the run's.
        model: as `build_model` gives it.

    Raises:
        UsageError: there are no songs, none for the validation, codebook weights for another number of codebooks, or
            losses on the context for a model that does not read it first, or for an adapter.
    """

    units: tuple[str, ...] = ("TransformerLayer",)
    module: nn.Module
    dataset: StemDataset | CachedTokens

    def __init__(self, config: TrainingConfig, model: StageModel) -> None:
        self.config = config
        self.model = model
        weights = config.train.loss_weights(model.config.lm.codebooks)
        self.module = StemModule(model.lm, model.text_projection, weights, _context_heads(config, model))
        split = split_songs(find_songs(config.data.root), config.data)
        self.training_songs = split.training
        self.validation_songs = split.validation
        self._audio = StemDataset(config.data, model.config.codec.sample_rate, config.run.seed, songs=split.training)
        self.dataset = self._audio
        if config.loading.tokens == "cache":
            self.dataset = cached_tokens(
                config.directory,
                self._audio,
                model.codec,
                config.loading.cache_epochs,
                labels=config.train.has_context_losses,
                shared=Path(config.loading.cache_directory).expanduser() if config.loading.cache_directory else None,
            )

    @staticmethod
    def collate(items: Sequence[Item] | Sequence[TokenItem]) -> AudioBatch | CodeBatch:
        """Make a batch."""
        return collate_items(items)

    def place(self, device: torch.device) -> None:
        """Move codec and text encoder to a device; the engine moves `module`."""
        self.model.runtime = Runtime(device, "float32")
        self.model.codec.to(self.model.runtime.codec_device).eval()
        if self.model.config.takes_text:
            self.model.text_encoder()  # now: it may have to be fetched

    def prepare_tokens(
        self, *, process: int = 0, processes: int = 1, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Make this process's share of the token cache, after `place`; all processes must wait for each other then.

        Does nothing where tokens are made inside the step.

        Args:
            process: number of this process.
            processes: of all.
            on_progress: called with the items done and those to do by this process.

        Raises:
            AudioError: a song cannot be read.
            StageError: the tokens cannot be written.
        """
        if isinstance(self.dataset, CachedTokens):
            make_tokens(
                self.dataset,
                self._audio,
                self.model.codec,
                device=self.model.runtime.device,
                batch_size=self.config.train.micro_batch_size,
                workers=self.config.loading.workers,
                process=process,
                processes=processes,
                on_progress=on_progress,
            )

    @torch.no_grad()
    def inputs(self, batch: AudioBatch | CodeBatch, epoch: int, *, drop: bool = True) -> TokenBatch:
        """Make tokens and text of a batch that is on the device.

        Args:
            batch: of `collate`.
            epoch: with the run's seed and each item's index, all that the dropouts depend on.
            drop: False keeps contexts and descriptions whole, for validation.
        """
        train = self.config.train
        codes = batch
        if not isinstance(codes, CodeBatch):
            codes = encode_batch(self.model.codec, codes, labels=train.has_context_losses)
        dropouts = Dropouts(train.context_dropout, train.description_dropout, train.word_dropout, train.history_dropout)
        seed = self.config.run.seed
        drawn = [
            pick_conditioning(dropouts if drop else Dropouts(), description, seed=seed, epoch=epoch, index=item.index)
            for item, description in zip(codes.items, codes.descriptions, strict=True)
        ]
        frames = tuple(
            own if chosen.with_context else 0 for own, chosen in zip(codes.context_frames, drawn, strict=True)
        )
        contexts = [row[:, :own] for row, own in zip(codes.context, frames, strict=True)]
        text, mask = self._text([chosen.description for chosen in drawn], codes.target.device)
        context = left_pad_codes(contexts, self.model.config.lm.pad)
        hidden = self._hidden(drawn, codes.target)
        return TokenBatch(context, frames, codes.target, text, mask, hidden, codes.labels)

    def _hidden(self, drawn: Sequence[Conditioning], target: Tensor) -> Tensor | None:
        """`[B, Tt]` bool of the frames that are not seen, or None where no row has any."""
        if not any(chosen.hidden for chosen in drawn):
            return None
        rows = [chosen.hidden_frames(target.shape[2], self.model.config.codec.frame_rate) for chosen in drawn]
        return torch.from_numpy(np.stack(rows)).to(target.device)

    def parameter_groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Say which trainable parameters are optimized how."""
        return parameter_groups(module)

    def audio_seconds(self, batch: AudioBatch | CodeBatch) -> float:
        """Return the seconds of the targets."""
        codec = self.model.config.codec
        length = batch.target.shape[-1]
        return (
            batch.target.shape[0] * length / (codec.frame_rate if isinstance(batch, CodeBatch) else codec.sample_rate)
        )

    def save(self, directory: Path, metrics: Mapping[str, float], state: Mapping[str, Tensor] | None = None) -> None:
        """Write the model in our format, or the adapter of a LoRA run.

        The language model is stored as bfloat16 from `SMALL_MODEL` parameters on, and as fp32 below: large models are
        run in bfloat16 or int8 anyway, small ones in fp32. Codec and text projection are fp32, as they are run.

        Args:
            directory: made if it does not exist.
            metrics: left to the model card.
            state: weights of `module` to be written instead of those it holds.

        Raises:
            WeightsError: it cannot be written.
        """
        del metrics
        config, lora = self.model.config, self.config.lora
        if lora is not None:
            save_adapter(directory, self.model, lora, self.config.model.base, state=state)
            return
        whole = self.module.state_dict() if state is None else state
        trained = {name: tensor for name, tensor in whole.items() if not name.startswith("listening.")}
        dtype = torch.bfloat16 if config.lm.parameters >= SMALL_MODEL else torch.float32
        tensors = {f"codec.{name}": tensor for name, tensor in self.model.codec.state_dict().items()}
        tensors |= {name: tensor.to(dtype) if name.startswith("lm.") else tensor for name, tensor in trained.items()}
        expected = own_shapes(config)
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
            raise ValueError(f"not the model's tensors: {sorted(tensors.keys() ^ expected.keys())[:8]}")
        save_directory(directory, config, tensors.items())

    def _text(self, descriptions: Sequence[str], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Vectors `[B, L, text dimension]` and mask `[B, L]`; None where no item has a description."""
        if not self.model.config.takes_text or not any(map(str.strip, descriptions)):
            return None, None
        vectors, mask = self.model.text_encoder().encode(descriptions)
        # Copies: the encoder's own are inference tensors, of which no gradient can be made.
        return vectors.to(device).clone(), mask.to(device).clone()


def _context_heads(config: TrainingConfig, model: StageModel) -> ContextHeads | None:
    """Make what learns from the context alone, or None where nothing is to."""
    train, lm = config.train, model.config.lm
    if not train.has_context_losses:
        return None
    key = "beat_weight" if train.beat_weight else "harmony_weight"
    if config.lora is not None:
        raise contradiction(
            "the table [lora]",
            f"train.{key} = {getattr(train, key):g}",
            why="an adapter has no weights for it",
            next_step=f"set train.{key} to 0",
        )
    if not lm.reads_context_first:
        raise UsageError(
            f"train.{key} = {getattr(train, key):g} is not for this model",
            why="it does not read its context before the rest",
            next_step=f'set model.lm.context_attention to "full", or train.{key} to 0',
        )
    return ContextHeads(lm.dimension, train.beat_weight, train.harmony_weight)
