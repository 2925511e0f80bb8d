"""Kernel audio distance (KAD): 100 × the unbiased estimate of MMD² of two sets of embeddings, Gaussian kernel.

KAD = 100 · (mean k(x, x′) + mean k(y, y′) − 2 · mean k(x, y)), where pairs of a row with itself are left out and
k(a, b) = exp(−‖a − b‖² / 2σ²). Being unbiased it needs no extrapolation, works with few rows, and may come out slightly
below 0 for sets that are alike. No unit; at most about 200. Source: Chung et al., "KAD: no more FAD!", arXiv
2502.15602.

σ is the median of the distances between all pairs of different rows of the REFERENCE set (x), as the paper has it, so
that all systems measured against one reference are measured with one ruler. KAD(x, y) is then not KAD(y, x).

`compatible=True` is for comparing with numbers that the package kadtk printed. Its release 1.1.0 differs from its own
paper: σ is the median distance of the EVALUATED set (y); of an even number of distances the lower middle one is taken;
and the kernel divides by 2σ² + 1e-8. (Its sums are in float32, ours in float64: the fourth digit may differ.)

Both sums and median go through blocks of rows: 10 000 × 10 000 rows need some 100 MB.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stage_cli.core.evaluation.metrics.rows import embedding_pair, embedding_rows

SCALE = 100.0

_BLOCK = 256  # rows
_BINS = 4096
_COMPATIBLE_EPSILON = 1e-8
_ROUNDING = 1e-13


def kad(
    reference: np.ndarray, candidate: np.ndarray, *, compatible: bool = False, bandwidth: float | None = None
) -> float:
    """Return the kernel audio distance of two sets of embeddings.

    Args:
        reference: `[n, D]`, n ≥ 2.
        candidate: `[m, D]`, m ≥ 2.
        compatible: choose the bandwidth as the package kadtk 1.1.0 does.
        bandwidth: σ, in the embedding's unit; None takes the median distance.

    Raises:
        ValueError: a set has fewer than two rows or is not finite, the widths differ, or the bandwidth is 0 (half of
            the pairs of rows are equal) or negative.
    """
    first, second = embedding_pair(reference, candidate)
    middle = first.mean(axis=0)  # squares of small numbers lose fewer digits when they are subtracted
    first, second = first - middle, second - middle
    if bandwidth is None:
        bandwidth = median_distance(second, lower=True) if compatible else median_distance(first)
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"the bandwidth must be above 0, not {bandwidth}: are half of the rows equal?")
    gamma = 1 / (2 * bandwidth**2 + (_COMPATIBLE_EPSILON if compatible else 0.0))
    within = _mean_kernel_within(first, gamma) + _mean_kernel_within(second, gamma)
    across = sum(float(np.exp(-gamma * squares).sum()) for squares in _squares(first, second))
    return SCALE * (within - 2 * across / (len(first) * len(second)))


def median_distance(rows: np.ndarray, *, lower: bool = False) -> float:
    """Return the median Euclidean distance between different rows of a set `[n, D]`, n ≥ 2.

    Args:
        rows: the set.
        lower: of an even number of distances, take the lower middle one and not the mean of both.

    Raises:
        ValueError: see `embedding_rows`.
    """
    table = embedding_rows(rows)
    table = table - table.mean(axis=0)
    pairs = len(table) * (len(table) - 1) // 2
    low, high = np.sqrt(_ranked(table, ((pairs - 1) // 2, pairs // 2)))
    return float(low if lower else (low + high) / 2)


def _ranked(table: np.ndarray, ranks: tuple[int, int]) -> list[float]:
    """Return the squared distances of these ranks, from 0, without keeping all: their bins, then what is there."""
    top = 4 * float(np.square(table).sum(axis=1).max())  # the mean lies at 0: nothing is further apart
    if top == 0:
        return [0.0, 0.0]
    counts = np.zeros(_BINS, dtype=np.int64)
    for squares in _pairs(table):
        counts += np.bincount(_bins(squares, top), minlength=_BINS)
    first, last = np.searchsorted(np.cumsum(counts), ranks, side="right")
    inside = []
    for squares in _pairs(table):
        found = _bins(squares, top)
        inside.append(squares[(found >= first) & (found <= last)])
    values, below = np.sort(np.concatenate(inside)), int(counts[:first].sum())
    return [float(values[rank - below]) for rank in ranks]


def _bins(squares: np.ndarray, top: float) -> np.ndarray:
    return np.minimum((squares * (_BINS / top)).astype(np.int64), _BINS - 1)


def _mean_kernel_within(table: np.ndarray, gamma: float) -> float:
    pairs = len(table) * (len(table) - 1) // 2
    return sum(float(np.exp(-gamma * squares).sum()) for squares in _pairs(table)) / pairs


def _pairs(table: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances of all pairs of different rows, each pair once, in flat blocks."""
    for first in range(0, len(table), _BLOCK):
        block = table[first : first + _BLOCK]
        inside = next(_squares(block, block))
        yield inside[np.triu_indices(len(block), k=1)]
        rest = table[first + _BLOCK :]
        if len(rest):
            for squares in _squares(block, rest):
                yield squares.ravel()


def _squares(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances of all rows of the one to all rows of the other, block by block."""
    for row in range(0, len(first), _BLOCK):
        for column in range(0, len(second), 4 * _BLOCK):
            left, right = first[row : row + _BLOCK], second[column : column + 4 * _BLOCK]
            sums = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
            squares = sums - 2 * left @ right.T
            # Equal rows are 0 apart, not a rounding error.
            squares[squares <= _ROUNDING * sums] = 0.0
            yield squares
