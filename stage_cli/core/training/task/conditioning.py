"""What an item is learned with: its context or none, its description, a part of it, or none; its past, or gaps in it.

Everything is drawn from (seed, epoch, index) in a stream of its own, so it is the same in any batch, on any process and
after resuming, and other dropout rates change neither chunks nor contexts nor each other's draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from stage_cli.core.text import drop_words

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


def draw_conditioning(dropouts: Dropouts, description: str, *, seed: int, epoch: int, index: int) -> Conditioning:
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
