"""From logits to tokens: the distribution is exact, for a token is the inverse of the cumulative probabilities."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stage_cli.core.generation.window import guide, sample

LOGITS = torch.tensor([0.1, 2.0, -1.0, 1.5, 1.4, -3.0, 0.0, 0.7])
GRID = 100_000


def _frequencies(logits: Tensor, **options: float) -> Tensor:
    """Shares of the tokens over a fixed grid of uniform numbers: probabilities, up to one grid step a token."""
    uniforms = (torch.arange(GRID) + 0.5) / GRID
    tokens = sample(logits.expand(GRID, -1), uniforms, **options)  # ty: ignore[invalid-argument-type]
    return torch.bincount(tokens, minlength=logits.shape[0]) / GRID


def _expected(logits: Tensor, *, temperature: float = 1.0, top_k: int = 250, top_p: float = 1.0) -> Tensor:
    """The page's words, token by token, in fp64."""
    weights = (logits.double() / temperature).exp()
    order = sorted(range(len(weights)), key=lambda token: -float(weights[token]))
    order = order[: top_k or None]
    total = sum(float(weights[token]) for token in order)
    kept, reached = [], 0.0
    for token in order:
        kept.append(token)
        reached += float(weights[token]) / total
        if reached >= top_p:
            break
    probabilities = torch.zeros(len(weights), dtype=torch.float64)
    for token in kept:
        probabilities[token] = weights[token]
    return probabilities / probabilities.sum()


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
def test_frequencies(top_p: float) -> None:
    for temperature, top_k in itertools.product([1.0, 0.3, 2.5], [0, 1, 3, 8, 250]):
        frequencies = _frequencies(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p)
        expected = _expected(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p)
        # One grid step at each end of a token's stretch, and fp32 rounding of it.
        assert (frequencies - expected).abs().max() <= 2 / GRID + 1e-6, (temperature, top_k)
        assert torch.equal(frequencies > 0, expected > 2 / GRID), (temperature, top_k)


def test_draws_of_a_generator_follow_the_softmax() -> None:
    # Not the grid but real draws: chi-square with 7 degrees of freedom, 99.9 % quantile 24.3.
    numbers = 200_000
    uniforms = torch.rand(numbers, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(sample(LOGITS.expand(numbers, -1), uniforms, top_k=0), minlength=8).double()
    expected = LOGITS.double().softmax(dim=0) * numbers
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_temperature_0_is_greedy() -> None:
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    greedy = sample(logits, uniforms, temperature=0.0)
    assert torch.equal(greedy, logits.argmax(dim=-1))
    assert torch.equal(sample(logits, uniforms, top_k=1), greedy)
    assert torch.equal(sample(logits, uniforms, top_p=1e-9), greedy)
    assert torch.equal(sample(logits, uniforms, temperature=1e-6), greedy)
    assert not torch.equal(sample(logits, uniforms), greedy)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_the_ends_of_the_interval_stay_among_the_kept(uniform: float, top_p: float) -> None:
    logits = torch.randn(500, 2048, generator=torch.Generator().manual_seed(0))
    tokens = sample(logits, torch.full((500,), uniform), top_k=250, top_p=top_p)
    ranks = (logits > logits.gather(1, tokens[:, None])).sum(dim=1)
    assert ranks.max() < 250


def test_every_row_has_a_number_of_its_own() -> None:
    logits = LOGITS.expand(2, 3, -1)
    uniforms = torch.tensor([[0.0, 0.5, 0.99], [0.99, 0.0, 0.5]])
    tokens = sample(logits, uniforms)
    assert torch.equal(tokens[0], tokens[1].roll(-1))
    assert len(tokens[0].unique()) == 3
    for row in range(2):
        for column in range(3):
            assert sample(LOGITS, uniforms[row, column]) == tokens[row, column]


def test_guidance() -> None:
    conditional, unconditional = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(guide(conditional, unconditional, 3.0), torch.tensor([2.0, -12.0]))
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(guide(conditional, unconditional, 0.0), unconditional)


def test_rounding_that_swaps_two_ranks_changes_no_other_draw() -> None:
    # The distribution is accumulated in the order of ids: with ranks, all draws after the swapped pair would move.
    logits = torch.linspace(1.0, 0.0, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    swapped = logits.clone()
    best = logits.topk(2).indices
    swapped[best[1]] = swapped[best[0]] + 1e-6
    uniforms = torch.linspace(0, 0.999, 997)
    before, after = (sample(x.expand(997, 100), uniforms, top_k=50) for x in (logits, swapped))
    assert (before != after).float().mean() < 0.01
