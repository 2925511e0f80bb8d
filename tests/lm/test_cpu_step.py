"""The attention of one step on a CPU: against torch's fused kernel, and alone as among variations."""

from __future__ import annotations

import pytest
import torch

from stage_cli.core.lm.cache import KVCache, common_memory, repeat_rows
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layer import attend_cached, merge_heads, split_heads
from stage_cli.core.lm.steps import StepAttention


def step_attention(*caches: KVCache) -> StepAttention:
    memory = common_memory(caches)
    assert memory is not None
    return StepAttention(memory, caches[0].length + 1 - caches[0].shared_steps)


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
            seen = step_attention(shared).attend(layer, qkv)
            alone = [step_attention(row).attend(layer, part) for row, part in zip(rows, qkv.split(1), strict=True)]
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
    seen = step_attention(cache).attend(0, qkv)
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


@pytest.mark.parametrize("values", [None, torch.float16], ids=str)
@pytest.mark.parametrize("pasts", [(20, 0), (0, 0), (20, 7), (3, 5, 0)], ids=str)
@torch.inference_mode()
def test_caches_of_unequal_pasts_are_looked_at_together(pasts: tuple[int, ...], values: torch.dtype | None) -> None:
    config = LanguageModelConfig(dimension=32, heads=2, layers=2, feed_forward=32, codebook_size=8)
    generator = torch.Generator().manual_seed(0)
    caches = []
    for past in pasts:
        cache = KVCache.allocate(config, 2, past, dtype=torch.float32, device=torch.device("cpu"))
        cache.keys.normal_(generator=generator)
        cache.values.normal_(generator=generator)
        cache.length = past
        caches.append(cache)
    together = repeat_rows(caches, 3, [past + 9 for past in pasts], values=values)
    alone = [cache.repeat(3, cache.length + 9) for cache in caches]
    for _ in range(9):
        qkv = torch.randn(6 * len(pasts), 3 * 32, generator=generator)
        for layer in (0, 1):
            seen = step_attention(*together).attend(layer, qkv)
            expected = []
            for cache, part in zip(alone, qkv.split(6), strict=True):
                split = (split_heads(vector[:, None], 2) for vector in part.chunk(3, dim=1))
                expected.append(merge_heads(attend_cached(cache, layer, *split))[:, 0])
            tolerance = 1e-5 if values is None else 3e-3
            torch.testing.assert_close(seen, torch.cat(expected), atol=tolerance, rtol=0)
        for cache in (*together, *alone):
            cache.advance(1)


@torch.inference_mode()
def test_only_all_caches_of_a_memory_are_looked_at_together() -> None:
    config = LanguageModelConfig(dimension=32, heads=2, layers=1, feed_forward=32, codebook_size=8)
    cache = KVCache.allocate(config, 1, 3, dtype=torch.float32, device=torch.device("cpu"))
    first, second = repeat_rows([cache, cache], 1, [10, 10])
    assert common_memory([first, second]) is first.memory
    assert common_memory([first]) is None
    assert common_memory([cache]) is None
    assert common_memory([first, cache.repeat(1)]) is None
    second.advance(1)
    assert common_memory([first, second]) is None
