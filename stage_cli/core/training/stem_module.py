"""What can be told of each frame of an item without a model: whether a beat falls on it, and what pitches sound.

A model that reads its context first can be taught to find it there (`train.beat_weight`, `train.harmony_weight`).

A further loss, for the training alone: to tell beats and harmony from what the layers make of the context.

The loss on tokens says little about either: a drummer's next token is mostly about how a drum sounds. Where beats are
annotated, and where the target's pitch classes can be heard, they are told directly (multi-task learning, R. Caruana,
1997). The linear read-out is thrown away afterwards.

Batches of codec tokens: as the cache gives them, and as the language model learns from them.

What an item is learned with: its context or none, its description, a part of it, or none; its past, or gaps in it.

Everything is drawn from (seed, epoch, index) in a stream of its own, so it is the same in any batch, on any process and
after resuming, and other dropout rates change neither chunks nor contexts nor each other's draws.

The trainable part and its loss: the language model, with the projection of the text in front of it.

Rows of one batch have contexts of unequal lengths. What STAGE masks (step 0, left padding, dropped contexts) always
lies before the first attended step of a row, so each row is moved to begin with that step. Shorter rows then end in
padding, which a causal model never sees: there is no mask, positions are the same in all rows (unless they restart at
the separator), and attention takes the fastest kernel. Outputs are those of the masked sequence (docs/dev/model.md).

A model that reads its context first (`LanguageModelConfig.reads_context_first`) does so with masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.audio.spectra import notes_below, semitones
from stage_cli.core.codec.config import CodecShape
from stage_cli.core.data.dataset import AudioBatch, Item, collate, left_pad_codes
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import Layout, delay, delayed_sequence, join
from stage_cli.core.lm.transformer import LanguageModel, ReadContext
from stage_cli.core.text import drop_words

BEATS = 2
PITCH_CLASSES = 12
LABELS = BEATS + PITCH_CLASSES
"""Columns: beat, downbeat, and the pitch classes from C."""

_FEWEST_BEATS = 2
# Frames to either side of a beat on which it counts in part: annotations are not exact to the frame.
_REACH = 1.5
# Long enough to tell the semitones of a bass's overtones apart.
_WINDOW_SECONDS = 0.34
_NOTES = range(28, 88)  # E1 to D#6
_SILENCE = 1e-2  # of the loudest semitone, as an amplitude


@torch.no_grad()
def label_batch(batch: AudioBatch, codec: CodecShape) -> Tensor:
    """Label the frames of a batch's targets.

    Returns:
        `[B, Tt, LABELS]` float32 on the batch's device. Beats and downbeats are 1 where they fall into the middle of a
        frame and fall to 0 within 1.5 frames; NaN in items with fewer than two beats. Pitch classes of the target sum
        to 1; all are 0 where it is silent.
    """
    frames = codec.frames(batch.target.shape[1])
    beats = np.stack([
        [_near(times, frames, codec.frame_rate, known=len(item.beats) >= _FEWEST_BEATS) for times in marks]
        for item in batch.items
        for marks in [(item.beats, item.downbeats)]
    ])  # fmt: skip
    marked = torch.from_numpy(beats).float().transpose(1, 2).to(batch.target.device)
    return torch.cat([marked, _pitch_classes(batch.target, codec, frames)], dim=2)


def _near(times: np.ndarray, frames: int, frame_rate: float, *, known: bool) -> np.ndarray:
    """`[frames]`: how near the middle of each frame lies to one of some times in seconds."""
    if not known:
        return np.full(frames, np.nan)
    if not len(times):
        return np.zeros(frames)
    distance = np.abs(np.arange(frames)[:, None] + 0.5 - times * frame_rate).min(axis=1)
    return np.maximum(0, 1 - distance / _REACH)


def _pitch_classes(audio: Tensor, codec: CodecShape, frames: int) -> Tensor:
    """`[B, samples]` → `[B, frames, 12]`: shares of the energy, under windows around the middle of each frame."""
    hop = codec.hop_length
    size = max(2 * hop, round(_WINDOW_SECONDS * codec.sample_rate / 2) * 2)
    edge = (size - hop) // 2
    missing = frames * hop - audio.shape[1]
    pieces = torch.nn.functional.pad(audio.float(), (edge, size - hop - edge + missing)).unfold(1, size, hop)
    window = torch.hann_window(size, device=audio.device)
    magnitudes = torch.fft.rfft(pieces * window).abs() * (2 / window.sum())
    notes = notes_below(codec.sample_rate / 2, _NOTES)
    filters = torch.from_numpy(semitones(size, codec.sample_rate, notes)).to(magnitudes)
    energy = (magnitudes @ filters).square()
    # The first note's pitch class is that of its MIDI number: multiples of 12 are Cs.
    classes = torch.arange(notes.start, notes.stop, device=audio.device) % PITCH_CLASSES
    folded = torch.zeros(*energy.shape[:2], PITCH_CLASSES, device=audio.device).index_add_(2, classes, energy)
    total = folded.sum(dim=2, keepdim=True)
    heard = energy.amax(dim=2, keepdim=True) > _SILENCE**2
    return torch.where(heard, folded / total.clamp(min=1e-12), torch.zeros_like(folded))


class ContextHeads(nn.Module):
    """Reads beats and pitch classes off the hidden states of a context.

    Args:
        dimension: D of the language model.
        beat_weight: of the loss on beats and downbeats.
        harmony_weight: of the loss on the target's pitch classes.
    """

    def __init__(self, dimension: int, beat_weight: float, harmony_weight: float) -> None:
        super().__init__()
        self.beat_weight, self.harmony_weight = beat_weight, harmony_weight
        self.read = nn.Linear(dimension, LABELS)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, states: Tensor, attended: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            states: `[B, C, D]`, normalized, of the context's steps; each row's own ones are the last, and the first of
                those belongs to the target's first frame.
            attended: `[B, C]`, False at steps that are no row's own.
            labels: `[B, Tt, LABELS]` of `label_batch`, Tt ≥ C.

        Returns:
            "loss", weighted, with a gradient; "beat_loss" (binary cross-entropy) and "harmony_loss" (cross-entropy)
            without. Each is a mean over the frames that have a label, 0 where none has.
        """
        read = self.read(states).float()
        C = attended.shape[1]
        frames = torch.arange(C, device=states.device) - (C - attended.sum(dim=1, keepdim=True))
        told = labels.gather(1, frames.clamp(min=0)[..., None].expand(-1, -1, LABELS))
        beats, classes = told[..., :BEATS], told[..., BEATS:]
        known = attended[..., None] & ~beats.isnan()
        beat = F.binary_cross_entropy_with_logits(read[..., :BEATS], beats.nan_to_num(), reduction="none")
        beat_loss = _mean(beat, known)
        harmony = -(classes * read[..., BEATS:].log_softmax(dim=2)).sum(dim=2)
        harmony_loss = _mean(harmony, attended & (classes.sum(dim=2) > 0))
        loss = self.beat_weight * beat_loss + self.harmony_weight * harmony_loss
        return {"loss": loss, "beat_loss": beat_loss.detach(), "harmony_loss": harmony_loss.detach()}


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class TokenItem:
    """An item whose tokens were made before.

    Attributes:
        context: `[K, Tc]` int64.
        target: `[K, Tt]` int64.
        description: "" where nothing is known.
        stem: of the target.
        song: id.
        start: seconds of the song at which context and target begin.
        index: in the data set.
        labels: `[Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    target: Tensor
    description: str
    stem: str
    song: str
    start: float
    index: int
    labels: Tensor | None = None


@dataclass(frozen=True)
class CodeBatch:
    """Items as codes of the codec, nothing dropped.

    Attributes:
        context: `[B, K, Tc]` int64; what lies behind a context's own frames means nothing.
        context_frames: the length of each.
        target: `[B, K, Tt]` int64.
        descriptions: one an item.
        items: without audio, tokens and labels: song, stem, index, ….
        labels: `[B, Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    context_frames: tuple[int, ...]
    target: Tensor
    descriptions: tuple[str, ...]
    items: tuple[Item | TokenItem, ...]
    labels: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CodeBatch:
        """Move the codes."""
        return replace(
            self,
            context=self.context.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> CodeBatch:
        """Pin the codes; `DataLoader(pin_memory=True)` calls it."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, context=self.context.pin_memory(), target=self.target.pin_memory(), labels=labels)


@dataclass(frozen=True)
class TokenBatch:
    """What the module is called with.

    Attributes:
        context: `[B, K, Tc]` int64, left-padded with the pad token; Tc is the longest of `context_frames`.
        context_frames: own frames of each context, 0 where it is dropped. On the CPU: shapes are made of them.
        target: `[B, K, Tt]` int64.
        text: `[B, L, text dimension]` of the text encoder, or None: no item has a description.
        text_mask: `[B, L]` bool, False everywhere where a description is dropped; None with `text`.
        hidden: `[B, Tt]` bool, True where a frame of the target is learned but not seen; None is nowhere.
        labels: `[B, Tt, LABELS]` of `labels.label_batch`, or None.
    """

    context: Tensor
    context_frames: tuple[int, ...]
    target: Tensor
    text: Tensor | None = None
    text_mask: Tensor | None = None
    hidden: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context_frames)

    def contexts(self) -> list[Tensor]:
        """Return each item's own context, `[K, its frames]`."""
        end = self.context.shape[2]
        return [row[:, end - own :] for row, own in zip(self.context, self.context_frames, strict=True)]

    def seen_target(self, pad: int) -> Tensor:
        """Return the target as the model sees it, `[B, K, Tt]`: the language model's pad where it is hidden."""
        return self.target if self.hidden is None else self.target.masked_fill(self.hidden[:, None], pad)

    def with_contexts(self, contexts: Sequence[Tensor], pad: int) -> TokenBatch:
        """Return the batch with other contexts, `[K, any frames]` each; `pad` is the language model's pad token."""
        frames = tuple(context.shape[1] for context in contexts)
        return replace(self, context=left_pad_codes(contexts, pad), context_frames=frames)


def collate_items(items: Sequence[Item] | Sequence[TokenItem]) -> AudioBatch | CodeBatch:
    """Make a batch of items with audio, or of items with tokens; the `collate_fn` of a DataLoader."""
    tokens = [item for item in items if isinstance(item, TokenItem)]
    return collate_tokens(tokens) if tokens else collate([item for item in items if isinstance(item, Item)])


def collate_tokens(items: Sequence[TokenItem]) -> CodeBatch:
    """Make a batch of items whose tokens were made before."""
    frames = tuple(item.context.shape[1] for item in items)
    context = items[0].context.new_zeros(len(items), items[0].context.shape[0], max(frames))
    for row, item, own in zip(context, items, frames, strict=True):
        row[:, :own] = item.context
    labels = [item.labels for item in items if item.labels is not None]
    return CodeBatch(
        context=context,
        context_frames=frames,
        target=torch.stack([item.target for item in items]),
        descriptions=tuple(item.description for item in items),
        items=tuple(
            replace(item, context=item.context[:, :0], target=item.target[:, :0], labels=None) for item in items
        ),
        labels=torch.stack(labels) if len(labels) == len(items) else None,
    )


# The data set draws an item from the streams 0 to 2 of (seed, epoch, index).
_STREAM = 3
# Of a past with gaps: how much of it is hidden at most, and the length of a piece that is hidden or shown, in seconds.
_MOST_HIDDEN, _GAP = 0.8, 0.5


@dataclass(frozen=True)
class Dropouts:
    """Probabilities; the defaults drop nothing, as for validation.

    Attributes:
        context: of leaving out the context.
        description: of leaving out the description.
        words: of leaving out each word of a description that is kept.
        history: of hiding pieces of the target's own past, so that what comes next must be found in the context.
    """

    context: float = 0.0
    description: float = 0.0
    words: float = 0.0
    history: float = 0.0


@dataclass(frozen=True)
class Conditioning:
    """What one item is learned with.

    Attributes:
        with_context: whether with its context.
        description: which words; "" is none.
        hidden: how much of the target's past is hidden, 0 to 1.
        seed: fixes which pieces those are.
    """

    with_context: bool
    description: str
    hidden: float = 0.0
    seed: int = 0

    def hidden_frames(self, frames: int, frame_rate: float) -> np.ndarray:
        """Return `[frames]` bool: True where a frame of the target cannot be seen."""
        if self.hidden == 0:
            return np.zeros(frames, dtype=bool)
        rng = np.random.default_rng(self.seed)
        piece = max(1, round(_GAP * frame_rate))
        first = int(rng.integers(piece))  # of the first piece, so that gaps begin anywhere
        gaps = rng.random(-(-(frames + first) // piece)) < self.hidden
        return np.repeat(gaps, piece)[first : first + frames]


def pick_conditioning(dropouts: Dropouts, description: str, *, seed: int, epoch: int, index: int) -> Conditioning:
    """Draw what one item is learned with."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, index), spawn_key=(_STREAM,)))
    # All are always drawn: a rate of zero leaves the other draws as they are.
    context, whole, words = rng.random(), rng.random(), int(rng.integers(2**62))
    history, share, gaps = rng.random(), rng.random(), int(rng.integers(2**62))
    if whole < dropouts.description:
        description = ""
    elif dropouts.words > 0:
        description = drop_words(description, dropouts.words, torch.Generator().manual_seed(words))
    kept = Conditioning(context >= dropouts.context, description)
    return kept if history >= dropouts.history else replace(kept, hidden=share * _MOST_HIDDEN, seed=gaps)


_IGNORED = -100


class StemModule(nn.Module):
    """Tokens to loss.

    Args:
        lm: the language model.
        text_projection: text encoder's width → model width; None for a model without text.
        codebook_weights: share of each codebook in the loss, K of them, that sum to one.
        context_heads: further losses on what the model hears in its context, for one that reads that first; or None.
    """

    codebook_weights: Tensor

    def __init__(
        self,
        lm: LanguageModel,
        text_projection: nn.Linear | None,
        codebook_weights: Sequence[float],
        context_heads: ContextHeads | None = None,
    ) -> None:
        super().__init__()
        if len(codebook_weights) != lm.config.codebooks:
            raise ValueError(f"{len(codebook_weights)} weights for {lm.config.codebooks} codebooks")
        self.lm = lm
        self.text_projection = text_projection
        self.listening = context_heads  # the name under which checkpoints hold them
        self.register_buffer("codebook_weights", torch.tensor(list(codebook_weights)), persistent=False)

    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the loss.

        Returns:
            "loss", a scalar in fp32: the weighted mean over the codebooks of "codebook_losses" `[K]`, which have no
            gradient. In training, with `context_heads`, their weighted losses are added, and "beat_loss" and
            "harmony_loss" are there.
        """
        if self.listening is None or not self.training:
            losses = codebook_losses(self.target_logits(batch), batch.target)
            return {"loss": (losses * self.codebook_weights).sum(), "codebook_losses": losses.detach()}
        logits, context = self.after_context(batch)
        losses = codebook_losses(logits, batch.target)
        labels = batch.labels
        if labels is None:
            raise ValueError("learning from the context alone needs labels")
        heard = self.listening(context.states[..., : self.lm.config.dimension], context.attended, labels)
        loss = (losses * self.codebook_weights).sum() + heard.pop("loss")
        return {"loss": loss, "codebook_losses": losses.detach(), **heard}

    def target_logits(self, batch: TokenBatch) -> Tensor:
        """Return logits `[B, Tt, K, codebook_size]` fp32 at the steps that predict the target.

        At [b, j, k] stands what predicts frame j − k of codebook k; where j < k, what is given already.
        """
        if self.lm.config.reads_context_first:
            return self.after_context(batch)[0]
        tokens, first_outputs = training_sequence(batch, self.lm.config)
        positions = torch.arange(tokens.shape[2], device=tokens.device)[None]
        if self.lm.config.restarts:
            # What predicts the target's first frame is the separator's first step.
            own, restart = positions.expand(len(batch), -1), first_outputs[:, None]
            positions = torch.where(own >= restart, own - restart, own)
        text, text_mask = self._text(batch)
        x = self.lm.hidden(tokens, positions, text, text_mask=text_mask)
        outputs = first_outputs[:, None] + torch.arange(batch.target.shape[2], device=tokens.device)
        # The heads are as wide as the whole model: only the steps that are learned go through them.
        learned = x.gather(1, outputs[..., None].expand(-1, -1, x.shape[2]))
        return self.lm.logits(learned).transpose(1, 2)

    def after_context(self, batch: TokenBatch) -> tuple[Tensor, ReadContext]:
        """Return what `target_logits` does, and the context as it was read, for a model that reads that first."""
        config = self.lm.config
        tokens, attended, positions = delayed_sequence(batch.context, batch.seen_target(config.pad), config)
        # Step 0 holds nothing; the separator's first step predicts the target's first frame.
        read = slice(1, batch.context.shape[2] + 1)
        learned = slice(read.stop, read.stop + batch.target.shape[2])
        text, text_mask = self._text(batch)
        context = self.lm.read_context(tokens[:, :, read], attended[:, read], positions[:, read], text, text_mask)
        x = self.lm.hidden_after(context, tokens[:, :, learned], positions[:, learned], text, text_mask)
        return self.lm.logits(x).transpose(1, 2), context

    def _text(self, batch: TokenBatch) -> tuple[Tensor | None, Tensor | None]:
        """Projected text `[B, L, D]` and where it takes part `[B, 1, 1, L]`; None for a model without text."""
        if self.text_projection is None:
            return None, None
        vectors, mask = batch.text, batch.text_mask
        if vectors is None or mask is None:
            # Zeros add nothing. They go through all the same: each weight has a gradient in each pass, as the
            # gradients' mean over processes and passes needs.
            width = self.text_projection.in_features
            vectors = batch.target.new_zeros(len(batch), 1, width, dtype=torch.float32)
            mask = batch.target.new_zeros(len(batch), 1, dtype=torch.bool)
        projected = self.text_projection(vectors)
        projected = projected * mask[..., None].to(projected.dtype)
        # Where there is no description at all, the zeros are attended to, for a softmax over nothing is not a number.
        return projected, (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]


def training_sequence(batch: TokenBatch, config: LanguageModelConfig) -> tuple[Tensor, Tensor]:
    """Lay out a batch: delayed, cut to S = T + 1 steps, each row from its first attended step on.

    Returns:
        Tokens `[B, K, steps]` (the last step predicts nothing and is left out), and the step `[B]` of each row whose
        output predicts the target's first frame of codebook 0.
    """
    context_frames, target_frames = batch.context.shape[2], batch.target.shape[2]
    layout = Layout(context_frames, target_frames, config.separator, config.codebooks)
    delayed = delay(join(batch.context, batch.seen_target(config.pad), config), config.pad)[:, :, : layout.frames]
    starts = [layout.first_step + context_frames - own for own in batch.context_frames]
    device = delayed.device
    moved = torch.tensor(starts).to(device, non_blocking=True)
    steps = torch.arange(layout.frames - min(starts), device=device) + moved[:, None]
    steps = steps.clamp(max=layout.frames - 1)[:, None].expand(-1, config.codebooks, -1)
    return delayed.gather(2, steps), layout.target_column - moved


def codebook_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of each codebook over the items and the frames of the target that the cut leaves.

    Args:
        logits: `[B, Tt, K, codebook_size]` of `StemModule.target_logits`.
        target: `[B, K, Tt]`.

    Returns:
        `[K]`; codebook k has B · (Tt − k) tokens.
    """
    B, K, frames = target.shape
    labels = delay(target, _IGNORED)[:, :, 1 : frames + 1].transpose(1, 2)
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=_IGNORED, reduction="none")
    counts = B * (frames - torch.arange(K, device=target.device)).clamp(min=1)
    return losses.view(B, frames, K).sum(dim=(0, 1)) / counts
