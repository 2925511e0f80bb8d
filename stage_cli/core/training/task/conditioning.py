"""What an item is learned with: its context or none, its description, a part of it, or none.

Everything is drawn from (seed, epoch, index) in a stream of its own, so it is the same in any batch, on any process and
after resuming, and other dropout rates change neither chunks nor contexts nor each other's draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stage_cli.core.text import drop_words

# The data set draws an item from the streams 0 to 2 of (seed, epoch, index).
_STREAM = 3


@dataclass(frozen=True)
class Dropouts:
    """Probabilities; the defaults drop nothing, as for validation.

    Attributes:
        context: of leaving out the context.
        description: of leaving out the description.
        words: of leaving out each word of a description that is kept.
    """

    context: float = 0.0
    description: float = 0.0
    words: float = 0.0


@dataclass(frozen=True)
class Conditioning:
    """What one item is learned with: whether with its context, and with which words ("" is none)."""

    with_context: bool
    description: str


def draw_conditioning(dropouts: Dropouts, description: str, *, seed: int, epoch: int, index: int) -> Conditioning:
    """Draw what one item is learned with."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, index), spawn_key=(_STREAM,)))
    # All three are always drawn: a rate of zero leaves the other draws as they are.
    context, whole, words = rng.random(), rng.random(), int(rng.integers(2**62))
    if whole < dropouts.description:
        description = ""
    elif dropouts.words > 0:
        description = drop_words(description, dropouts.words, torch.Generator().manual_seed(words))
    return Conditioning(context >= dropouts.context, description)
