"""The codec as a whole: input checks, empty input, weight normalisation, training."""

import math

import pytest
import torch

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.encodec import Encodec
from stage_cli.core.codec.quantizer import CodebookTraining
from stage_cli.core.codec.seanet import add_weight_norm, elu, fold, fold_weight_norm

TINY = CodecConfig(
    sample_rate=2000, ratios=(4, 2), filters=8, dimension=8, lstm_layers=1, codebooks=2, codebook_size=32
)


def make_codec(config: CodecConfig = TINY) -> Encodec:
    torch.manual_seed(0)
    codec = Encodec(config).eval()
    codec.quantizer.codebooks.normal_()
    return codec


def test_nothing_in_nothing_out():
    codec = make_codec()
    assert codec.encode(torch.zeros(2, 1, 0)).shape == (2, 2, 0)
    assert codec.encode(torch.zeros(2, 1, 0)).dtype == torch.int64
    assert codec.latents(torch.zeros(2, 1, 0)).shape == (2, 8, 0)
    assert codec.decode(torch.zeros(2, 2, 0, dtype=torch.int64)).shape == (2, 1, 0)
    assert codec.encode(torch.zeros(0, 1, 9)).shape == (0, 2, 2)
    assert codec.decode(torch.zeros(0, 2, 3, dtype=torch.int64)).shape == (0, 1, 24)


@pytest.mark.parametrize(
    ("audio", "match"),
    [
        (torch.zeros(8), r"audio must be \[B, 1, samples\], not \[8\]"),
        (torch.zeros(1, 2, 8), r"not \[1, 2, 8\]"),
        (torch.zeros(1, 1, 8, dtype=torch.int16), r"torch\.float32.* not torch\.int16"),
        (torch.zeros(1, 1, 8, dtype=torch.float64), r"torch\.float32.* not torch\.float64"),
    ],
)
def test_wrong_audio_is_refused(audio, match):
    codec = make_codec()
    for method in (codec.encode, codec.latents, codec):
        with pytest.raises(ValueError, match=match):
            method(audio)


@pytest.mark.parametrize(
    ("codes", "match"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), r"codes must be \[B, 2, T\], not \[2, 3\]"),
        (torch.zeros(1, 3, 5, dtype=torch.int64), r"not \[1, 3, 5\]"),
        (torch.zeros(1, 2, 5), r"int64 or int32, not torch\.float32"),
        (torch.full((1, 2, 5), 32), r"codes must be 0 to 31, not 32 to 32"),
        (torch.full((1, 2, 5), -1), r"not -1 to -1"),
    ],
)
def test_wrong_codes_are_refused(codes, match):
    with pytest.raises(ValueError, match=match):
        make_codec().decode(codes)


def test_a_batch_row_equals_the_row_alone():
    codec = make_codec()
    audio = torch.randn(3, 1, 203, generator=torch.Generator().manual_seed(0))
    codes = codec.encode(audio)
    decoded = codec.decode(codes)
    for row in range(3):
        assert torch.equal(codec.encode(audio[row : row + 1]), codes[row : row + 1])
        alone = codec.decode(codes[row : row + 1])
        torch.testing.assert_close(alone, decoded[row : row + 1], rtol=0, atol=1e-6)


def test_codes_can_train_a_language_model():
    # Tensors made in torch's inference mode could not be saved for a backward pass.
    codes = make_codec().encode(torch.randn(1, 1, 64))
    table = torch.nn.Embedding(32, 4)
    table(codes).sum().backward()
    assert table.weight.grad is not None


def test_the_input_is_left_as_it_is():
    codec = make_codec()
    audio = torch.randn(1, 1, 64)
    before = audio.clone()
    codec.encode(audio)
    codec.encode(audio, whole_seconds=0.0)
    assert torch.equal(audio, before)


def test_the_fast_elu_is_within_rounding_of_torch():
    x = torch.cat([torch.linspace(-30, 30, 10001), torch.logspace(-20, 0, 1000), -torch.logspace(-20, 0, 1000)])
    torch.testing.assert_close(elu(x), torch.nn.functional.elu(x), rtol=0, atol=1.2e-7)
    assert elu(torch.tensor([float("nan")])).isnan().all()
    assert elu(torch.tensor([-1.0, 2.0], dtype=torch.float64)).tolist() == [math.expm1(-1.0), 2.0]


def test_the_fast_elu_is_not_in_the_way_of_gradients():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(elu, x)
    single = torch.tensor([-1.0, 1.0], requires_grad=True)
    elu(single).sum().backward()
    torch.testing.assert_close(single.grad, torch.tensor([math.exp(-1), 1.0]))


def test_weight_norm_on_and_off_is_the_identity():
    codec = make_codec(CodecConfig(ratios=(3, 2), filters=4, dimension=6, conv_shortcut=True, codebook_size=16))
    audio = torch.randn(1, 1, 100)
    state = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    latents = codec.latents(audio)
    add_weight_norm(codec)
    add_weight_norm(codec)  # twice is once
    normed = [name for name in codec.state_dict() if name.endswith("original0")]
    assert len(normed) == sum(name.endswith("weight") for name in state)
    torch.testing.assert_close(codec.latents(audio), latents, rtol=0, atol=1e-6)
    fold_weight_norm(codec)
    fold_weight_norm(codec)
    assert set(codec.state_dict()) == set(state)
    for name, tensor in codec.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [torch.nn.Conv1d(3, 5, 4), torch.nn.ConvTranspose1d(3, 5, 4)])
def test_fold_equals_torch(layer):
    torch.nn.utils.parametrizations.weight_norm(layer)
    lengths, directions = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    lengths.data *= torch.rand_like(lengths)
    torch.testing.assert_close(fold(lengths, directions), layer.weight, rtol=0, atol=1e-7)


def sines(batch: int, samples: int, generator: torch.Generator) -> torch.Tensor:
    time = torch.arange(samples) / TINY.sample_rate
    frequency = torch.rand(batch, 3, 1, generator=generator) * 200 + 50
    return (torch.sin(2 * torch.pi * frequency * time).sum(1, keepdim=True)) * 0.25


@pytest.mark.parametrize("lstm_layers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_tiny_codec_learns_sines(lstm_layers):
    codec = make_codec(CodecConfig.from_dict({**TINY.to_dict(), "lstm_layers": lstm_layers})).train()
    add_weight_norm(codec)
    codec.quantizer.start_training(CodebookTraining(decay=0.9))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(codec.parameters(), lr=5e-3)
    losses = []
    for _ in range(80):
        audio = sines(8, 400, generator)
        reconstruction, quantized = codec(audio, generator=generator)
        assert reconstruction.shape == audio.shape
        loss = (reconstruction - audio).pow(2).mean()
        optimizer.zero_grad()
        (loss + 0.1 * quantized.commitment_loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in codec.parameters())
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])

    # What was trained is what encode and decode then use, weights folded and statistics gone.
    codec.eval()
    fold_weight_norm(codec)
    codec.quantizer.stop_training()
    plain = Encodec(codec.config).eval()
    plain.load_state_dict(codec.state_dict())
    audio = sines(8, 400, generator)
    error = (plain.decode(plain.encode(audio)) - audio).pow(2).mean().item()
    assert error < 0.5 * audio.pow(2).mean().item()
    assert error < 2 * losses[-1]


def test_training_needs_samples():
    with pytest.raises(ValueError, match="at least one sample"):
        make_codec()(torch.zeros(1, 1, 0))
