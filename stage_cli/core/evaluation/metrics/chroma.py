"""Chroma similarity: how far a pitched stem plays the harmony that the true stem plays, at the same time.

The mean, over the frames in which the true stem sounds, of the cosine between the pitch classes of both stems. Frames
are fixed, ten a second (`detection.chroma`), not synchronised to beats: whoever changes the chord late loses. Loudness
and octaves do not matter. 0 to 1; a frame in which only the true stem sounds counts 0, frames in which only the other
one sounds do not count. Another melody over the same chord is well below 1: the scale's zero is a stem of another song.
"""

from __future__ import annotations

import math

import numpy as np

_PITCH_CLASSES = 12


def chroma_similarity(chroma: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean cosine of two chromagrams; nan where the reference is silent throughout.

    Args:
        chroma: of the stem, `[frames, 12]`, not negative; silent frames are 0. A shorter one ends in silence.
        reference: of the true stem; its length counts.

    Raises:
        ValueError: a chromagram is not `[frames, 12]`, negative or not finite.
    """
    for name, table in (("chroma", chroma), ("reference", reference)):
        if table.ndim != 2 or table.shape[1] != _PITCH_CLASSES:
            raise ValueError(f"{name} must be [frames, 12], not {list(table.shape)}")
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError(f"{name} must be finite and not negative")
    missing = max(0, len(reference) - len(chroma))
    heard = np.pad(chroma[: len(reference)], ((0, missing), (0, 0)))
    sounding = reference.any(axis=1)
    if not sounding.any():
        return math.nan
    heard, truth = heard[sounding], reference[sounding]
    lengths = np.linalg.norm(heard, axis=1) * np.linalg.norm(truth, axis=1)
    cosines = np.divide((heard * truth).sum(axis=1), lengths, out=np.zeros(len(truth)), where=lengths > 0)
    return float(np.minimum(cosines, 1.0).mean())
