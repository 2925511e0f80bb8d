"""The delay pattern: a table written by hand, and that it can be undone."""

from __future__ import annotations

import pytest
import torch

from stage_cli.core.lm.layout import delay, undelay

PAD = 9


def test_a_table_by_hand() -> None:
    tokens = torch.tensor([[[10, 11, 12], [20, 21, 22], [30, 31, 32], [40, 41, 42]]])
    expected = torch.tensor([
        [PAD, 10, 11, 12, PAD, PAD, PAD],
        [PAD, PAD, 20, 21, 22, PAD, PAD],
        [PAD, PAD, PAD, 30, 31, 32, PAD],
        [PAD, PAD, PAD, PAD, 40, 41, 42],
    ])  # fmt: skip
    assert torch.equal(delay(tokens, PAD)[0], expected)


@pytest.mark.parametrize(("B", "K", "T"), [(1, 1, 1), (2, 4, 1), (3, 4, 7), (1, 8, 3), (2, 4, 0), (0, 4, 5)])
def test_undelay_is_the_inverse(B: int, K: int, T: int) -> None:
    tokens = torch.randint(0, 9, (B, K, T), generator=torch.Generator().manual_seed(0))
    delayed = delay(tokens, PAD)
    assert delayed.shape == (B, K, T + K)
    assert torch.equal(undelay(delayed), tokens)
    # Only K pads a codebook: nothing is lost, nothing stands twice.
    assert (delayed == PAD).sum() == B * K * K


def test_types_are_kept() -> None:
    uniforms = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0))
    delayed = delay(uniforms, 0.0)
    assert delayed.dtype == torch.float32
    assert torch.equal(undelay(delayed), uniforms)
