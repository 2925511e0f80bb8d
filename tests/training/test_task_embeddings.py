"""First embeddings that know what tokens sound like, and those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stage_cli.core.training.building import embeddings_of_codec

K, CODES, LATENT, WIDTH, SPECIAL = 3, 200, 12, 256, 2


@pytest.fixture(scope="module")
def random() -> Tensor:
    return torch.randn(K, CODES + SPECIAL, WIDTH, generator=torch.Generator().manual_seed(1)) * 0.3


@pytest.fixture(scope="module")
def codebooks() -> Tensor:
    """Three codebooks, each with a third of the size of the one before it, far from zero."""
    sizes = torch.tensor([9.0, 3.0, 1.0])[:, None, None]
    return sizes * torch.randn(K, CODES, LATENT, generator=torch.Generator().manual_seed(2)) + 40


def test_size_and_special_tokens_stay(random: Tensor, codebooks: Tensor) -> None:
    mixed = embeddings_of_codec(random, codebooks, seed=0)
    assert torch.equal(mixed[:, CODES:], random[:, CODES:])
    assert float(mixed[:, :CODES].std() / random[:, :CODES].std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(mixed, embeddings_of_codec(random, codebooks, seed=0))
    assert not torch.equal(mixed, embeddings_of_codec(random, codebooks, seed=1))


def test_what_sounds_alike_lies_near(random: Tensor, codebooks: Tensor) -> None:
    """Distances between sums of embeddings follow those between the latents of the same frames."""
    frames = torch.randint(CODES, (2, 500, K), generator=torch.Generator().manual_seed(3))

    def distances(tables: Tensor) -> Tensor:
        sums = torch.stack([table[frames[..., k]] for k, table in enumerate(tables)]).sum(dim=0)
        return (sums[0] - sums[1]).norm(dim=1)

    sounds = distances(codebooks)
    known, unknown = distances(embeddings_of_codec(random, codebooks, seed=0)), distances(random)
    assert torch.corrcoef(torch.stack([sounds, known]))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack([sounds, unknown]))[0, 1].abs() < 0.15
