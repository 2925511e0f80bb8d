"""Convolutions over a context: what they see, and what they do not."""

from __future__ import annotations

import pytest
import torch
from random_weights import randomise

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.linear import ContextConvolutions
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.training.building import InitialWeights
from stage_cli.errors import WeightsError

SIZES = {"codebooks": 2, "codebook_size": 16, "dimension": 16, "layers": 1, "heads": 2, "feed_forward": 32}


def make(count: int) -> ContextConvolutions:
    convolutions = ContextConvolutions(16, count).eval()
    randomise(convolutions, seed=1)
    return convolutions


@torch.no_grad()
def test_they_see_as_far_back_as_ahead_and_no_further() -> None:
    convolutions = make(3)
    x = torch.randn(1, 61, 16, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 30, 0] += 1
    moved = (convolutions(x) - convolutions(other)).abs().amax(dim=(0, 2)) > 1e-7
    # Two taps to a side, at dilations 1, 2 and 4.
    assert moved.nonzero().flatten().tolist() == list(range(30 - 14, 30 + 15))


@torch.no_grad()
def test_the_same_sound_is_heard_the_same_wherever_it_lies() -> None:
    convolutions = make(2)
    x = torch.zeros(1, 60, 16)
    sound = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    early, late = x.clone(), x.clone()
    early[0, 20:25], late[0, 33:38] = sound, sound
    torch.testing.assert_close(convolutions(early)[:, 10:35], convolutions(late)[:, 23:48])


@torch.no_grad()
def test_a_row_in_a_batch_is_the_row_alone() -> None:
    convolutions = make(3)
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    attended = torch.ones(2, 20, dtype=torch.bool)
    attended[1, :8] = False
    torch.testing.assert_close(convolutions(x, attended)[1, 8:], convolutions(x[1:, 8:])[0])


def test_no_context_is_nothing_and_has_gradients() -> None:
    convolutions = make(2)
    found = convolutions(torch.zeros(3, 0, 16), torch.ones(3, 0, dtype=torch.bool))
    assert found.shape == (3, 0, 16)
    found.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in convolutions.parameters())


def test_a_model_from_scratch_begins_as_it_is_without() -> None:
    config = LanguageModelConfig(**SIZES, text_dimension=None, context_attention="full", context_convolutions=2)
    lm = LanguageModel(config)
    shapes = {f"lm.{name}": tuple(tensor.shape) for name, tensor in lm.state_dict().items()}
    weights = InitialWeights(config, shapes, seed=0)
    lm.load_state_dict({name.removeprefix("lm."): weights.read(name) for name in shapes})
    assert lm.context_convolutions(torch.randn(1, 9, 16)).abs().max() == 0
    assert {name for name, tensor in lm.state_dict().items() if tensor.abs().max() == 0 and "blocks" in name} == {
        f"context_convolutions.blocks.{block}.{name}" for block in (0, 1) for name in ("outer.weight", "norm.bias")
    }
    # Of matrices there are as many as the config counts; kernels are as small as norms.
    matrices = sum(tensor.numel() for tensor in lm.state_dict().values() if tensor.ndim == 2 or tensor.shape[0] == 2)
    assert config.parameters == matrices


@pytest.mark.parametrize("count", [-1, 13, 1.0, True, "2"])
def test_a_number_that_is_not_possible(count: object) -> None:
    with pytest.raises(WeightsError, match=r"lm\.context_convolutions = .*a whole number up to 12"):
        LanguageModelConfig(context_attention="full", context_convolutions=count)


def test_they_need_a_context_that_is_read_both_ways() -> None:
    with pytest.raises(WeightsError, match=r"lm\.context_convolutions = 2.*0 unless"):
        LanguageModelConfig(context_convolutions=2)
