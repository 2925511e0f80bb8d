"""What can be told of each frame of an item without a model: whether a beat falls on it, and what pitches sound.

A model that reads its context first can be taught to find it there (`train.beat_weight`, `train.harmony_weight`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stage_cli.core.audio.mel import notes_below, semitones
from stage_cli.core.codec.shape import CodecShape
from stage_cli.core.data.collate import AudioBatch

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
