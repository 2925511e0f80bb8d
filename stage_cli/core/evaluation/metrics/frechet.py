"""Fréchet audio distance (FAD): how far two sets of embeddings are apart, each taken as one Gaussian.

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
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stage_cli.core.evaluation.metrics.rows import embedding_pair, embedding_rows

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
