"""The number of threads of a decode step: chosen by time, never heard in the tokens, never left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from random_weights import randomise

from stage_cli.core.generation import threads
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.lm.cache import KVCache, common_memory
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.lm.steps import StepAttention
from stage_cli.core.lm.transformer import LanguageModel

# As many heads, and as wide, as MusicGen-small: torch's fused attention splits its work by them.
CONFIG = LanguageModelConfig(
    codebook_size=64, dimension=1024, layers=2, heads=16, feed_forward=256, text_dimension=None
)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "SMALL_STEP", 0)  # these models stand for large ones
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def int8_model() -> LanguageModel:
    plain = LanguageModel(CONFIG)
    randomise(plain)
    lm = LanguageModel(CONFIG, quantized=True).eval()
    state = plain.state_dict()
    for name, module in lm.named_modules():
        if isinstance(module, Int8Linear):
            module.keep(state[f"{name}.weight"])
        elif isinstance(module, torch.nn.LayerNorm):
            module.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
    lm.embeddings.data.copy_(state["embeddings"])
    return lm


class Clock:
    """A clock that lets each step take what the number of threads at its time costs."""

    def __init__(self, cost: dict[int, float]) -> None:
        self.cost, self.now = cost, 0.0

    def perf_counter(self) -> float:
        return self.now

    def run(self, steps: StepThreads, count: int) -> list[int]:
        used = []
        for _ in range(count):
            used.append(torch.get_num_threads())
            self.now += self.cost[used[-1]]
            steps.step_done()
        return used


@pytest.mark.parametrize(("cost", "winner"), [({2: 0.03, 1: 0.05}, 2), ({2: 0.5, 1: 0.05}, 1)])
def test_the_faster_one_is_taken(monkeypatch: pytest.MonkeyPatch, cost: dict[int, float], winner: int) -> None:
    clock = Clock(cost)
    monkeypatch.setattr(threads.time, "perf_counter", clock.perf_counter)
    with StepThreads(int8_model(), 2) as steps:
        used = clock.run(steps, 400)
    assert set(used) == {1, 2}
    assert used.count(winner) > 0.85 * len(used)
    assert torch.get_num_threads() == 2


def test_a_machine_that_gets_busy_is_noticed_within_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({2: 0.03, 1: 0.05})
    monkeypatch.setattr(threads.time, "perf_counter", clock.perf_counter)
    with StepThreads(int8_model(), 2) as steps:
        clock.run(steps, 10)
        assert torch.get_num_threads() == 2
        clock.cost = {2: 0.9, 1: 0.06}
        used = clock.run(steps, 20)
    assert used.count(2) <= 4


@pytest.mark.parametrize("variations", [1, 3])
@pytest.mark.parametrize("past", [100, 700])
def test_the_threads_change_no_bit_of_a_steps_attention(past: int, variations: int) -> None:
    # Through rounded layers a difference shows late, so the attention is looked at alone.
    generator = torch.Generator().manual_seed(0)
    cache = KVCache.allocate(CONFIG, 1, past + 1, dtype=torch.float32, device=torch.device("cpu"))
    cache.keys.normal_(generator=generator)
    cache.values.normal_(generator=generator)
    cache.length = past
    cache = cache.repeat(variations)
    qkv = torch.randn(variations, 3 * CONFIG.dimension, generator=generator)
    memory = common_memory([cache])
    assert memory is not None
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(StepAttention(memory, 1).attend(0, qkv))
    assert torch.equal(*results)


def test_the_threads_change_no_token_of_an_int8_model() -> None:
    lm = int8_model()
    context = torch.randint(64, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(1, 4, 30, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(decode_window(lm, context, context[:, :, :0], uniforms, GenerationConfig(top_k=0)))
    assert torch.equal(*results)
    assert len(results[0].unique()) > 20


def test_the_variations_change_no_token_of_an_int8_model() -> None:
    """Each can be made again alone, whatever kernels many rows would get."""
    lm, variations = int8_model(), 5
    context = torch.randint(64, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    known = torch.randint(64, (1, 4, 3), generator=torch.Generator().manual_seed(2)).expand(variations, -1, -1)
    uniforms = torch.rand(variations, 4, 20, generator=torch.Generator().manual_seed(1))
    together = decode_window(lm, context, known, uniforms, GenerationConfig(top_k=0))
    for i in range(variations):
        alone = decode_window(lm, context, known[:1], uniforms[i : i + 1], GenerationConfig(top_k=0))
        assert torch.equal(alone[0], together[i]), i
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(("small", "int8", "expected"), [(True, True, 1), (True, False, 1), (False, False, 2)], ids=str)
def test_small_models_keep_to_one_and_those_whose_kernels_are_not_so_exact_to_all(
    small: bool, int8: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, rows = int8_model() if int8 else LanguageModel(CONFIG), 2
    monkeypatch.setattr(threads, "SMALL_STEP", CONFIG.parameters * rows - (0 if small else 1))
    with StepThreads(lm, rows) as steps:
        for _ in range(100):
            steps.step_done()
            assert torch.get_num_threads() == expected
        with steps.paused():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("variations", "expected"), [(1, {1}), (2, {1, 2})])
def test_the_rows_of_a_step_are_those_of_guidance_and_variations(
    variations: int, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "SMALL_STEP", CONFIG.parameters * 2)  # one variation's, with guidance
    context = torch.zeros(1, 4, 10, dtype=torch.int64)
    seen: set[int] = set()
    decode_window(
        int8_model(),
        context,
        context[:, :, :0].expand(variations, -1, -1),
        torch.rand(variations, 4, 12),
        GenerationConfig(),
        on_step=lambda _: seen.add(torch.get_num_threads()),
    )
    assert seen == expected


def test_an_interrupted_window_gives_the_threads_back() -> None:
    context = torch.zeros(1, 4, 10, dtype=torch.int64)

    def stop(frames: int) -> None:
        if torch.get_num_threads() == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_window(int8_model(), context, context[:, :, :0], torch.rand(1, 4, 30), GenerationConfig(), on_step=stop)
    assert torch.get_num_threads() == 2
