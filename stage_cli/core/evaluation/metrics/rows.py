"""Sets of embeddings, as the distribution metrics take them: `[n, width]`, one row for each frame or clip."""

from __future__ import annotations

import numpy as np


def embedding_rows(rows: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """Check a set of embeddings and return it in float64, `[n, width]`.

    Raises:
        ValueError: it is not two-dimensional, has fewer than two rows or no columns, or holds NaN or infinity.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"{name} must be [n, width], not {list(table.shape)}")
    if len(table) < 2:
        raise ValueError(f"{name} must have at least two rows, not {len(table)}")
    if not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite")
    return table


def embedding_pair(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of embeddings that are to be compared.

    Raises:
        ValueError: one of them is no set of embeddings, or their widths differ.
    """
    first, second = embedding_rows(reference, "the reference"), embedding_rows(candidate, "the candidate")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"the reference is {first.shape[1]} wide and the candidate {second.shape[1]}: use one embedding for both"
        )
    return first, second


def at_most(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return `most` of the rows, drawn without replacement and kept in their order; all of them if there are fewer."""
    if len(rows) <= most:
        return rows
    kept = np.random.default_rng((seed, len(rows))).permutation(len(rows))[:most]
    return rows[np.sort(kept)]
