"""Sets of embeddings, as the distribution metrics take them: `[n, width]`, one row for each frame or clip.

Fréchet audio distance (FAD): how far two sets of embeddings are apart, each taken as one Gaussian.

FAD = ‖μ₁ − μ₂‖² + tr C₁ + tr C₂ − 2 Σ√λ, where λ are the eigenvalues of √C₁·C₂·√C₁. 0 for equal sets, no upper end;
in the square of the embedding's unit, so only values of one embedding compare. Covariances divide by n − 1.
Everything is computed in float64. Sources: Kilgour et al., "Fréchet audio distance", Interspeech 2019; Dowson and
Landau, 1982.

With C = L·Lᵀ, from a symmetric eigendecomposition, the √λ are the singular values of L₁ᵀ·L₂. Taking them there, and
not as roots of eigenvalues, keeps the rounding errors of the many zeros of rank-deficient data from adding up:
a zero that is 1e-16 off would count as 1e-8.

FAD of few rows is too high. FAD∞ takes subsets of the candidate and follows FAD against 1/n to 1/n = 0 (Gui et al.,
"Adapting Fréchet audio distance for generative music evaluation", ICASSP 2024). Here subsets are drawn without
replacement: each is a true sample. It tells little where even the whole set has fewer rows than the embedding is wide.

Kernel audio distance (KAD): 100 × the unbiased estimate of MMD² of two sets of embeddings, Gaussian kernel.

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

Accompaniment prompt adherence (APA): how well stems fit their contexts, seen from whole mixes.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

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


STEPS = 15
"""Subset sizes that FAD∞ looks at."""

_NEGATIVE = 1e-6  # of the largest eigenvalue: more is no rounding


@dataclass(frozen=True)
class Gaussian:
    """Mean `[D]` and covariance `[D, D]` of a set of embeddings."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """L `[D, rank]` with covariance = L · Lᵀ.

        Raises:
            ValueError: the covariance is not that of anything: it has negative eigenvalues.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        largest = max(float(values[-1]), 0.0)
        if values[0] < -_NEGATIVE * largest or (largest == 0 and values[0] < 0):
            raise ValueError("the covariance is not positive semi-definite")
        kept = values > largest * len(values) * np.finfo(np.float64).eps
        return vectors[:, kept] * np.sqrt(values[kept])


@dataclass(frozen=True)
class FrechetInfinity:
    """FAD∞ and what it was read from.

    Attributes:
        value: FAD at 1/n = 0; rounding and chance may put it below 0.
        slope: of FAD against 1/n.
        fit: R² of the line; far below 1 the value means little.
        sizes: n of each subset.
        distances: FAD of each subset.
    """

    value: float
    slope: float
    fit: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def gaussian(rows: np.ndarray) -> Gaussian:
    """Return mean and covariance of a set of embeddings `[n, D]`, n ≥ 2.

    Raises:
        ValueError: see `embedding_rows`.
    """
    table = embedding_rows(rows)
    mean = table.mean(axis=0)
    centred = table - mean
    return Gaussian(mean, centred.T @ centred / (len(table) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians, ≥ 0.

    Raises:
        ValueError: their widths differ, or a covariance is not positive semi-definite.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"the Gaussians are {first.mean.size} and {second.mean.size} wide")
    overlap = np.linalg.svd(first.root.T @ second.root, compute_uv=False).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap
    return max(0.0, float(np.square(first.mean - second.mean).sum() + spread))


def fad(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Return the Fréchet audio distance of two sets of embeddings `[n, D]`; symmetric.

    Raises:
        ValueError: a set has fewer than two rows or is not finite, or the widths differ.
    """
    first, second = embedding_pair(reference, candidate)
    return frechet_distance(gaussian(first), gaussian(second))


def fad_infinity(
    reference: np.ndarray, candidate: np.ndarray, *, seed: int, smallest: int | None = None, steps: int = STEPS
) -> FrechetInfinity:
    """Extrapolate FAD to endlessly many candidate rows.

    The bias of the reference's own size stays in: give it as many rows as there are.

    Args:
        reference: `[n, D]`.
        candidate: `[m, D]`.
        seed: of the subsets.
        smallest: rows of the smallest subset; default a quarter of the candidate's.
        steps: subset sizes, evenly from `smallest` to m.

    Raises:
        ValueError: see `fad`; or there are fewer than 8 candidate rows, or `smallest` or `steps` leave no line to draw.
    """
    first, second = embedding_pair(reference, candidate)
    rows = len(second)
    if smallest is None:
        smallest = rows // 4
    if rows < 8 or not 2 <= smallest < rows or steps < 2:
        raise ValueError(f"FAD∞ needs 8 rows or more, and sizes from 2 up to fewer than all: got {rows} and {smallest}")
    fixed = gaussian(first)
    generator = np.random.default_rng(seed)
    sizes = [round(size) for size in np.linspace(smallest, rows, steps)]
    distances = [frechet_distance(fixed, gaussian(second[generator.permutation(rows)[:size]])) for size in sizes]
    inverse, values = 1 / np.array(sizes), np.array(distances)
    slope, value = np.polyfit(inverse, values, 1)
    left, total = np.square(values - value - slope * inverse).sum(), np.square(values - values.mean()).sum()
    fit = 1 - float(left / total) if total > 0 else 1.0
    return FrechetInfinity(float(value), float(slope), fit, tuple(sizes), tuple(distances))


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
