"""Decoding with caches against a plain loop: the whole sequence anew for each step, through the uncached model.

The weights are random but large, and logits of neighbouring tokens well apart, so that fp32 rounding flips no token.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor

from stage_cli.core.generation import graphs
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import StaticSteps
from stage_cli.core.generation.song import decode_pieces, decode_window, generate_song, uniform_numbers
from stage_cli.core.generation.window import PlainSteps, sample
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import Layout, delayed_sequence
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.errors import Cancelled

K, CODES, WINDOW = 4, 32, 12


@pytest.fixture(autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[PlainSteps | StaticSteps]:
    """Both ways to take steps; the second one is what a CUDA graph records, here operation by operation."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    how = parameters["lm"][1] if "lm" in parameters else PlainSteps
    monkeypatch.setattr("stage_cli.core.generation.song.steps_for", lambda lm: how)
    return how


def language_model(kind: str) -> LanguageModel:
    config = LanguageModelConfig(
        codebooks=K,
        codebook_size=CODES,
        dimension=64,
        layers=2,
        heads=4,
        feed_forward=128,
        text_dimension=16,
        separator=kind != "plain",
        positions="restart" if kind in ("restart", "all options") else "absolute",
        context_attention="full" if kind in ("full", "convolutions", "all options") else "causal",
        aligned_context=kind in ("aligned", "all options"),
        context_convolutions=3 if kind in ("convolutions", "all options") else 0,
    )
    model = LanguageModel(config).eval()
    randomise(model, seed=3)
    model.embeddings.data.mul_(2)
    heads: Any = model.output_heads
    heads.weight.data.mul_(2)
    return model


# Each option is in "all options", of which the recorded steps know nothing; alone it is slow.
KINDS = ("STAGE", "all options", "plain", "restart", "full", "aligned", "convolutions")
FAST = {*((kind, PlainSteps) for kind in KINDS[:3]), *((kind, StaticSteps) for kind in KINDS[1:3])}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (kind, how),
            id=f"{kind}-{'plain' if how is PlainSteps else 'static'}",
            marks=() if (kind, how) in FAST else pytest.mark.slow,
        )
        for kind in KINDS
        for how in (PlainSteps, StaticSteps)
    ],
)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return language_model(request.param[0])


def codes(T: int, seed: int, B: int = 1) -> Tensor:
    return torch.randint(0, CODES, (B, K, T), generator=torch.Generator().manual_seed(seed))


def a_text(seed: int = 0, B: int = 1) -> Tensor:
    return torch.randn(B, 4, 64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def plain_loop(
    lm: LanguageModel,
    context: Tensor,
    known: Tensor,
    uniforms: Tensor,
    config: GenerationConfig,
    text: Tensor | None = None,
) -> Tensor:
    """One window, one row, no cache: `[1, K, Tc]`, `[1, K, Tk]`, `[1, K, Tt]` → `[1, K, Tt]`."""
    frames, kept, pad = uniforms.shape[2], known.shape[2], lm.config.pad
    target = torch.cat([known, torch.full((1, K, frames - kept), pad)], dim=2)
    # STAGE's unconditional row has no context: it is dropped, all pads. MusicGen's past is not a condition.
    without = torch.full_like(context, pad) if lm.config.separator else context
    for step in range(kept, frames + K - 1):
        place = Layout(context.shape[2], frames, lm.config.separator, K).first_step_of(step) - 1
        steps = context.shape[2] + 1
        logits = lm(*delayed_sequence(context, target, lm.config), text=text, context_steps=steps)[:, :, place]
        if config.guidance != 1:
            unconditional = lm(*delayed_sequence(without, target, lm.config), context_steps=steps)[:, :, place]
            logits = unconditional + config.guidance * (logits - unconditional)
        for k in range(K):
            frame = step - k
            if kept <= frame < frames:
                target[0, k, frame] = sample(
                    logits[0, k],
                    uniforms[0, k, frame],
                    temperature=config.temperature,
                    top_k=config.top_k,
                    top_p=config.top_p,
                )
    return target


def song(lm: LanguageModel, context: Tensor, config: GenerationConfig, **options: Any) -> Tensor:
    return torch.cat(list(generate_song(lm, context, config, window=WINDOW, **options)), dim=2)


CONFIGS = {
    "greedy": GenerationConfig(temperature=0.0),
    "greedy, no guidance": GenerationConfig(temperature=0.0, guidance=1.0),
    "greedy, unconditional": GenerationConfig(temperature=0.0, guidance=0.0),
    "sampled": GenerationConfig(seed=5),
    "sampled from few": GenerationConfig(seed=6, top_k=5, top_p=0.8, temperature=1.3),
}


# Each value of each setting, and each pair of them, in as few windows as that takes.
COVERING = [
    ("greedy", 0, True),
    ("greedy, no guidance", 5, True),
    ("greedy, unconditional", 1, True),
    ("sampled", 11, False),
    ("sampled from few", 0, False),
    ("sampled", 1, True),
    ("sampled from few", 5, True),
]


def windows_equal_the_plain_loop(lm: LanguageModel, cases: Iterable[tuple[str, int, bool]]) -> None:
    for name, known_frames, with_text in cases:
        config, context, known = CONFIGS[name], codes(10, 1), codes(known_frames, 2)
        uniforms = uniform_numbers(config.seed, 1, K, WINDOW)
        text = a_text() if with_text else None
        expected = plain_loop(lm, context, known, uniforms, config, text)
        actual = decode_window(lm, context, known, uniforms, config, text=text)
        assert torch.equal(actual, expected), (name, known_frames, with_text)
        assert torch.equal(actual[:, :, :known_frames], known)
        assert actual.max() < CODES


def test_a_window_equals_the_plain_loop(lm: LanguageModel) -> None:
    windows_equal_the_plain_loop(lm, COVERING)


@pytest.mark.slow
def test_any_window_equals_the_plain_loop(lm: LanguageModel) -> None:
    windows_equal_the_plain_loop(lm, itertools.product(CONFIGS, [0, 1, 5, 11], [False, True]))


def test_small_windows(lm: LanguageModel) -> None:
    config = GenerationConfig(seed=1)
    for Tc, Tk, Tt in [(0, 0, 1), (0, 0, 6), (1, 0, 2), (1, 1, 2), (9, 3, 4), (3, 0, 1)]:
        uniforms = uniform_numbers(1, 1, K, Tt)
        expected = plain_loop(lm, codes(Tc, 1), codes(Tk, 2), uniforms, config, a_text())
        actual = decode_window(lm, codes(Tc, 1), codes(Tk, 2), uniforms, config, text=a_text())
        assert torch.equal(actual, expected), (Tc, Tk, Tt)


def test_recordings_are_taken_again_by_windows_of_their_shape(lm: LanguageModel, how: type) -> None:
    """Windows of another song, of other shapes and of another sampling in between change nothing."""
    if how is PlainSteps:
        pytest.skip("has no recordings")
    configs = [GenerationConfig(seed=0), GenerationConfig(seed=1, temperature=1.3)]
    windows = [(codes(length, seed), config) for length in (6, 9, 11) for seed in (1, 2) for config in configs[:seed]]
    none, expected = codes(0, 0), []
    for number, (context, config) in [*enumerate(windows), *reversed([*enumerate(windows)])]:
        uniforms = uniform_numbers(config.seed, 1, K, 7)
        if number == len(expected):
            expected.append(plain_loop(lm, context, none, uniforms, config))
        assert torch.equal(decode_window(lm, context, none, uniforms, config), expected[number])
    assert len(graphs._recordings[lm]) == graphs.KEPT_SHAPES


def test_two_windows_of_one_shape_do_not_mix(lm: LanguageModel, how: type) -> None:
    """They would have one memory; the first one is told when it goes on."""
    if how is PlainSteps:
        pytest.skip("has no recordings")
    uniforms, config, none = uniform_numbers(0, 1, K, 7), GenerationConfig(), codes(0, 0)
    first = decode_pieces(lm, codes(6, 1), none, uniforms, config, piece=2)
    next(first)
    decode_window(lm, codes(6, 2), none, uniforms, config)
    with pytest.raises(RuntimeError, match="another window"):
        next(first)


def test_a_window_that_went_wrong_harms_no_other(lm: LanguageModel, how: type) -> None:
    """What attention does not see of the buffers is multiplied by zero, which makes no zero of infinity."""
    config, none, uniforms = GenerationConfig(), codes(0, 0), uniform_numbers(0, 1, K, 7)
    expected = plain_loop(lm, codes(6, 1), none, uniforms, config)
    with torch.no_grad():
        before = lm.embeddings.clone()
        lm.embeddings[0] = torch.nan
        decode_window(lm, codes(6, 2), none, uniforms, config)
        lm.embeddings.copy_(before)
    assert torch.equal(decode_window(lm, codes(6, 1), none, uniforms, config), expected)


def test_a_model_that_is_gone_leaves_no_recordings(lm: LanguageModel, how: type) -> None:
    if how is PlainSteps:
        pytest.skip("has no recordings")
    before, other = len(graphs._recordings), LanguageModel(lm.config).eval()
    decode_window(other, codes(4, 0), codes(0, 0), uniform_numbers(0, 1, K, 3), GenerationConfig())
    assert len(graphs._recordings) == before + 1
    del other
    gc.collect()
    assert len(graphs._recordings) == before


def test_a_batch_of_contexts_with_variations(lm: LanguageModel) -> None:
    """Two contexts, three variations each, each with its own text and numbers."""
    config = GenerationConfig(seed=2)
    contexts, known, text = codes(8, 1, B=2), codes(2, 2, B=6), a_text(B=2)
    uniforms = uniform_numbers(2, 6, K, 9)
    actual = decode_window(lm, contexts, known, uniforms, config, text=text)
    for row in range(6):
        one, own = slice(row // 3, row // 3 + 1), slice(row, row + 1)
        expected = plain_loop(lm, contexts[one], known[own], uniforms[own], config, text[one])
        assert torch.equal(actual[own], expected), row


# One window, one that is moved by a frame, and many; the others are slow.
TOTALS = [7, 13, 31, *(pytest.param(total, marks=pytest.mark.slow) for total in (12, 18))]


@pytest.mark.parametrize("total", TOTALS)
def test_a_song_is_its_windows(lm: LanguageModel, total: int) -> None:
    """Windows of 12, moved by 6, each a plain loop that continues what is written; starts written by hand."""
    config, context = GenerationConfig(seed=4), codes(total, 1)
    uniforms = uniform_numbers(4, 1, K, total)
    starts = {7: [0], 12: [0], 13: [0, 1], 18: [0, 6], 31: [0, 6, 12, 18, 19]}[total]
    written = context[:, :, :0]
    for start in starts:
        end = min(start + WINDOW, total)
        window = plain_loop(
            lm, context[:, :, start:end], written[:, :, start:], uniforms[:, :, start:end], config, a_text()
        )
        written = torch.cat([written[:, :, :start], window], dim=2)
    assert torch.equal(song(lm, context, config, text=a_text()), written)


@pytest.mark.parametrize("total", TOTALS)
def test_a_song_whose_windows_look_ahead(lm: LanguageModel, total: int) -> None:
    """Windows of 12: moved by 3, 6 frames before what is new and 3 after it; ends written by hand."""
    config, context = GenerationConfig(seed=4, advance=0.25, lookahead=0.25), codes(total, 1)
    uniforms = uniform_numbers(4, 1, K, total)
    ends = {7: [7], 12: [12], 13: [9, 13], 18: [9, 12, 18], 31: [9, 12, 15, 18, 21, 24, 27, 31]}[total]
    written = context[:, :, :0]
    for end in ends:
        done = written.shape[2]
        start = max(0, min(done - 6, total - WINDOW))
        context_states = context[:, :, start : start + WINDOW]
        window = plain_loop(lm, context_states, written[:, :, start:], uniforms[:, :, start:end], config, a_text())
        written = torch.cat([written[:, :, :start], window], dim=2)
    assert torch.equal(song(lm, context, config, text=a_text()), written)


def test_a_continuation_is_kept(lm: LanguageModel) -> None:
    context, config = codes(30, 1), GenerationConfig(variations=2)
    free = song(lm, context, config)
    for known_frames in (1, 6, 12, 17, 30):
        known = codes(known_frames, 2)
        whole = song(lm, context, config, continuation=known)
        assert whole.shape == (2, K, 30)
        assert torch.equal(whole[:, :, :known_frames], known.expand(2, -1, -1))
        if known_frames < 30:  # it is continued, not ignored
            assert not torch.equal(whole[:, :, known_frames:], free[:, :, known_frames:])


def test_a_continuation_longer_than_the_song(lm: LanguageModel) -> None:
    whole = song(lm, codes(8, 1), GenerationConfig(), continuation=codes(20, 2))
    assert torch.equal(whole, codes(20, 2)[:, :, :8])


def test_what_is_yielded_does_not_change_later(lm: LanguageModel) -> None:
    parts, copies = [], []
    for part in generate_song(lm, codes(40, 1), GenerationConfig(), window=WINDOW, continuation=codes(3, 2)):
        parts.append(part)
        copies.append(part.clone())
    assert len(parts) > 4
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


def test_variation_i_is_a_run_with_seed_plus_i(lm: LanguageModel) -> None:
    context = codes(20, 1)
    together = song(lm, context, GenerationConfig(seed=10, variations=3), text=a_text())
    for i in range(3):
        alone = song(lm, context, GenerationConfig(seed=10 + i), text=a_text())
        assert torch.equal(together[i : i + 1], alone), i
    assert not torch.equal(together[0], together[1])


def test_seeds(lm: LanguageModel) -> None:
    context = codes(20, 1)
    first = song(lm, context, GenerationConfig(seed=1))
    torch.manual_seed(99)  # torch's own generator has no part in it
    assert torch.equal(song(lm, context, GenerationConfig(seed=1)), first)
    assert not torch.equal(song(lm, context, GenerationConfig(seed=2)), first)


def test_a_longer_song_starts_with_the_same_numbers() -> None:
    assert torch.equal(uniform_numbers(7, 2, K, 50)[:, :, :20], uniform_numbers(7, 2, K, 20))
    assert torch.equal(uniform_numbers(7, 2, K, 20)[1:], uniform_numbers(8, 1, K, 20))
    numbers = uniform_numbers(0, 1, K, 20_000)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.005)


def test_three_ways_to_be_greedy(lm: LanguageModel) -> None:
    context = codes(15, 1)
    greedy = song(lm, context, GenerationConfig(temperature=0.0))
    for config in (GenerationConfig(top_k=1), GenerationConfig(top_p=1e-9), GenerationConfig(temperature=1e-6)):
        assert torch.equal(song(lm, context, config), greedy)
    assert torch.equal(song(lm, context, GenerationConfig(temperature=0.0, seed=1)), greedy)
    assert not torch.equal(song(lm, context, GenerationConfig()), greedy)


def _rows_fed(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> list[tuple[int, int]]:
    """(rows, steps) of each forward pass."""
    fed: list[tuple[int, int]] = []

    def counted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def count(tokens: Tensor, *others: Any) -> Tensor:
            fed.append((tokens.shape[0], tokens.shape[2]))
            return forward(tokens, *others)

        return count

    with monkeypatch.context() as patch:
        for name in ("prefill", "advance"):
            patch.setattr(lm, name, counted(getattr(lm, name)))
        run()
    return fed


def test_work_that_is_not_done(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, how: type[PlainSteps | StaticSteps]
) -> None:
    """Without guidance no unconditional rows; the context once for all variations; no step after the last token."""
    separator, context, known = lm.config.separator, codes(9, 1), codes(2, 2, B=3)
    uniforms = uniform_numbers(0, 3, K, 8)

    def fed(**options: float) -> list[tuple[int, int]]:
        config = GenerationConfig(**options)  # ty: ignore[invalid-argument-type]
        return _rows_fed(lm, monkeypatch, lambda: decode_window(lm, context, known, uniforms, config, text=a_text()))

    # STAGE feeds steps 1 to 9 of the context (step 0 is masked, step 10 goes with what follows); MusicGen 0 to 8.
    prefill = (1, 9)
    steps = [(3, 3)] + [(3, 1)] * (8 + K - 1 - 2 - 1)
    if how is StaticSteps:  # a recorded step feeds one
        steps = [(3, 2), (3, 1), *steps[1:]]
    assert fed(guidance=1.0) == [prefill, *steps]
    guided = [(6, size) for _, size in steps]
    # The unconditional row of STAGE has no context to prefill.
    assert fed(guidance=3.0) == ([prefill, *guided] if separator else [prefill, prefill, *guided])


def test_no_unconditional_rows_where_they_would_be_the_same(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, uniforms, config = codes(0, 1), uniform_numbers(0, 1, K, 5), GenerationConfig(guidance=3.0)
    fed = _rows_fed(lm, monkeypatch, lambda: decode_window(lm, empty, empty, uniforms, config))
    assert {rows for rows, _ in fed} == {1}


def test_guidance_changes_the_tokens(lm: LanguageModel) -> None:
    context = codes(15, 1)
    found = [song(lm, context, GenerationConfig(temperature=0.0, guidance=g), text=a_text()) for g in (1.0, 3.0, 10.0)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_progress_counts_frames(lm: LanguageModel) -> None:
    seen: list[int] = []
    song(lm, codes(30, 1), GenerationConfig(), continuation=codes(4, 2), on_frames=seen.append)
    assert seen == sorted(seen)
    assert seen[0] == 4
    assert seen[-1] == 30
    assert set(seen) == set(range(4, 31))


def test_cancelling_breaks_nothing(lm: LanguageModel) -> None:
    context, config = codes(30, 1), GenerationConfig(seed=3)
    expected = song(lm, context, config)
    weights = {name: tensor.clone() for name, tensor in lm.state_dict().items()}

    def stop_at_20(frames: int) -> None:
        if frames >= 20:
            raise Cancelled

    parts = generate_song(lm, context, config, window=WINDOW, on_frames=stop_at_20)
    whole = [next(parts), next(parts)]
    assert torch.equal(torch.cat(whole, dim=2), expected[:, :, :18])
    with pytest.raises(Cancelled):
        next(parts)
    assert list(parts) == []
    assert all(torch.equal(tensor, weights[name]) for name, tensor in lm.state_dict().items())
    assert torch.equal(song(lm, context, config), expected)


def test_a_song_of_no_frames(lm: LanguageModel) -> None:
    assert list(generate_song(lm, codes(0, 1), GenerationConfig(), window=WINDOW)) == []


def test_the_context_matters(lm: LanguageModel) -> None:
    config = GenerationConfig(temperature=0.0)
    assert not torch.equal(song(lm, codes(20, 1), config), song(lm, codes(20, 2), config))
