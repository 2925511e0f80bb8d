"""The decoder against itself: with and without cache, batched and alone, masked and cut, float and int8."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from random_weights import randomise
from torch import Tensor

from stage_cli.core.lm.cache import KVCache, common_memory, repeat_rows
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layer import sinusoids
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.lm.linear import ACTIVATION_STEPS, INT8_KERNEL_ROWS, Int8Linear, multiplies_bytes
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.errors import WeightsError

# fp32, the same sums in another order.
TOLERANCE = 1e-5
K, CODES, TEXT = 4, 32, 24


def make_lm(*, separator: bool = True, text: bool = True, seed: int = 0) -> LanguageModel:
    config = LanguageModelConfig(
        codebooks=K,
        codebook_size=CODES,
        dimension=64,
        layers=3,
        heads=4,
        feed_forward=128,
        text_dimension=TEXT if text else None,
        separator=separator,
    )
    lm = LanguageModel(config).eval()
    randomise(lm, seed)
    # Small embeddings would make attention uniform, and many mistakes invisible.
    lm.embeddings.data.mul_(1.5)
    return lm


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return make_lm()


def codes(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CODES, (B, K, T), generator=torch.Generator().manual_seed(seed))


def text_vectors(B: int, L: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(B, L, 64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def uncached(lm: LanguageModel, context: Tensor, target: Tensor, text: Tensor | None = None) -> Tensor:
    return lm(*delayed_sequence(context, target, lm.config), text=text)


def _cache(lm: LanguageModel, rows: int, capacity: int, text: Tensor | None) -> KVCache:
    cache = KVCache.allocate(lm.config, rows, capacity, dtype=lm.dtype, device=torch.device("cpu"))
    if text is not None:
        lm.attach_text(cache, text)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("with_text", [False, True], ids=["no text", "text"])
@pytest.mark.parametrize("separator", [False, True], ids=["plain", "STAGE"])
@pytest.mark.parametrize("chunks", [[1] * 18, [18], [7, 11], [5, 1, 1, 6, 5], [17, 1]], ids=str)
def test_cached_equals_uncached(chunks: Sequence[int], separator: bool, with_text: bool) -> None:
    lm = make_lm(separator=separator)
    context, target = codes(2, 8, 1), codes(2, 18 - 8 - K, 2)
    text = text_vectors(2) if with_text else None
    tokens, attended, _ = delayed_sequence(context, target, lm.config)
    expected = uncached(lm, context, target, text)[:, :, int(separator) :]
    tokens = tokens[:, :, int(separator) :]  # step 0 is masked: it is never fed
    assert tokens.shape[2] == sum(chunks)
    assert attended[:, int(separator) :].all()
    cache = _cache(lm, 2, 18, text)
    step = 0
    for size in chunks:
        logits = lm.advance(tokens[:, :, step : step + size], [cache])
        step += size
        torch.testing.assert_close(logits, expected[:, :, step - 1], atol=TOLERANCE, rtol=0)
    assert cache.length == 18
    assert expected.std() > 0.3


@torch.inference_mode()
@pytest.mark.parametrize("one_memory", [False, True], ids=["apart", "in one memory"])
def test_several_caches_of_unequal_lengths(lm: LanguageModel, one_memory: bool) -> None:
    """Conditional rows with a context of 9, unconditional ones without, one row with 3: one forward pass for all."""
    target, text = codes(1, 6, 9), text_vectors(2)
    contexts = [codes(2, 9, 1), codes(1, 3, 2), codes(1, 0, 3)]
    texts = [text, None, None]
    caches, tokens, expected = [], [], []
    for context, own_text in zip(contexts, texts, strict=True):
        rows, Tc = context.shape[0], context.shape[2]
        own_target = target.expand(rows, K, 6)
        delayed, _, _ = delayed_sequence(context, own_target, lm.config)
        cache = _cache(lm, rows, Tc + 6 + K + 1, own_text)
        if Tc:
            lm.advance(delayed[:, :, 1 : Tc + 1], [cache])
        caches.append(cache)
        tokens.append(delayed[:, :, Tc + 1 :])
        expected.append(uncached(lm, context, own_target, own_text)[:, :, Tc + 1 :])
    together, reference = torch.cat(tokens), torch.cat(expected)
    assert [cache.length for cache in caches] == [9, 3, 0]
    if one_memory:
        caches = repeat_rows(caches, 1, [cache.capacity for cache in caches])
        assert common_memory(caches) is not None
    step = 0
    for size in (2, 1, 3, 1, 1):
        logits = lm.advance(together[:, :, step : step + size], caches)
        step += size
        torch.testing.assert_close(logits, reference[:, :, step - 1], atol=TOLERANCE, rtol=0)
    assert [cache.length for cache in caches] == [17, 11, 8]


@torch.inference_mode()
def test_a_repeated_cache_is_a_copy(lm: LanguageModel) -> None:
    context, text = codes(2, 6, 1), text_vectors(2)
    targets = codes(6, 4, 2)
    cache = _cache(lm, 2, 20, text)
    delayed, _, _ = delayed_sequence(context, codes(2, 0), lm.config)
    lm.advance(delayed[:, :, 1:7], [cache])
    repeated = cache.repeat(3)
    assert repeated.rows == 6
    before = cache.keys[:, :, :, :6].clone()
    contexts = context.repeat_interleave(3, dim=0)
    tokens, _, _ = delayed_sequence(contexts, targets, lm.config)
    logits = lm.advance(tokens[:, :, 7:], [repeated])
    expected = uncached(lm, contexts, targets, text.repeat_interleave(3, dim=0))[:, :, -1]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(cache.keys[:, :, :, :6], before)
    assert cache.length == 6


def test_a_full_cache_says_so(lm: LanguageModel) -> None:
    cache = _cache(lm, 1, 3, None)
    lm.advance(codes(1, 3), [cache])
    for steps in (1, 2):  # one step and several go different ways
        with pytest.raises(ValueError, match=f"the cache holds 3 steps, {3 + steps} were asked for"):
            lm.advance(codes(1, steps), [cache])


@pytest.mark.parametrize("with_text", [False, True], ids=["no text", "text"])
def test_the_future_cannot_change_the_past(lm: LanguageModel, with_text: bool) -> None:
    text = text_vectors(1) if with_text else None
    tokens, attended, places = delayed_sequence(codes(1, 5, 1), codes(1, 7, 2), lm.config)
    with torch.inference_mode():
        before = lm(tokens, attended, places, text)
        for step in (3, 9, 15):
            changed = tokens.clone()
            changed[:, :, step] = (changed[:, :, step] + 1) % CODES
            after = lm(changed, attended, places, text)
            # Exactly: the same sums in the same order.
            assert torch.equal(after[:, :, :step], before[:, :, :step])
            assert (after[:, :, step] - before[:, :, step]).abs().max() > 0.1


def test_the_past_can_change_the_future(lm: LanguageModel) -> None:
    one = uncached(lm, codes(1, 5, 1), codes(1, 7, 2))
    other = uncached(lm, torch.cat([codes(1, 1, 8), codes(1, 5, 1)[:, :, 1:]], dim=2), codes(1, 7, 2))
    assert (one[:, :, -1] - other[:, :, -1]).abs().max() > 1e-3


def test_a_row_of_a_batch_equals_the_row_alone(lm: LanguageModel) -> None:
    """Left-padded contexts of 6, 2 and 0 frames, each against its own unpadded run."""
    pad = lm.config.pad
    lengths, target, text = (6, 2, 0), codes(3, 5, 4), text_vectors(3)
    padded = torch.full((3, K, 6), pad)
    for row, length in enumerate(lengths):
        padded[row, :, 6 - length :] = codes(1, length, row)[0]
    together = uncached(lm, padded, target, text)
    for row, length in enumerate(lengths):
        alone = uncached(lm, codes(1, length, row), target[row : row + 1], text[row : row + 1])
        # The row alone has 6 − length masked steps less; step 0 is masked in both.
        torch.testing.assert_close(together[row, :, 7 - length :], alone[0, :, 1:], atol=TOLERANCE, rtol=0)


def test_masked_steps_have_no_influence(lm: LanguageModel) -> None:
    tokens, attended, places = delayed_sequence(torch.full((1, K, 6), lm.config.pad), codes(1, 5), lm.config)
    assert attended[0].tolist() == [False] * 7 + [True] * 9
    scribbled = tokens.clone()
    scribbled[:, :, :4] = codes(1, 4, 7)
    with torch.inference_mode():
        one, other = lm(tokens, attended, places), lm(scribbled, attended, places)
    assert torch.equal(one[:, :, 7:], other[:, :, 7:])
    assert not torch.equal(one[:, :, :4], other[:, :, :4])  # the scribbling was there
    assert torch.isfinite(one).all()  # a softmax over nothing would not be


def test_zero_text_is_no_text(lm: LanguageModel) -> None:
    context, target = codes(2, 4, 1), codes(2, 5, 2)
    none = uncached(lm, context, target)
    assert torch.equal(uncached(lm, context, target, torch.zeros(2, 3, 64)), none)
    assert (uncached(lm, context, target, text_vectors(2)) - none).abs().max() > 0.1


def test_a_model_without_cross_attention() -> None:
    with_text, without = make_lm(text=True), make_lm(text=False)
    without.load_state_dict(with_text.state_dict(), strict=False)
    expected = uncached(with_text, codes(1, 4), codes(1, 3))
    assert torch.equal(uncached(without, codes(1, 4), codes(1, 3)), expected)


def test_sinusoids_are_those_of_the_page() -> None:
    D, half = 12, 6
    positions = [0, 1, 7, 499, 1503]
    actual = sinusoids(torch.tensor(positions), D)
    for row, position in enumerate(positions):
        for i in range(half):
            phase = position / 10000 ** (i / (half - 1))
            # fp32 rounds the phase, 1503 to the nearest 1e-4.
            assert actual[row, i].item() == pytest.approx(math.cos(phase), abs=2e-4)
            assert actual[row, half + i].item() == pytest.approx(math.sin(phase), abs=2e-4)
    assert actual.dtype == torch.float32
    assert actual[0].tolist() == [1.0] * half + [0.0] * half


def test_positions_reach_the_output_in_low_precision() -> None:
    """In bfloat16, position 1000 is not 1001: phases are computed in fp32."""
    lm = make_lm(text=False).to(torch.bfloat16)
    tokens = torch.zeros(1, K, 2, dtype=torch.long)
    with torch.inference_mode():
        embedded = lm.embed(tokens, torch.tensor([[1000, 1001]]))
    difference = (sinusoids(torch.tensor([1000]), 64) - sinusoids(torch.tensor([1001]), 64)).abs().max()
    assert embedded.dtype == torch.bfloat16
    assert difference > 0.9
    assert (embedded[0, 0] - embedded[0, 1]).abs().max().item() == pytest.approx(difference.item(), abs=0.05)


# int8 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bytes", "floats"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What multiplies: FBGEMM where there is one, and what is used elsewhere."""
    if request.param == "floats":
        monkeypatch.setattr("stage_cli.core.lm.linear.multiplies_bytes", lambda: False)
    elif not multiplies_bytes():
        pytest.skip("this machine has no FBGEMM")
    return str(request.param)


def _quantized(out_features: int, in_features: int, seed: int = 0) -> tuple[Int8Linear, Tensor]:
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed)) / in_features**0.5
    weight[3] *= 20  # channels of unequal sizes
    layer = Int8Linear(in_features, out_features)
    layer.keep(weight)
    return layer, weight


def _rows(count: int, width: int = 96, seed: int = 1) -> Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return rows * 10 ** torch.linspace(-2, 2, count)[:, None]  # of unequal sizes


def test_quantized_weights_are_within_half_a_step(kernel: str) -> None:
    layer, weight = _quantized(64, 96)
    quantized, scale = layer.weights
    assert (quantized.dtype, scale.dtype) == (torch.int8, torch.float32)
    error = (quantized.float() * scale[:, None] - weight).abs() / scale[:, None]
    assert error.max() <= 0.5 + 1e-4
    assert error.mean() < 0.26
    assert quantized.abs().amax(dim=1).eq(127).all()  # each channel uses its range
    assert layer.state_dict() == {}


def test_quantizing_zeros_and_tiny_weights(kernel: str) -> None:
    for weight in (torch.zeros(2, 32), torch.full((2, 32), 1e-30)):
        layer = Int8Linear(32, 2)
        layer.keep(weight)
        quantized, scale = layer.weights
        assert torch.isfinite(scale).all()
        torch.testing.assert_close(quantized.float() * scale[:, None], weight, atol=1e-28, rtol=0)
        assert layer(torch.zeros(3, 32)).equal(torch.zeros(3, 2))
        assert torch.isfinite(layer(torch.ones(3, 32))).all()


@pytest.mark.parametrize("rows", [1, 2, INT8_KERNEL_ROWS, INT8_KERNEL_ROWS + 1, 200])
@torch.inference_mode()
def test_an_int8_product(kernel: str, rows: int) -> None:
    """Against the product in fp64 with the rounded weights."""
    layer, weight = _quantized(64, 96)
    x = _rows(rows)
    product = layer(x)
    assert (product.dtype, product.shape) == (torch.float32, (rows, 64))
    quantized, scale = (part.double() for part in layer.weights)
    # Two bytes an activation are nearly as good as floats: the second is 1 / 126 of the first.
    rounding = 1e-5 if kernel == "floats" else 1.5 * 96**0.5 / (2 * ACTIVATION_STEPS**2)
    exact = x.double() @ (quantized * scale[:, None]).T
    size = x.double().norm(dim=1)[:, None] * (quantized * scale[:, None]).norm(dim=1)
    assert ((product.double() - exact).abs() <= rounding * size).all()
    # Rows may lie in any order in memory: after a convolution they are the columns of a matrix.
    assert torch.equal(layer(x.T.contiguous().T), product)
    # And against what it stands for. Steps of 1 / 127 of the largest weight are off by 0.29 of a step, so a product of
    # √96 sizes is off by about 0.7 % of what it typically is.
    error = (product.double() - x.double() @ weight.double().T) / (size / 96**0.5)
    assert error.square().mean().sqrt() < 0.008


@torch.inference_mode()
def test_a_row_of_an_int8_product_does_not_depend_on_its_neighbours(kernel: str) -> None:
    layer, _ = _quantized(64, 96)
    x = _rows(INT8_KERNEL_ROWS + 8)
    many = layer(x)
    few = torch.cat([layer(part) for part in x.split(4)])
    if kernel == "bytes":
        assert torch.equal(few, many)
    else:
        torch.testing.assert_close(few, many, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_an_int8_product_of_any_shape(kernel: str) -> None:
    layer, _ = _quantized(64, 96)
    x = torch.randn(2, 3, 96)
    torch.testing.assert_close(layer(x), torch.stack([layer(part) for part in x]))
    assert layer(x[:, :, None].transpose(1, 2)[:, 0]).shape == (2, 3, 64)  # not contiguous
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_a_product_of_the_largest_bytes(kernel: str) -> None:
    """Processors without VNNI add two products in 16 bits, which must not overflow there."""
    assert 2 * (2 * ACTIVATION_STEPS + 1) * 127 < 2**15
    layer = Int8Linear(64, 32)
    layer.keep(torch.full((32, 64), 2.0))
    torch.testing.assert_close(layer(torch.full((2, 64), 3.0)), torch.full((2, 32), 384.0))


@torch.inference_mode()
def test_an_int8_model_is_close_to_fp32() -> None:
    lm = make_lm()
    small = LanguageModel(lm.config, quantized=True).eval()
    state = dict(lm.state_dict())
    for name, module in small.named_modules():
        if isinstance(module, Int8Linear):
            module.keep(state.pop(f"{name}.weight"))
    small.load_state_dict(state)
    context, target, text = codes(2, 6, 1), codes(2, 6, 2), text_vectors(2)
    exact = uncached(lm, context, target, text)
    rough = uncached(small, context, target, text)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.03


# config --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 0}, r"lm\.heads = 0"),
        ({"heads": 5}, r"lm\.dimension = 1024 with lm\.heads = 5"),
        ({"dimension": 9, "heads": 3}, r"lm\.dimension = 9 with lm\.heads = 3"),
        ({"layers": 1.0}, r"lm\.layers = 1\.0"),
        ({"codebooks": True}, r"lm\.codebooks = True"),
        ({"text_dimension": -1}, r"lm\.text_dimension = -1"),
        ({"separator": 1}, r"lm\.separator = 1"),
    ],
)
def test_configs_that_cannot_be(values: dict[str, int], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        LanguageModelConfig.from_dict(values)


def test_the_published_sizes() -> None:
    """Parameters of docs/dev/model.md's table, as MusicGen's paper rounds them: 300 M, 1.5 B, 3.3 B."""
    sizes = {(1024, 24, 16): 0.42e9, (1536, 48, 24): 1.84e9, (2048, 48, 32): 3.25e9}
    for (dimension, layers, heads), parameters in sizes.items():
        config = LanguageModelConfig(dimension=dimension, layers=layers, heads=heads, feed_forward=4 * dimension)
        assert config.parameters == pytest.approx(parameters, rel=0.03)
        with torch.device("meta"):
            matrices = [p for p in LanguageModel(config).parameters() if p.dim() > 1]
        assert config.parameters == sum(p.numel() for p in matrices)
        assert (config.pad, config.separator_token, config.vocabulary) == (2048, 2049, 2050)
