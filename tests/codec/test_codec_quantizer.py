"""The residual vector quantizer: nearest codes, gradients, moving averages, dead codes."""

import pytest
import torch

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.quantizer import CodebookTraining, ResidualVectorQuantizer


def make_quantizer(codebooks: torch.Tensor) -> ResidualVectorQuantizer:
    count, size, dimension = codebooks.shape
    quantizer = ResidualVectorQuantizer(
        CodecConfig(dimension=dimension, codebooks=count, codebook_size=size, filters=2)
    )
    quantizer.codebooks.copy_(codebooks)
    return quantizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_codebook_takes_the_nearest_of_what_is_left():
    codebooks = torch.randn(3, 16, 5, generator=seeded())
    quantizer = make_quantizer(codebooks)
    latents = torch.randn(2, 5, 40, generator=seeded(1))
    codes = quantizer.encode(latents)
    assert codes.shape == (2, 3, 40)
    assert codes.dtype == torch.int64
    residual = latents.transpose(1, 2).double()
    for k in range(3):
        distances = torch.cdist(residual, codebooks[k].double().expand(2, -1, -1))
        assert torch.equal(codes[:, k], distances.argmin(-1))
        residual = residual - codebooks[k].double()[codes[:, k]]
    left_over = latents - quantizer.decode(codes)
    torch.testing.assert_close(left_over, residual.transpose(1, 2).float(), rtol=0, atol=1e-6)


def test_of_two_equal_codes_the_first_wins():
    quantizer = make_quantizer(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]))
    assert quantizer.encode(torch.tensor([[[0.0], [1.0]]])).item() == 1


def test_training_output_agrees_with_encode_and_decode():
    quantizer = make_quantizer(torch.randn(2, 8, 4, generator=seeded())).eval()
    latents = torch.randn(3, 4, 10, generator=seeded(1))
    output = quantizer(latents)
    assert torch.equal(output.codes, quantizer.encode(latents))
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes), rtol=0, atol=1e-6)
    first = latents - quantizer.codebooks[0][output.codes[:, 0]].transpose(1, 2)
    second = latents - quantizer.decode(output.codes)
    expected = (first.pow(2).mean() + second.pow(2).mean()) / 2
    torch.testing.assert_close(output.commitment_loss, expected, rtol=1e-6, atol=0)
    assert output.perplexity.shape == (2,)


def test_perplexity_counts_the_codes_in_use():
    quantizer = make_quantizer(torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])).eval()
    assert quantizer(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])).perplexity.item() == pytest.approx(4)
    assert quantizer(torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])).perplexity.item() == pytest.approx(1)


def test_the_gradient_goes_straight_through():
    quantizer = make_quantizer(torch.randn(2, 8, 4, generator=seeded())).eval()
    latents = torch.randn(2, 4, 6, generator=seeded(1), requires_grad=True)
    weights = torch.randn(2, 4, 6, generator=seeded(2))
    (quantizer(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights, rtol=0, atol=1e-7)


def test_the_commitment_pulls_latents_to_their_codes():
    quantizer = make_quantizer(torch.tensor([[[0.0], [10.0]]])).eval()
    latents = torch.tensor([[[1.0, 8.0]]], requires_grad=True)
    quantizer(latents).commitment_loss.backward()
    assert torch.equal(latents.grad, torch.tensor([[[1.0, -2.0]]]))  # d/dx of mean((x - code)²)


def test_codebooks_follow_a_hand_computed_moving_average():
    quantizer = make_quantizer(torch.tensor([[[0.0], [10.0]]])).train()
    quantizer.start_training(CodebookTraining(decay=0.75, epsilon=1e-9, revive_below=0.0, from_data=False))
    output = quantizer(torch.tensor([[[1.0, 2.0, 3.0, 12.0]]]), generator=seeded())
    # The codes used are those from before the update.
    assert output.codes.tolist() == [[[0, 0, 0, 1]]]
    assert output.quantized.flatten().tolist() == [0.0, 0.0, 0.0, 10.0]
    # At first both have 4 / 2 latents a batch: sizes 2, 2; sums 0, 20.
    # sizes: 0.75·2 + 0.25·3 = 2.25 and 0.75·2 + 0.25·1 = 1.75
    # sums:  0.75·0 + 0.25·6 = 1.5  and 0.75·20 + 0.25·12 = 18
    torch.testing.assert_close(quantizer.statistics.cluster_size, torch.tensor([[2.25, 1.75]]))
    torch.testing.assert_close(quantizer.codebooks, torch.tensor([[[1.5 / 2.25], [18 / 1.75]]]))
    quantizer(torch.tensor([[[1.0, 11.0]]]), generator=seeded())
    sizes = [0.75 * 2.25 + 0.25, 0.75 * 1.75 + 0.25]
    sums = [0.75 * 1.5 + 0.25 * 1, 0.75 * 18 + 0.25 * 11]
    expected = torch.tensor([[[sums[0] / sizes[0]], [sums[1] / sizes[1]]]])
    torch.testing.assert_close(quantizer.codebooks, expected)


def test_epsilon_smooths_the_cluster_sizes():
    quantizer = make_quantizer(torch.tensor([[[0.0], [10.0]]])).train()
    quantizer.start_training(CodebookTraining(decay=0.0, epsilon=0.5, revive_below=0.0, from_data=False))
    quantizer(torch.tensor([[[1.0, 1.0, 1.0, 12.0]]]), generator=seeded())
    # (3 + 0.5) / (4 + 2 · 0.5) · 4 = 2.8 and (1 + 0.5) / 5 · 4 = 1.2
    torch.testing.assert_close(quantizer.codebooks, torch.tensor([[[3 / 2.8], [12 / 1.2]]]))


def test_dead_codes_become_latents_of_the_batch():
    codebook = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [50.0, 50.0], [-60.0, 60.0]]])
    quantizer = make_quantizer(codebook).train()
    quantizer.start_training(CodebookTraining(decay=0.5, revive_below=0.3, from_data=False))
    latents = torch.randn(1, 2, 64, generator=seeded(3))
    first = quantizer(latents, generator=seeded())  # sizes of the far codes: 16 → 8, of 16 on average: alive
    assert first.revived.tolist() == [0]
    second = quantizer(latents, generator=seeded())  # → 4, under 0.3 · 16
    assert second.revived.tolist() == [2]
    rows = {tuple(row) for row in latents[0].T.tolist()}
    assert {tuple(row) for row in quantizer.codebooks[0, 2:].tolist()} <= rows
    assert not {tuple(row) for row in quantizer.codebooks[0, :2].tolist()} & rows
    third = quantizer(latents, generator=seeded())
    assert set(third.codes.unique().tolist()) == {0, 1, 2, 3}, "the revived codes are in use"
    assert third.revived.tolist() == [0]


def test_the_first_batch_starts_the_codebooks():
    quantizer = make_quantizer(torch.zeros(2, 8, 3)).train()
    quantizer.start_training(CodebookTraining(decay=0.999999, revive_below=0.0))
    latents = torch.randn(2, 3, 20, generator=seeded())
    output = quantizer(latents, generator=seeded())
    rows = latents.transpose(1, 2).reshape(-1, 3)
    assert (quantizer.codebooks[0][:, None] - rows).abs().sum(-1).min(1).values.max() < 1e-4
    assert len(output.codes[:, 0].unique()) == 8, "eight different latents, each its own nearest"
    before = quantizer.codebooks.clone()
    quantizer(latents + 100, generator=seeded())
    assert (quantizer.codebooks - before).abs().max() < 0.1, "only the first batch does"


def test_more_codes_than_latents():
    quantizer = make_quantizer(torch.zeros(1, 16, 3)).train()
    quantizer.start_training()
    output = quantizer(torch.randn(1, 3, 5, generator=seeded()), generator=seeded())
    assert torch.isfinite(quantizer.codebooks).all()
    assert output.codes.max() < 16


def test_a_generator_fixes_the_training():
    def train(seed: int) -> torch.Tensor:
        quantizer = make_quantizer(torch.zeros(2, 8, 3)).train()
        quantizer.start_training(CodebookTraining(decay=0.5, revive_below=0.5))
        generator = seeded(seed)
        for step in range(5):
            quantizer(torch.randn(1, 3, 30, generator=seeded(step)), generator=generator)
        return quantizer.codebooks

    torch.manual_seed(1)
    first = train(0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(train(0), first)
    assert not torch.equal(train(1), first)
    torch.manual_seed(1)
    train(0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"


def test_statistics_are_saved_for_training_and_absent_from_inference():
    quantizer = make_quantizer(torch.zeros(2, 8, 3)).train()
    assert set(quantizer.state_dict()) == {"codebooks"}
    quantizer.start_training()
    for step in range(3):
        quantizer(torch.randn(1, 3, 30, generator=seeded(step)), generator=seeded(step))
    saved = quantizer.state_dict()
    assert {name for name in saved if name.startswith("statistics.")} == {
        "statistics.cluster_size",
        "statistics.vector_sum",
        "statistics.started",
    }
    resumed = make_quantizer(torch.zeros(2, 8, 3)).train()
    resumed.start_training()
    resumed.load_state_dict(saved)
    for each in (quantizer, resumed):
        each(torch.randn(1, 3, 30, generator=seeded(9)), generator=seeded(9))
    assert torch.equal(resumed.codebooks, quantizer.codebooks)
    quantizer.stop_training()
    assert set(quantizer.state_dict()) == {"codebooks"}


def test_evaluation_changes_nothing_and_needs_no_generator():
    quantizer = make_quantizer(torch.randn(1, 8, 3, generator=seeded()))
    quantizer.start_training()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    latents = torch.randn(1, 3, 30, generator=seeded())
    quantizer.eval()(latents)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
    with pytest.raises(ValueError, match=r"needs a torch\.Generator"):
        quantizer.train()(latents)


@pytest.mark.parametrize("values", [{"decay": 1.0}, {"epsilon": 0.0}, {"revive_below": 1.0}])
def test_training_settings_are_checked(values):
    name = next(iter(values))
    with pytest.raises(ValueError, match=f"{name} must be"):
        CodebookTraining(**values)
