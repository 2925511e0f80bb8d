"""The attention of one step on a CPU: against torch's fused kernel, and alone as among variations."""

from __future__ import annotations

import pytest
import torch

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.cpu_step import StepAttention
from stage_cli.core.lm.kv_cache import KVCache
from stage_cli.core.lm.layer import attend_cached, merge_heads, split_heads


@torch.inference_mode()
def test_a_variation_gets_the_bits_that_it_gets_alone() -> None:
    """Heads as wide, and a past as long, as those of MusicGen-small; two contexts of four variations each."""
    config = LanguageModelConfig(dimension=128, heads=2, layers=2, feed_forward=32, codebook_size=8)
    generator = torch.Generator().manual_seed(0)
    cache = KVCache.allocate(config, 2, 520, dtype=torch.float32, device=torch.device("cpu"))
    for part in (cache.keys, cache.values):
        part.normal_(generator=generator)
    cache.length = 500
    shared = cache.repeat(4)
    rows = [
        KVCache(cache.keys[:, row : row + 1], cache.values[:, row : row + 1], 500).repeat(1)
        for row in (0, 0, 0, 0, 1, 1, 1, 1)
    ]
    assert shared.keys.numel() < cache.keys.numel()
    for _ in range(12):
        qkv = torch.randn(8, 3 * 128, generator=generator)
        for layer in (0, 1):
            seen = StepAttention(shared).attend(layer, qkv)
            alone = [
                StepAttention(row).attend(layer, part) for row, part in zip(rows, qkv.split(1), strict=True)
            ]  # fmt: skip
            assert torch.equal(seen, torch.cat(alone))
        for each in (shared, *rows):
            each.advance(1)


@pytest.mark.parametrize("variations", [1, 3])
@torch.inference_mode()
def test_a_step_on_a_cpu_is_what_the_fused_kernel_gives(variations: int) -> None:
    config = LanguageModelConfig(dimension=32, heads=2, layers=1, feed_forward=32, codebook_size=8)
    generator = torch.Generator().manual_seed(0)
    cache = KVCache.allocate(config, 2, 30, dtype=torch.float32, device=torch.device("cpu"))
    cache.keys.normal_(generator=generator)
    cache.values.normal_(generator=generator)
    cache.length = 20
    cache = cache.repeat(variations)
    qkv = torch.randn(2 * variations, 3 * 32, generator=generator)
    seen = StepAttention(cache).attend(0, qkv)
    split = (split_heads(part[:, None], 2) for part in qkv.chunk(3, dim=1))
    torch.testing.assert_close(seen, merge_heads(attend_cached(cache, 0, *split))[:, 0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_repeating_makes_room() -> None:
    config = LanguageModelConfig(dimension=32, heads=2, layers=1, feed_forward=32, codebook_size=8)
    for past in (0, 3):
        cache = KVCache.allocate(config, 1, past, dtype=torch.float32, device=torch.device("cpu"))
        cache.length = past
        repeated = cache.repeat(2, 10)
        assert (repeated.rows, repeated.length, repeated.capacity) == (2, past, 10)
        assert repeated.shared_steps == past
