"""Accompaniment prompt adherence (APA): how well stems fit their contexts, seen from whole mixes.

APA = ½ + (D(C, R′) − D(C, R)) / (2 · D(R, R′)), clipped to 0…1. The three sets are embeddings of mixes:

- R, the true mixes: each context with its own true stem;
- R′, the shuffled mixes: each context with the true stem of another song;
- C, the candidate's mixes: each context with the stem that the system wrote for it.

All three use the same contexts and the same mixing. 1 where C is R, 0 where C is R′; ½ says that the candidate is as
far from the one as from the other. It measures adherence only as far as the embedding hears it, and sound quality
moves it too. D is the Fréchet audio distance unless another is given, which must be symmetric: KAD is so with the
bandwidth given. Source: Grachten and Nistal, "Accompaniment prompt adherence", arXiv 2503.06346.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from stage_cli.core.evaluation.metrics.frechet import fad
from stage_cli.core.evaluation.metrics.rows import embedding_pair

Distance = Callable[[np.ndarray, np.ndarray], float]
"""Of two sets, both `[n, D]`; what is below 0 counts as 0."""


def apa(candidate: np.ndarray, true: np.ndarray, shuffled: np.ndarray, *, distance: Distance = fad) -> float:
    """Return the accompaniment prompt adherence, 0 to 1; nan if true and shuffled mixes cannot be told apart.

    Args:
        candidate: C, embeddings of the candidate's mixes `[n, D]`.
        true: R, of the true mixes.
        shuffled: R′, of contexts with other songs' stems.
        distance: D, symmetric.

    Raises:
        ValueError: a set has fewer than two rows or is not finite, or the widths differ.
    """
    embedding_pair(true, candidate)
    embedding_pair(true, shuffled)
    scale = max(0.0, distance(true, shuffled))
    if scale == 0:
        return math.nan
    to_true, to_shuffled = max(0.0, distance(true, candidate)), max(0.0, distance(shuffled, candidate))
    return min(1.0, max(0.0, 0.5 + (to_shuffled - to_true) / (2 * scale)))
