"""FAD, KAD and APA against closed forms and independent libraries."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch

from stage_cli.core.evaluation.distances import (
    Gaussian,
    apa,
    at_most,
    fad,
    fad_infinity,
    frechet_distance,
    gaussian,
    kad,
    median_distance,
)
from stage_cli.core.evaluation.metrics import other_songs


def rows_with(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Make rows whose own mean and covariance are exactly these."""
    noise = np.random.default_rng(seed).standard_normal((count, len(mean)))
    noise -= noise.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(noise, rowvar=False)), noise.T)
    return mean + (np.linalg.cholesky(covariance) @ white).T


def random_covariance(width: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((width, 2 * width))
    return factor @ factor.T / width


class TestFrechet:
    def test_gaussians_that_commute_have_a_closed_form(self) -> None:
        """Covariances with the same axes: the sum over the axes of (σ₁ − σ₂)², plus the means' distance."""
        axes = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
        first, second = np.array([4.0, 1.0, 0.25, 9.0, 1e-4, 2.0]), np.array([1.0, 2.25, 0.25, 4.0, 1e-2, 0.5])
        means = np.arange(6.0), np.array([1.0, -1.0, 2.5, 3.0, 3.0, 7.0])
        rows = [
            rows_with(mean, axes * values @ axes.T, 50, seed)
            for seed, (mean, values) in enumerate(zip(means, (first, second), strict=True))
        ]
        expected = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(first) - np.sqrt(second)).sum()
        assert fad(*rows) == pytest.approx(expected, abs=1e-6)
        assert fad(rows[1], rows[0]) == pytest.approx(expected, abs=1e-6)

    def test_full_rank_is_scipys_square_root(self) -> None:
        one, two = random_covariance(24, 1), random_covariance(24, 2)
        rows = rows_with(np.zeros(24), one, 200, 3), rows_with(np.linspace(-1, 1, 24), two, 90, 4)
        root = scipy.linalg.sqrtm(one @ two)
        expected = np.square(np.linspace(-1, 1, 24)).sum() + np.trace(one) + np.trace(two) - 2 * np.trace(root).real
        assert fad(*rows) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("count", "other"), [(10, 14), (10, 300), (40, 40)])
    def test_rank_deficient_is_scipys_square_root(self, count: int, other: int) -> None:
        """Fewer rows than columns. scipy takes the root of the symmetric product, in a basis in which it has full rank;
        and the Gram matrix of the rows gives the same number without any covariance."""
        generator = np.random.default_rng(count + other)
        first, second = generator.standard_normal((count, 64)), 2 * generator.standard_normal((other, 64)) + 0.5
        a, b = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
        basis = np.linalg.svd(a, full_matrices=False)[2][: count - 1]
        one, two = basis @ a.T @ a @ basis.T, basis @ b.T @ b @ basis.T
        # The part of the second covariance outside the basis meets only zeros of the first.
        half = scipy.linalg.sqrtm(one).real
        product = half @ two @ half
        kept = scipy.linalg.orth(product)
        by_scipy = np.trace(scipy.linalg.sqrtm(kept.T @ product @ kept)).real
        by_gram = scipy.linalg.svdvals(a @ b.T).sum()
        apart = np.square(first.mean(axis=0) - second.mean(axis=0)).sum() + np.square(a).sum() + np.square(b).sum()
        assert fad(first, second) == pytest.approx(apart - 2 * by_scipy, abs=1e-6)
        assert fad(first, second) == pytest.approx(apart - 2 * by_gram, abs=1e-9)

    def test_a_set_is_at_no_distance_from_itself(self) -> None:
        wide = np.random.default_rng(0).standard_normal((20, 100)) * 1000 + 5000
        assert fad(wide, wide) == pytest.approx(0, abs=1e-6)
        assert fad(wide, wide[::-1]) == pytest.approx(0, abs=1e-6)
        still = np.ones((5, 3))
        assert fad(still, still) == 0
        assert fad(still, np.zeros((4, 3))) == pytest.approx(3)

    def test_rounding_does_not_add_up_over_many_zeros(self) -> None:
        """Roots of eigenvalues that should be 0 would add some 1e-6 of the largest."""
        generator = np.random.default_rng(5)
        rows = generator.standard_normal((30, 4)) @ generator.standard_normal((4, 512))
        covariance = gaussian(rows).covariance
        values, vectors = np.linalg.eigh(covariance)
        half = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ covariance @ half), 0))
        assert abs(np.trace(covariance) - roots.sum()) > 1e-7 * np.trace(covariance)  # what is to be avoided
        assert fad(rows, rows) < 1e-12 * np.trace(covariance)

    def test_single_precision_rows_are_widened(self) -> None:
        rows = np.random.default_rng(2).standard_normal((2, 40, 5)).astype(np.float32)
        assert fad(rows[0], rows[1]) == fad(rows[0].astype(np.float64), rows[1].astype(np.float64))

    def test_a_covariance_must_be_one(self) -> None:
        with pytest.raises(ValueError, match="positive semi-definite"):
            frechet_distance(Gaussian(np.zeros(2), np.diag([1.0, -0.1])), Gaussian(np.zeros(2), np.eye(2)))
        with pytest.raises(ValueError, match="2 and 3 wide"):
            frechet_distance(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))

    def test_statistics_are_numpys(self) -> None:
        rows = np.random.default_rng(3).standard_normal((17, 4))
        found = gaussian(rows)
        np.testing.assert_allclose(found.mean, rows.mean(axis=0))
        np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False))


class TestFrechetInfinity:
    def test_it_comes_nearer_to_the_truth(self) -> None:
        """Reference as given by its own moments; the candidate a true sample of another Gaussian."""
        width, count = 16, 400
        covariance = random_covariance(width, 7)
        reference = rows_with(np.zeros(width), covariance, 5000, 8)
        truth = width * 0.01
        errors, plain = [], []
        for seed in range(6):
            noise = np.random.default_rng(seed).standard_normal((count, width))
            candidate = 0.1 + noise @ np.linalg.cholesky(covariance).T
            found = fad_infinity(reference, candidate, seed=seed)
            errors.append(found.value - truth)
            plain.append(fad(reference, candidate) - truth)
            assert found.sizes[0] == count // 4
            assert found.sizes[-1] == count
            assert found.distances[-1] == pytest.approx(fad(reference, candidate), rel=1e-9)
            assert found.slope > 0
            assert found.fit > 0.9
        assert np.mean(plain) > 0.3  # the bias that is to go away
        assert abs(np.mean(errors)) < 0.25 * np.mean(plain)

    def test_a_seed_fixes_it(self) -> None:
        rows = np.random.default_rng(0).standard_normal((2, 60, 4))
        assert fad_infinity(*rows, seed=3) == fad_infinity(*rows, seed=3)
        assert fad_infinity(*rows, seed=3).value != fad_infinity(*rows, seed=4).value

    @pytest.mark.parametrize("options", [{"smallest": 60}, {"smallest": 1}, {"steps": 1}])
    def test_there_must_be_a_line(self, options: dict[str, int]) -> None:
        rows = np.random.default_rng(0).standard_normal((2, 60, 4))
        with pytest.raises(ValueError, match="FAD∞ needs"):
            fad_infinity(*rows, seed=0, **options)
        with pytest.raises(ValueError, match="FAD∞ needs 8 rows"):
            fad_infinity(rows[0], rows[1][:7], seed=0)


class TestKernel:
    def test_it_is_the_double_sum(self) -> None:
        generator = np.random.default_rng(0)
        x, y = generator.standard_normal((13, 3)), generator.standard_normal((8, 3)) + 0.4
        distances = [math.dist(x[i], x[j]) for i in range(13) for j in range(i)]
        sigma = float(np.median(distances))

        def kernel(a: np.ndarray, b: np.ndarray) -> float:
            return math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2))

        within_x = sum(kernel(x[i], x[j]) for i in range(13) for j in range(13) if i != j) / (13 * 12)
        within_y = sum(kernel(y[i], y[j]) for i in range(8) for j in range(8) if i != j) / (8 * 7)
        across = sum(kernel(a, b) for a in x for b in y) / (13 * 8)
        assert kad(x, y) == pytest.approx(100 * (within_x + within_y - 2 * across), rel=1e-10)
        assert kad(x, y) == pytest.approx(kad(x, y, bandwidth=sigma), rel=1e-10)

    def test_blocks_do_not_matter(self) -> None:
        """Sizes around and beyond the blocks, against scipy's distances."""
        generator = np.random.default_rng(1)
        x, y = generator.standard_normal((1100, 4)) + 30, 1.3 * generator.standard_normal((513, 4)) + 30
        gamma = 1 / (2 * np.median(scipy.spatial.distance.pdist(x)) ** 2)

        def within(rows: np.ndarray) -> float:
            return float(np.exp(-gamma * scipy.spatial.distance.pdist(rows, "sqeuclidean")).mean())

        across = float(np.exp(-gamma * scipy.spatial.distance.cdist(x, y, "sqeuclidean")).mean())
        assert kad(x, y) == pytest.approx(100 * (within(x) + within(y) - 2 * across), rel=1e-8)

    def test_gaussians_have_a_closed_form(self) -> None:
        """E k(a, b) of a − b ~ N(m, v·I) is (σ² / (σ² + v))^(D/2) · exp(−‖m‖² / 2(σ² + v))."""
        width, sigma = 3, 1.7
        generator = np.random.default_rng(2)

        def expected_kernel(variance: float, shift: float) -> float:
            return (sigma**2 / (sigma**2 + variance)) ** (width / 2) * math.exp(
                -(shift**2) * width / (2 * (sigma**2 + variance))
            )

        truth = 100 * (expected_kernel(2.0, 0) + expected_kernel(2 * 1.5**2, 0) - 2 * expected_kernel(1 + 1.5**2, 0.5))
        values = [
            kad(
                generator.standard_normal((300, width)),
                1.5 * generator.standard_normal((300, width)) + 0.5,
                bandwidth=sigma,
            )
            for _ in range(40)
        ]
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 4 * error
        assert error < 0.05 * truth

    def test_it_is_unbiased_for_equal_distributions(self) -> None:
        generator = np.random.default_rng(3)
        values = [kad(generator.standard_normal((30, 4)), generator.standard_normal((30, 4))) for _ in range(200)]
        assert min(values) < 0 < max(values)
        assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / math.sqrt(len(values))

    @pytest.mark.parametrize("count", [2, 3, 10, 257, 700])
    def test_the_median_is_exact(self, count: int) -> None:
        rows = np.random.default_rng(count).standard_normal((count, 2)) * 1e3 + 7
        distances = np.sort(scipy.spatial.distance.pdist(rows))
        assert median_distance(rows) == pytest.approx(float(np.median(distances)), rel=1e-9)
        lower = distances[(len(distances) - 1) // 2]
        assert median_distance(rows, lower=True) == pytest.approx(float(lower), rel=1e-9)

    def test_kadtks_own_choice(self) -> None:
        """Its release 1.1.0, step by step with torch: the evaluated set's lower median, and 1e-8."""
        generator = np.random.default_rng(4)
        x, y = generator.standard_normal((60, 5)), 2 * generator.standard_normal((41, 5)) + 0.3
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        gamma = 1 / (2 * torch.median(torch.pdist(b)) ** 2 + 1e-8)
        k_xx, k_yy, k_xy = (torch.exp(-gamma * torch.cdist(*pair) ** 2) for pair in ((a, a), (b, b), (a, b)))
        within = (k_xx.sum() - 60) / (60 * 59) + (k_yy.sum() - 41) / (41 * 40)
        assert kad(x, y, compatible=True) == pytest.approx(float(100 * (within - 2 * k_xy.mean())), rel=1e-6)
        assert kad(x, y) > 1.2 * kad(x, y, compatible=True)  # that it makes a difference

    def test_equal_rows_have_no_bandwidth(self) -> None:
        rows = np.random.default_rng(0).standard_normal((20, 3))
        with pytest.raises(ValueError, match="bandwidth must be above 0"):
            kad(np.full((20, 3), 0.1), rows)
        with pytest.raises(ValueError, match="bandwidth must be above 0"):
            kad(rows, rows, bandwidth=-1.0)


class TestAdherence:
    def test_end_points(self) -> None:
        generator = np.random.default_rng(0)
        true, shuffled = generator.standard_normal((80, 6)), generator.standard_normal((80, 6)) * 1.5 + 1
        assert apa(true, true, shuffled) == pytest.approx(1, abs=1e-9)
        assert apa(shuffled, true, shuffled) == pytest.approx(0, abs=1e-9)
        kernel = partial(kad, bandwidth=median_distance(true))
        assert apa(true, true, shuffled, distance=kernel) == pytest.approx(1, abs=1e-9)
        assert apa(shuffled, true, shuffled, distance=kernel) == pytest.approx(0, abs=1e-9)

    def test_half_way(self) -> None:
        """Equal covariances, means on a line: D is the squared distance, so the middle is ½ and ¼ of the way is ¾."""
        true = np.random.default_rng(1).standard_normal((50, 3))
        assert apa(true + 0.5, true, true + 1) == pytest.approx(0.5)
        assert apa(true + 0.25, true, true + 1) == pytest.approx(0.75)

    def test_it_is_clipped(self) -> None:
        true = np.random.default_rng(1).standard_normal((50, 3))
        assert apa(true - 1, true, true + 1) == 1
        assert apa(true + 3, true, true + 1) == 0

    def test_no_difference_between_true_and_shuffled(self) -> None:
        true = np.random.default_rng(1).standard_normal((50, 3))
        assert math.isnan(apa(true, true, true, distance=lambda first, second: -0.1))


BAD_ROWS = [
    (np.zeros(5), r"must be \[n, width\]"),
    (np.zeros((5, 0)), r"must be \[n, width\]"),
    (np.zeros((1, 4)), "at least two rows, not 1"),
    (np.array([[1.0, 2, 3, 4], [1, 2, np.nan, 4]]), "must be finite"),
    (np.array([[1.0, 2, 3, 4], [1, 2, np.inf, 4]]), "must be finite"),
    (np.zeros((5, 3)), "wide and the candidate"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_bad_embeddings_are_refused(rows: np.ndarray, message: str) -> None:
    good = np.random.default_rng(0).standard_normal((9, 4))
    for metric in (fad, kad):
        with pytest.raises(ValueError, match=message):
            metric(good, rows)
        with pytest.raises(ValueError, match=message):
            metric(rows, good)
    with pytest.raises(ValueError, match=message):
        fad_infinity(good, rows, seed=0)
    with pytest.raises(ValueError, match=message):
        apa(rows, good, good + 1)
    with pytest.raises(ValueError, match=message):
        apa(good, good, rows)


def test_rows_are_thinned_by_seed() -> None:
    rows = np.arange(300).reshape(100, 3)
    kept = at_most(rows, 20, seed=1)
    assert len(np.unique(kept[:, 0])) == 20
    assert np.all(np.diff(kept[:, 0]) > 0)
    np.testing.assert_array_equal(kept, at_most(rows, 20, seed=1))
    assert not np.array_equal(kept, at_most(rows, 20, seed=2))
    np.testing.assert_array_equal(at_most(rows, 100, seed=1), rows)


class TestPairing:
    @pytest.mark.parametrize(
        "songs", [list("aabbccdd"), list("aaabcdbc"), list("abcdefg"), list("ab"), list("aabb"), ["x"] * 4 + ["y"] * 4]
    )
    def test_each_item_is_used_once_and_never_by_its_own_song(self, songs: list[str]) -> None:
        for seed in range(20):
            others = other_songs(songs, seed=seed)
            assert sorted(others) == list(range(len(songs)))
            assert all(songs[other] != song for song, other in zip(songs, others, strict=True))

    def test_a_song_with_more_than_half_of_the_items(self) -> None:
        songs = ["a"] * 6 + ["b", "c"]
        for seed in range(20):
            others = other_songs(songs, seed=seed)
            assert all(songs[other] != song for song, other in zip(songs, others, strict=True))

    def test_seeds(self) -> None:
        songs = [f"song {number // 4}" for number in range(40)]
        assert other_songs(songs, seed=1) == other_songs(songs, seed=1)
        assert other_songs(songs, seed=1) != other_songs(songs, seed=2)

    def test_one_song_is_not_enough(self) -> None:
        with pytest.raises(ValueError, match="at least two songs"):
            other_songs(["a", "a"], seed=0)
